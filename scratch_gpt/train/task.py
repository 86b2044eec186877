"""What the loop asks of a task: what a batch is, and what is minimised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DataState:
    """Where the data stands: the next row of an epoch (or batch, where the task says so). The order follows from this
    and the seed."""

    epoch: int = 0
    row: int = 0


class Task(Protocol):
    """A task knows batches and losses; steps, precision, saving and reporting are the loop's."""

    figures: tuple[str, ...]  # the names of what `evaluate` returns and a best model can be picked by

    def batches(self, state: DataState) -> Iterator[tuple[Batch, DataState]]:
        """This process's share of the batches from `state` on, without end, each with the state behind it."""

    def batches_left(self, state: DataState, epochs: float) -> int:
        """How many batches each process takes between `state` and the end of so many epochs."""

    def count(self, batch: Batch) -> int:
        """How many tokens the loss of this batch scores; the loop divides by the sum over the whole step."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The sum of the losses of the scored tokens."""

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Named figures over the whole validation split, weighted by tokens; "val_loss" is one of them."""

    def sample(self, model: torch.nn.Module) -> str | None:
        """A taste of what the model can do so far, for people to read."""

    def state_dict(self) -> dict[str, Any]:
        """What only the task knows and a resume needs, as plain numbers and strings."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def items_left(items_of_epoch: Callable[[int], int], state: DataState, epochs: float) -> int:
    """How many rows or batches lie between `state` and the end of so many epochs."""
    whole, part = int(epochs), epochs - int(epochs)
    items = sum(items_of_epoch(epoch) for epoch in range(state.epoch, whole)) - state.row
    return max(0, items + (math.ceil(part * items_of_epoch(whole)) if part else 0))
