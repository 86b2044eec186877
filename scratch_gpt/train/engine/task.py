"""What the training loop asks of a task: what a batch is, and what is minimised."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedType

from ...data.batching.bucketing import Buckets
from ...errors import ScratchError
from ...metrics import Metric, Panel

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DataState:
    """Where the data stands: the next row of an epoch (or batch, where the task says so). The order follows from this
    and the seed."""

    epoch: int = 0
    row: int = 0


class Task(Protocol):
    """A task knows batches and losses; steps, precision, saving and reporting belong to the loop."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `evaluate` returns and can select the best model."""

    @property
    def details(self) -> tuple[Metric, ...]:
        """What `evaluate` may return beside them."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Panels of the plot of a run; without any, it shows the losses."""

    unit: str  # what the loss is a mean of: "token", "text" or "pair"
    evaluates_first: bool  # whether the untrained model is evaluated and can be the best
    fixed_shape: bool  # whether all batches have the same shape
    fsdp_obstacle: str | None  # why the task can't train with sharded weights (FSDP); None where it can

    def batches(self, state: DataState) -> Iterator[tuple[Batch, DataState]]:
        """This process's share of the batches from `state` on, without end, each with the state after it."""

    def batches_left(self, state: DataState, epochs: float) -> int:
        """How many batches each process takes between `state` and the end of so many epochs."""

    def count(self, batch: Batch) -> int:
        """How many tokens the loss of this batch scores, which may be none; the loop divides by the sum over the whole
        step."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The sum of the losses of the scored tokens; 0, with a gradient of zeros, where none is scored."""

    def training_metrics(self) -> dict[str, float]:
        """Metrics of the training steps since the last call, beside the loss."""

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Metrics by name over the whole validation split, weighted by tokens; "val_loss" is one of them. A mean over
        nothing is NaN, which the loop neither records nor takes for the best."""

    def sample(self, model: torch.nn.Module) -> str | None:
        """A sample of the model's output, for people to read; None where there is nothing to show."""

    def state_dict(self) -> dict[str, Any]:
        """State of the task that a resume needs, as plain numbers and strings."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def check_sharding(task: Task | type[Task], accelerator: Accelerator) -> None:
    """Refuse FSDP for a task that can't train with sharded weights.

    Args:
        task: the task, or its class where that is enough to tell.

    Raises:
        ScratchError: the weights are sharded, and `fsdp_obstacle` says why the task can't have that.
    """
    if accelerator.distributed_type == DistributedType.FSDP and task.fsdp_obstacle is not None:
        raise ScratchError(f"{task.fsdp_obstacle}, which FSDP can't: use data parallelism")


def items_left(items_of_epoch: Callable[[int], int], state: DataState, epochs: float) -> int:
    """How many rows or batches lie between `state` and the end of so many epochs."""
    whole, part = int(epochs), epochs - int(epochs)
    items = sum(items_of_epoch(epoch) for epoch in range(state.epoch, whole)) - state.row
    return max(0, items + (math.ceil(part * items_of_epoch(whole)) if part else 0))


def shard_batches(
    batches_of_epoch: Callable[[int], int], state: DataState, process: int, processes: int
) -> Iterator[tuple[int, int, DataState]]:
    """Epoch and number of one batch after the other, in the order of the stream of all epochs, dealt out in turn to the
    processes; with the state after it, whose `row` counts batches."""
    epoch, number = state.epoch, state.row
    while True:
        dealt: list[tuple[int, int]] = []
        while len(dealt) < processes:
            dealt.append((epoch, number))
            epoch, number = (epoch + 1, 0) if number + 1 == batches_of_epoch(epoch) else (epoch, number + 1)
        yield *dealt[process], DataState(epoch, number)


class BucketTask(ABC):
    """What tasks have in common whose batches `data.buckets` plans. A subclass sets `accelerator` and `train`."""

    accelerator: Accelerator
    train: Buckets
    details: tuple[Metric, ...] = ()
    panels: tuple[Panel, ...] = ()
    evaluates_first = False
    fixed_shape = False
    fsdp_obstacle: str | None = "each process validates on batches of its own"

    @abstractmethod
    def make_batch(self, epoch: int, number: int) -> Batch:
        """The batch with this number in the plan of an epoch."""

    def batches_left(self, state: DataState, epochs: float) -> int:
        batches = items_left(self._batches_of_epoch, state, epochs)
        return math.ceil(batches / self.accelerator.num_processes)

    def batches(self, state: DataState) -> Iterator[tuple[Batch, DataState]]:
        processes = self.accelerator.num_processes
        for epoch, number, after in shard_batches(
            self._batches_of_epoch, state, self.accelerator.process_index, processes
        ):
            yield self.make_batch(epoch, number), after

    def _batches_of_epoch(self, epoch: int) -> int:
        return len(self.train.plan(epoch))

    def count(self, batch: Batch) -> int:
        return int((batch["labels"] != -100).sum())

    def training_metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state
