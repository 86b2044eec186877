"""The one training loop: steps, accumulation, precision, clipping, evaluation, saving, stopping and reporting.

It knows no task; see task.py for what it asks of one.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from ...atomic_files import replacing, write_text
from ...errors import RunInterruptedError, ScratchError, TrainingError
from ...evaluation.processes import sum_over_processes
from ...hub.model_directory import ModelDirectory
from ...metrics import find_metric
from ..arguments.training import TrainingArguments
from ..checkpoints.background_writer import BackgroundWriter, in_memory
from ..checkpoints.checkpoint import (
    Optimizers,
    Snapshot,
    checkpoint_folders,
    load_training_state,
    remove_partial,
    take_snapshot,
    unwrapped,
    write_best,
    write_checkpoint,
)
from ..optim.ema import MovingAverage
from ..optim.schedules import learning_rate_factor
from ..performance.compile_blocks import compile_blocks
from .plots import plot_run
from .reporting import Reporter
from .run_directory import read_metrics
from .signals import Interruption
from .task import DataState, Task, check_sharding

FAILURE, RECENT_STEPS = "failure.json", 20
# What the state of another run, or a file that is none, may raise.
UNFIT_STATE = (
    OSError,
    SafetensorError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)


@dataclass
class Progress:
    """What the loop counts; a checkpoint holds it."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # spent in steps
    data: DataState = field(default_factory=DataState)
    best_metric: float | None = None  # of --metric_for_best_model
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped_early: bool = False


def check_state(progress: Progress) -> None:
    """Check the types of what a checkpoint says was done.

    Raises:
        ValueError: a field is not as `Progress` has it.
    """
    data = progress.data
    counts = [progress.step, progress.tokens, progress.best_step, progress.evaluations_since_best, data.epoch, data.row]
    if not all(isinstance(count, int) and 0 <= count < 2**53 for count in counts):
        raise ValueError(f"its counters are {counts}, want integers of at least 0")
    numbers = (progress.seconds, progress.best_metric or 0.0)
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"its numbers are {numbers}, want finite ones")
    if not isinstance(progress.stopped_early, bool):
        raise ValueError(f"its stopped_early is {progress.stopped_early!r}, want true or false")


class Trainer:
    """Runs a task.

    Args:
        accelerator: processes, device and precision.
        model: an unprepared model in float32.
        optimizers: over the parameters of `model`, each group with its "peak_lr".
        task: batches and losses.
        args: how to train.
        directory: writes model directories.
        folder: of the run.
        resume_from: a checkpoint whose weights `model` already has.

    Raises:
        ScratchError: the weights are to be sharded, and the task can't have that.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizers: Optimizers,
        task: Task,
        args: TrainingArguments,
        directory: ModelDirectory,
        folder: Path,
        resume_from: Path | None = None,
    ):
        check_sharding(task, accelerator)
        self.accelerator, self.task, self.args = accelerator, task, args
        self.directory, self.folder, self.writer = directory, folder, BackgroundWriter()
        if accelerator.is_main_process:
            remove_partial(self.folder)
        self.model, *self.optimizers = accelerator.prepare(model, *optimizers)
        self.average = MovingAverage(self.model, args.average_decay) if args.average_decay else None
        self.interruption, self.stopping = Interruption(), False
        metric = find_metric(task.metrics, args.metric_for_best_model)
        assert metric is not None
        self.metric = metric
        self.norms: deque[dict[str, float]] = deque(maxlen=RECENT_STEPS)
        self.progress = Progress()
        if resume_from is not None:
            self._resume(resume_from)
        batches_left = 0 if args.max_steps else task.batches_left(self.progress.data, args.epochs)
        steps_left = math.ceil(batches_left / args.gradient_accumulation_steps)
        self.total_steps = args.max_steps or self.progress.step + steps_left
        compile_blocks(self.model, args.compile, self.total_steps, task.fixed_shape)

    def _resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint, whose numbers may be anything.

        Raises:
            ScratchError: it does not hold the state of such a run.
        """
        try:
            numbers = load_training_state(checkpoint, self.accelerator, self.model, self.optimizers, self.average)
            self.task.load_state_dict(numbers.pop("task"))
            loop = numbers.pop("loop")
            self.progress = Progress(**{**loop, "data": DataState(**loop["data"])})
            check_state(self.progress)
        except UNFIT_STATE as error:
            raise ScratchError(
                f"checkpoint {checkpoint} can't be resumed: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error

    def run(self) -> Progress:
        """Train to the end; afterwards the run's directory holds the best model.

        Raises:
            TrainingError: a loss or gradient is not finite, before the step that it would have spoilt (what led to it
                stands in `failure.json`), or a checkpoint can't be written.
            RunInterruptedError: SIGINT or SIGTERM came; the run is saved.
        """
        args, progress = self.args, self.progress
        save_every = args.eval_every if args.save_every is None else args.save_every
        batches = self.task.batches(progress.data)
        meter, row = _Meter(), dict[str, Any]()
        main = self.accelerator.is_main_process
        reporter = Reporter(self.folder, self.total_steps, progress.step, main, self.task)
        with self.interruption, self.writer, reporter:
            if progress.step == 0 and self.task.evaluates_first:
                row = {"step": 0, "tokens": 0, "seconds": 0.0, **self.evaluate()}
                reporter.record(row)
                self._track(row)
                self._judge(row)
            while progress.step < self.total_steps and not progress.stopped_early and not self.stopping:
                row = meter.add(*self._step(batches))
                last = progress.step == self.total_steps
                if progress.step % args.log_every == 0 or last:
                    reporter.live(progress.step, row)
                evaluate = last or (args.eval_every > 0 and progress.step % args.eval_every == 0)
                if evaluate:
                    row |= self.evaluate()
                if evaluate or progress.step % args.log_every == 0:
                    row |= self.task.training_metrics()
                    counted = {"step": progress.step, "tokens": progress.tokens, "seconds": progress.seconds}
                    reporter.record({**counted, **row})
                    self._track(row)
                    meter = _Meter()
                if evaluate:
                    self._judge(row)
                ends = last or progress.stopped_early or self.stopping
                if ends or (save_every and progress.step % save_every == 0):
                    self._save()
        self.accelerator.wait_for_everyone()
        if self.stopping and progress.step < self.total_steps:
            raise RunInterruptedError(
                f"stopped by a signal after step {progress.step}, which is saved: go on with --resume",
                self.interruption.signal or signal.SIGTERM,  # 0 where another process received it
            )
        return progress

    def advance(self, steps: int) -> None:
        """Take so many steps, and nothing else."""
        batches = self.task.batches(self.progress.data)
        for _ in range(steps):
            self._step(batches)

    def save_now(self) -> Path:
        """Save, wait until it is written, and say where."""
        self._save()
        self.writer.wait()
        return checkpoint_folders(self.folder)[-1]

    def evaluate(self) -> dict[str, Any]:
        """Metrics on the validation split, and a sample."""
        self.model.eval()
        with self.averaged(), torch.compiler.set_stance("force_eager"):
            row: dict[str, Any] = self.task.evaluate(self.model)
            try:
                sample = self.task.sample(unwrapped(self.accelerator, self.model))
            except ScratchError as error:  # a sample is only shown, and is no reason to lose the run
                sample = f"(no sample: {error})"
            if sample:
                row["sample"] = sample
        return row

    def _step(self, batches: Any) -> tuple[float, int, dict[str, float]]:
        """One optimizer step: the sum of losses, the count of scored tokens, and metrics of the step itself. Where no
        token is scored, loss and gradient are 0."""
        started = time.perf_counter()
        self.model.train()
        micro_batches, data = [], self.progress.data
        for _ in range(self.args.gradient_accumulation_steps):
            batch, data = next(batches)
            micro_batches.append(batch)
        device, processes = self.accelerator.device, self.accelerator.num_processes
        (count,) = sum_over_processes(self.accelerator, sum(self.task.count(batch) for batch in micro_batches))
        total = 0.0
        for i, batch in enumerate(micro_batches):
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            syncs = i + 1 == len(micro_batches)
            with nullcontext() if syncs else self.accelerator.no_sync(self.model):
                loss = self.task.loss(self.model, batch)
                # Gradients are averaged over processes, so that this divides by the count of scored tokens of all.
                self.accelerator.backward(loss * (processes / max(count, 1)))
            total += loss.item()
        total, signals = sum_over_processes(self.accelerator, total, self.interruption.signal)
        self.stopping = signals > 0
        grad_norm = float(
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm or math.inf)
        )
        factor = learning_rate_factor(self.progress.step, self.total_steps, self.args)
        self.norms.append({"step": self.progress.step + 1, "loss": total / max(count, 1), "grad_norm": grad_norm})
        if not (math.isfinite(total) and math.isfinite(grad_norm)):
            self._fail(data, factor)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model, self.progress.step)
        self.progress.step += 1
        self.progress.tokens += int(count)
        self.progress.data = data
        self.progress.seconds += time.perf_counter() - started
        metrics = {"learning_rate": self.optimizers[-1].param_groups[0]["lr"], "grad_norm": grad_norm}
        return total, int(count), {**metrics, "step_seconds": time.perf_counter() - started}

    def _fail(self, data: DataState, factor: float) -> None:
        """Leave in `failure.json` what led to a loss or gradient that is not finite, and stop."""
        rates = sorted({group["peak_lr"] * factor for o in self.optimizers for group in o.param_groups})
        record = {
            "step": self.progress.step + 1,
            "batches": {"from": asdict(self.progress.data), "to": asdict(data), "seed": self.args.seed},
            "learning_rates": rates,
            # JSON knows no infinity.
            "last_steps": [{k: v if math.isfinite(v) else str(v) for k, v in row.items()} for row in self.norms],
        }
        if self.accelerator.is_main_process:
            write_text(self.folder / FAILURE, json.dumps(record, indent=1) + "\n")
        last = self.norms[-1]
        raise TrainingError(
            f"step {last['step']}: loss {last['loss']:.4g}, gradient norm {last['grad_norm']:.4g}; the weights were "
            f"left as they stood, and {self.folder / FAILURE} says which batches these were: lower the learning rate, "
            "or go on from a checkpoint"
        )

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are evaluated and published: the average, if there is one."""
        return nullcontext() if self.average is None else self.average.swapped_in(self.model)

    def _judge(self, row: dict[str, Any]) -> None:
        """Publish the model if it is the best so far; stop if none has been for long.

        A metric that is not finite is never the best. Until one is finite, the latest model is published.
        """
        progress, patience, metric = self.progress, self.args.early_stopping_patience, self.metric
        value, best = row.get(metric.name, math.nan), progress.best_metric
        if math.isfinite(value) and (best is None or metric.is_better(value, best)):
            progress.best_metric, progress.best_step = value, progress.step
            progress.evaluations_since_best = 0
            self._publish()
            return
        if best is None:
            progress.best_step = progress.step
            self._publish()
        progress.evaluations_since_best += 1
        progress.stopped_early = patience is not None and progress.evaluations_since_best >= patience

    def _publish(self) -> None:
        """Make the run's directory a model directory with the current weights, asynchronously."""
        self.writer.wait()
        with self.averaged():
            weights = self.accelerator.get_state_dict(self.model)
            if self.accelerator.is_main_process:
                card = self.directory.card()
                published = in_memory(self.directory.published(weights))
                self.writer.submit(write_best, self.folder, published, card, self.directory.write)

    def _save(self) -> None:
        """Copy the state; a background thread writes it, and then plots the metrics."""
        self.writer.wait()
        numbers = {"loop": asdict(self.progress), "task": self.task.state_dict()}
        snapshot = take_snapshot(
            self.progress.step,
            self.accelerator,
            self.model,
            self.optimizers,
            numbers,
            self.directory.published,
            self.average,
        )
        if self.accelerator.is_main_process:
            self.writer.submit(self._write_checkpoint, snapshot)

    def _write_checkpoint(self, snapshot: Snapshot) -> None:
        write_checkpoint(self.folder, snapshot, self.directory.write, self.args.keep_last)
        if rows := read_metrics(self.folder):
            with replacing(self.folder / "loss.png") as picture:
                plot_run(rows, picture, self.directory.title, self.task)

    def _track(self, row: dict[str, Any]) -> None:
        if self.args.tracker:
            metrics = {n: value for n, value in row.items() if isinstance(value, float) and math.isfinite(value)}
            self.accelerator.log({"tokens": self.progress.tokens, **metrics}, step=self.progress.step)


class _Meter:
    """Means since the last row: losses by token, speed by time spent in steps. There is no `train_loss` where no token
    was scored."""

    def __init__(self) -> None:
        self.total, self.count, self.seconds = 0.0, 0, 0.0

    def add(self, total: float, count: int, metrics: dict[str, float]) -> dict[str, float]:
        self.total, self.count = self.total + total, self.count + count
        self.seconds += metrics.pop("step_seconds")
        loss = {"train_loss": self.total / self.count} if self.count else {}
        return {**loss, **metrics, "tokens_per_second": self.count / self.seconds}
