"""Saving of a run: its checkpoints, and the best model in its directory.

The first process copies a small state in memory, and a background thread writes it while training goes on. A large one
and sharded weights are written before training goes on, tensor by tensor, so that saving takes little memory; sharded
ones by all processes or, into the directory of the best model, by the first one, while the others send their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ...atomic_files import replacing
from ...hub.model_directory import ModelDirectory
from ...hub.tensor_files import ALONE, Writers, first_of_tied, whole
from ..checkpoints.background_writer import BackgroundWriter, in_memory
from ..checkpoints.checkpoint import WriteModel, write_best, write_checkpoint, write_sharded_checkpoint
from ..checkpoints.snapshot import Snapshot, take_snapshot, trained_weights
from ..optim.ema import MovingAverage
from ..optim.optimizer_states import Optimizers
from .plots import plot_run
from .run_directory import read_metrics
from .sharding import is_sharded
from .task import Task

MAX_COPY = 1 << 30  # bytes of a state that is copied in memory: a larger one could take up as much as training itself


class Saver:
    """Saves a run; every process has one, and must call the same methods.

    Args:
        accelerator: processes.
        model: the prepared model.
        optimizers: over its parameters.
        directory: writes model directories.
        folder: directory of the run.
        writer: writes in the background.
        task: titles and panels of the plot.
        keep_last: number of checkpoints to keep.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizers: Optimizers,
        directory: ModelDirectory,
        folder: Path,
        writer: BackgroundWriter,
        task: Task,
        keep_last: int,
    ):
        self.accelerator, self.model, self.optimizers = accelerator, model, optimizers
        self.directory, self.folder, self.writer = directory, folder, writer
        self.task, self.keep_last = task, keep_last
        self.sharded = is_sharded(accelerator)

    @torch.no_grad()
    def publish(self) -> None:
        """Write the current weights into the run's directory.

        Raises:
            TrainingError: the previous write failed, or with sharded weights this one.
        """
        self.writer.wait()
        main = self.accelerator.is_main_process
        if not (self.sharded or main):
            return
        trained = trained_weights(self.accelerator, self.model)
        weights = first_of_tied(self.directory.published(trained))
        in_background = not self.sharded and sum(weight.nbytes for weight in weights.values()) <= MAX_COPY
        writers = Writers(self.accelerator.process_index)
        write = self._with_adapter(self.directory.write_published, trained, writers)
        if in_background:
            self.writer.submit(write_best, self.folder, in_memory(weights), self.directory.card(), write)
        elif main:
            write_best(self.folder, weights, self.directory.card(), write)
        else:
            write(self.folder, weights)

    def save(self, step: int, numbers: dict[str, Any], average: MovingAverage | None) -> None:
        """Write a checkpoint; arguments as of `take_snapshot`.

        Raises:
            TrainingError: the previous write failed, or with sharded weights this one.
        """
        self.writer.wait()
        published = self.directory.published
        snapshot = take_snapshot(step, self.accelerator, self.model, self.optimizers, numbers, published, average)
        write_model = self._with_adapter(self.directory.write, snapshot.unpublished, snapshot.writers)
        if self.sharded:
            write_sharded_checkpoint(self.folder, snapshot, write_model, self.keep_last)
        if not self.accelerator.is_main_process:
            return
        in_background = not self.sharded and snapshot.num_bytes <= MAX_COPY
        if not (self.sharded or in_background):
            write_checkpoint(self.folder, snapshot, write_model, self.keep_last)
        self.writer.submit(self._finish, snapshot.copied() if in_background else None, write_model)

    def _with_adapter(
        self, write: Callable[..., dict[str, str]], trained: dict[str, torch.Tensor], writers: Writers = ALONE
    ) -> WriteModel:
        """A function that writes a model directory, with the adapter among the trained weights if there is one."""
        if (adapter := self.directory.adapter) is None:
            return partial(write, writers=writers)
        adapted = {name: whole(tensor) for name, tensor in adapter.select(trained).items()}
        return partial(write, adapted=in_memory(adapted), writers=writers)

    def _finish(self, snapshot: Snapshot | None, write_model: WriteModel) -> None:
        """Write a checkpoint, if it is not written yet, and the plot."""
        if snapshot is not None:
            write_checkpoint(self.folder, snapshot, write_model, self.keep_last)
        if rows := read_metrics(self.folder):
            with replacing(self.folder / "loss.png") as image:
                plot_run(rows, image, self.directory.title, self.task)
