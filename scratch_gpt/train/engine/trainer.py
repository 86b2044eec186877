"""The training loop: steps, accumulation, precision, clipping, evaluation, saving, stopping and reporting.

It is independent of the task; task.py defines the interface between the two.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from ...atomic_files import write_text
from ...errors import RunInterruptedError, ScratchError, TrainingError
from ...evaluation.general_text import BEFORE, GeneralText
from ...evaluation.processes import sum_over_processes
from ...hub.model_directory import ModelDirectory
from ...metrics import find_metric
from ..arguments.training import TrainingArguments
from ..checkpoints.background_writer import BackgroundWriter
from ..checkpoints.checkpoint import (
    checkpoint_folders,
    remove_partial,
)
from ..checkpoints.snapshot import load_training_state, trained_weights, unwrapped
from ..optim.ema import MovingAverage
from ..optim.optimizer_states import Optimizers
from ..optim.schedules import learning_rate_factor
from ..performance.compile_blocks import compile_blocks
from .film import Film, is_film_step
from .reporting import Reporter
from .saving import Saver
from .sharding import prepare, weights_for_evaluation
from .signals import Interruption
from .task import Batch, DataState, Task
from .training_state import TrainingState, check_state

Batches = Iterator[tuple[Batch, DataState]]

FAILURE, RECENT_STEPS = "failure.json", 20
# Errors that loading the state of another run, or a malformed file, can raise.
INVALID_STATE_ERRORS = (
    OSError,
    SafetensorError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)


class Trainer:
    """Trains a model on a task.

    Args:
        accelerator: processes, device and precision.
        model: model in float32, not yet prepared by `accelerator`; sharded if the weights are to be.
        optimizers: over the parameters of `model`; each parameter group has a "peak_lr".
        task: batches, losses and evaluation.
        args: training arguments.
        directory: writes model directories.
        folder: directory of the run.
        resume_from: checkpoint whose weights `model` already has.
        general_text: text on which the loss is measured too, also before the first step.

    Raises:
        ScratchError: the checkpoint can't be resumed.
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
        general_text: GeneralText | None = None,
    ):
        self.accelerator, self.task, self.args = accelerator, task, args
        self.directory, self.folder, self.writer = directory, folder, BackgroundWriter()
        self.general_text = general_text
        if accelerator.is_main_process:
            remove_partial(self.folder)
        self.model, *self.optimizers = prepare(accelerator, model, optimizers)
        self.saver = Saver(
            accelerator, self.model, self.optimizers, directory, folder, self.writer, task, args.keep_last
        )
        self.average = MovingAverage(self.model, args.average_decay) if args.average_decay else None
        self.interruption, self.stopping = Interruption(), False
        metric = find_metric(task.metrics, args.metric_for_best_model)
        assert metric is not None
        self.metric = metric
        self.recent_steps: deque[dict[str, float]] = deque(maxlen=RECENT_STEPS)
        self.state = TrainingState()
        if resume_from is not None:
            self._resume(resume_from)
        batches_left = 0 if args.max_steps else task.batches_left(self.state.data, args.epochs)
        steps_left = math.ceil(batches_left / args.gradient_accumulation_steps)
        self.total_steps = args.max_steps or self.state.step + steps_left
        span = self.state.step, self.total_steps
        self.film = Film(folder, directory, self.writer, *span, args.film, accelerator.is_main_process)
        compile_blocks(self.model, args.compile, self.total_steps, task.fixed_shape)

    def _resume(self, checkpoint: Path) -> None:
        """Restore the state from a checkpoint, which is not trusted to be valid.

        Raises:
            ScratchError: it does not hold the state of such a run.
        """
        try:
            numbers = load_training_state(checkpoint, self.accelerator, self.model, self.optimizers, self.average)
            self.task.load_state_dict(numbers.pop("task"))
            if self.general_text is not None and (before := numbers.get(BEFORE)) is not None:
                self.general_text.before = float(before)
            loop = numbers.pop("loop")
            self.state = TrainingState(**{**loop, "data": DataState(**loop["data"])})
            check_state(self.state)
        except INVALID_STATE_ERRORS as error:
            raise ScratchError(
                f"checkpoint {checkpoint} can't be resumed: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error

    def run(self) -> TrainingState:
        """Train to the end; afterwards the run's directory holds the best model.

        Raises:
            TrainingError: a loss or gradient is not finite, which stops the run before the weights are updated
                (`failure.json` records the last steps), or a checkpoint can't be written.
            RunInterruptedError: SIGINT or SIGTERM was received; the run is saved.
        """
        main = self.accelerator.is_main_process
        reporter = Reporter(self.folder, self.total_steps, self.state.step, main, self.task)
        with self.interruption, self.writer, reporter:
            if self.general_text is not None and self.state.step == 0:
                with self._evaluating():
                    self.general_text.before = self.general_text.loss(self.accelerator, self.model)
            if self.state.step == 0 and self.task.evaluates_first:
                row = {**self._counters(), **self.evaluate()}
                self._record(reporter, row)
                self._update_best(row)
            self._train(reporter)
        self.accelerator.wait_for_everyone()
        if self.stopping and self.state.step < self.total_steps:
            raise RunInterruptedError(
                self.state.step,
                self.interruption.signal or signal.SIGTERM,  # 0 if another process received it
            )
        return self.state

    def _train(self, reporter: Reporter) -> None:
        """The training loop: step, log, evaluate, save."""
        args, state = self.args, self.state
        save_every = args.eval_every if args.save_every is None else args.save_every
        batches, averages = self.task.batches(state.data), _LogAverages()
        self._keep_frame()
        while not self.is_finished():
            row: dict[str, Any] = averages.add(*self._step(batches))
            self._keep_frame()
            last = state.step == self.total_steps
            logs = state.step % args.log_every == 0
            evaluates = last or (args.eval_every > 0 and state.step % args.eval_every == 0)
            if logs or last:
                reporter.live(state.step, row)
            if evaluates:
                row |= self.evaluate()
            if evaluates or logs:
                row |= self.task.training_metrics()
                self._record(reporter, row)
                averages = _LogAverages()
            if evaluates:
                self._update_best(row)
            if self.is_finished() or (save_every and state.step % save_every == 0):
                self._save()
        self._keep_frame(last=state.step == self.total_steps or state.stopped_early)

    def _keep_frame(self, last: bool = False) -> None:
        """Write the weights that would be published into the film of the run, if it has this step."""
        if self.args.film and (last or is_film_step(self.state.step)):
            with self.averaged():
                self.film.write(self.state.step, trained_weights(self.accelerator, self.model))

    def is_finished(self) -> bool:
        """Whether the last step was taken, or the run is stopped."""
        return self.state.step >= self.total_steps or self.state.stopped_early or self.stopping

    def advance(self, steps: int) -> None:
        """Take this number of optimizer steps, without logging, evaluation or saving."""
        batches = self.task.batches(self.state.data)
        for _ in range(steps):
            self._step(batches)

    def save_now(self) -> Path:
        """Save a checkpoint, wait until it is written, and return its directory."""
        self._save()
        self.writer.wait()
        return checkpoint_folders(self.folder)[-1]

    def evaluate(self) -> dict[str, Any]:
        """Return the metrics on the validation split, and a sample, of the model as it would be published."""
        own = unwrapped(self.accelerator, self.model)
        with self.averaged(), self.directory.as_published(own), self._evaluating():
            row: dict[str, Any] = self.task.evaluate(self.model)
            if self.general_text is not None:
                row |= self.general_text.evaluate(self.accelerator, self.model)
            try:
                sample = self.task.sample(own)
            except ScratchError as error:  # a sample is only printed: its failure must not end the run
                sample = f"(no sample: {error})"
            if sample:
                row["sample"] = sample
        return row

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Context in which the model is in evaluation mode, uncompiled, with the weights that the task evaluates."""
        self.model.eval()
        whole = self.task.evaluates_whole
        with torch.compiler.set_stance("force_eager"), weights_for_evaluation(self.model, whole):
            yield

    def _step(self, batches: Batches) -> tuple[float, int, dict[str, float]]:
        """One optimizer step.

        Returns:
            The sum of the losses and the number of scored tokens over all processes, and metrics of the step. If no
            token is scored, loss and gradient are 0.
        """
        started = time.perf_counter()
        self.model.train()
        micro_batches, data = self._next_micro_batches(batches)
        total, count = self._forward_backward(micro_batches)
        grad_norm = float(
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm or math.inf)
        )
        factor = learning_rate_factor(self.state.step, self.total_steps, self.args)
        self.recent_steps.append({"step": self.state.step + 1, "loss": total / max(count, 1), "grad_norm": grad_norm})
        if not (math.isfinite(total) and math.isfinite(grad_norm)):
            self._fail(data, factor)
        self._update_weights(factor)
        self.state.step += 1
        self.state.tokens += count
        self.state.data = data
        self.state.seconds += time.perf_counter() - started
        metrics = {"learning_rate": self.optimizers[-1].param_groups[0]["lr"], "grad_norm": grad_norm}
        return total, count, {**metrics, "step_seconds": time.perf_counter() - started}

    def _next_micro_batches(self, batches: Batches) -> tuple[list[Batch], DataState]:
        """The batches of one optimizer step, and the state of the data after them."""
        micro_batches, data = [], self.state.data
        for _ in range(self.args.gradient_accumulation_steps):
            batch, data = next(batches)
            micro_batches.append(batch)
        return micro_batches, data

    def _forward_backward(self, micro_batches: list[Batch]) -> tuple[float, int]:
        """Accumulate the gradient of the mean loss per scored token; return the sum of the losses and the number of
        scored tokens, over all processes."""
        device, processes = self.accelerator.device, self.accelerator.num_processes
        (count,) = sum_over_processes(self.accelerator, sum(self.task.count(batch) for batch in micro_batches))
        total = 0.0
        for i, batch in enumerate(micro_batches):
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            is_last = i + 1 == len(micro_batches)
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                loss = self.task.loss(self.model, batch)
                # Gradients are averaged over processes: this makes it a division by the token count of all of them.
                self.accelerator.backward(loss * (processes / max(count, 1)))
            total += loss.item()
        total, signals = sum_over_processes(self.accelerator, total, self.interruption.signal)
        self.stopping = signals > 0
        return total, int(count)

    def _update_weights(self, learning_rate_factor: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * learning_rate_factor
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model, self.state.step)

    def _fail(self, data: DataState, learning_rate_factor: float) -> None:
        """Write `failure.json` with the steps before a loss or gradient that is not finite, and raise."""
        rates = sorted({group["peak_lr"] * learning_rate_factor for o in self.optimizers for group in o.param_groups})
        record = {
            "step": self.state.step + 1,
            "batches": {"from": asdict(self.state.data), "to": asdict(data), "seed": self.args.seed},
            "learning_rates": rates,
            # JSON has no infinity.
            "last_steps": [{k: v if math.isfinite(v) else str(v) for k, v in row.items()} for row in self.recent_steps],
        }
        if self.accelerator.is_main_process:
            write_text(self.folder / FAILURE, json.dumps(record, indent=1) + "\n")
        last = self.recent_steps[-1]
        raise TrainingError(
            f"step {last['step']}: loss {last['loss']:.4g}, gradient norm {last['grad_norm']:.4g}; the weights were "
            f"not updated, and {self.folder / FAILURE} records the batches of the step: lower the learning rate, or "
            "resume from a checkpoint"
        )

    def averaged(self) -> AbstractContextManager[None]:
        """Context in which the model has the weights that are evaluated and published: the moving average, if any."""
        return nullcontext() if self.average is None else self.average.swapped_in(self.model)

    def _update_best(self, row: dict[str, Any]) -> None:
        """Publish the model if it is the best so far; otherwise count the evaluation for early stopping.

        A metric that is not finite is never the best. Until one is finite, the latest model is published.
        """
        state, patience, metric = self.state, self.args.early_stopping_patience, self.metric
        value, best = row.get(metric.name, math.nan), state.best_metric
        if math.isfinite(value) and (best is None or metric.is_better(value, best)):
            state.best_metric, state.best_step = value, state.step
            state.evaluations_since_best = 0
            self._publish()
            return
        if best is None:
            state.best_step = state.step
            self._publish()
        state.evaluations_since_best += 1
        state.stopped_early = patience is not None and state.evaluations_since_best >= patience

    def _publish(self) -> None:
        with self.averaged():
            self.saver.publish()

    def _save(self) -> None:
        numbers: dict[str, Any] = {"loop": asdict(self.state), "task": self.task.state_dict()}
        if self.general_text is not None:
            numbers[BEFORE] = self.general_text.before
        self.saver.save(self.state.step, numbers, self.average)

    def _counters(self) -> dict[str, Any]:
        return {"step": self.state.step, "tokens": self.state.tokens, "seconds": self.state.seconds}

    def _record(self, reporter: Reporter, row: dict[str, Any]) -> None:
        """Write a row of metrics to `metrics.jsonl`, the console and the tracker."""
        reporter.record({**self._counters(), **row})
        if self.args.tracker:
            metrics = {n: value for n, value in row.items() if isinstance(value, float) and math.isfinite(value)}
            self.accelerator.log({"tokens": self.state.tokens, **metrics}, step=self.state.step)


class _LogAverages:
    """Averages since the last row of metrics: loss per token, and tokens per second of time spent in steps. There is
    no `train_loss` if no token was scored."""

    def __init__(self) -> None:
        self.total, self.count, self.seconds = 0.0, 0, 0.0

    def add(self, total: float, count: int, metrics: dict[str, float]) -> dict[str, float]:
        self.total, self.count = self.total + total, self.count + count
        self.seconds += metrics.pop("step_seconds")
        loss = {"train_loss": self.total / self.count} if self.count else {}
        return {**loss, **metrics, "tokens_per_second": self.count / self.seconds}
