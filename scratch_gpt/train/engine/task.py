"""The interface between the training loop and a task: batches, losses and evaluation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from ...data.batching.bucketing import Buckets
from ...metrics import Metric, Panel

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DataState:
    """Position in the training data. The batches that follow are a function of it and the seed.

    Attributes:
        epoch: counted from 0.
        row: next row of the epoch; next batch, for tasks that plan whole batches.
    """

    epoch: int = 0
    row: int = 0


class Task(Protocol):
    """A task defines batches, losses and evaluation; steps, precision, saving and reporting belong to the loop."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that `evaluate` returns; any of them can select the best model."""

    @property
    def details(self) -> tuple[Metric, ...]:
        """Further metrics that `evaluate` may return."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Panels of the plot of a run; if there are none, it shows the losses."""

    unit: str  # unit that the loss is averaged over: "token", "text" or "pair"
    evaluates_first: bool  # whether the untrained model is evaluated and can be the best
    fixed_shape: bool  # whether all batches have the same shape
    evaluates_whole: bool  # whether a process evaluates by itself, and so needs the whole weights if they are sharded

    def batches(self, state: DataState) -> Iterator[tuple[Batch, DataState]]:
        """Iterate endlessly over this process's batches from `state` on, each with the state after it."""

    def batches_left(self, state: DataState, epochs: float) -> int:
        """Number of batches per process from `state` to the end of `epochs`, which may be fractional."""

    def count(self, batch: Batch) -> int:
        """Number of scored tokens in a batch, possibly 0; the loop divides by their sum over the whole step."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the losses of the scored tokens; 0, with a gradient of zeros, if none is scored."""

    def training_metrics(self) -> dict[str, float]:
        """Metrics of the training steps since the last call, other than the loss."""

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Metrics by name over the whole validation split, weighted by tokens; "val_loss" is one of them. A mean of no
        values is NaN, which the loop neither records nor considers as the best."""

    def sample(self, model: torch.nn.Module) -> str | None:
        """A sample of the model's output, for people to read, or None."""

    def state_dict(self) -> dict[str, Any]:
        """State of the task that resuming needs, as JSON can hold it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""


def items_left(items_of_epoch: Callable[[int], int], state: DataState, epochs: float) -> int:
    """Number of rows or batches from `state` to the end of `epochs`, which may be fractional."""
    whole, part = int(epochs), epochs - int(epochs)
    items = sum(items_of_epoch(epoch) for epoch in range(state.epoch, whole)) - state.row
    return max(0, items + (math.ceil(part * items_of_epoch(whole)) if part else 0))


def shard_batches(
    batches_of_epoch: Callable[[int], int], state: DataState, process: int, processes: int
) -> Iterator[tuple[int, int, DataState]]:
    """Divide the stream of batches of all epochs among the processes, in turn.

    Args:
        batches_of_epoch: returns the number of batches of an epoch.
        state: where to start; its `row` counts batches.
        process: index of this process.
        processes: number of processes.

    Yields:
        Epoch and number of this process's next batch, and the state after it.
    """
    epoch, number = state.epoch, state.row
    while True:
        batches: list[tuple[int, int]] = []
        while len(batches) < processes:
            batches.append((epoch, number))
            epoch, number = (epoch + 1, 0) if number + 1 == batches_of_epoch(epoch) else (epoch, number + 1)
        yield *batches[process], DataState(epoch, number)


class BucketTask(ABC):
    """Base class of tasks whose batches are planned by `Buckets`. A subclass sets `accelerator` and `train`."""

    accelerator: Accelerator
    train: Buckets
    details: tuple[Metric, ...] = ()
    panels: tuple[Panel, ...] = ()
    evaluates_first = False
    fixed_shape = False
    evaluates_whole = True

    @abstractmethod
    def make_batch(self, epoch: int, number: int) -> Batch:
        """Build the batch with this number in the plan of an epoch."""

    def batches_left(self, state: DataState, epochs: float) -> int:
        """Number of batches per process from `state` to the end of `epochs`."""
        batches = items_left(self._batches_of_epoch, state, epochs)
        return math.ceil(batches / self.accelerator.num_processes)

    def batches(self, state: DataState) -> Iterator[tuple[Batch, DataState]]:
        """Iterate over this process's batches from `state` on, each with the state after it."""
        processes = self.accelerator.num_processes
        for epoch, number, after in shard_batches(
            self._batches_of_epoch, state, self.accelerator.process_index, processes
        ):
            yield self.make_batch(epoch, number), after

    def _batches_of_epoch(self, epoch: int) -> int:
        return len(self.train.plan(epoch))

    def count(self, batch: Batch) -> int:
        """Number of scored labels of the batch."""
        return int((batch["labels"] != -100).sum())

    def training_metrics(self) -> dict[str, float]:
        """Empty by default: no metrics other than the loss."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Empty by default: there is no state to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """By default, check that the state is empty."""
        assert not state
