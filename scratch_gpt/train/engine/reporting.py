"""Reports of a running training: a progress bar, evaluations on the console, and rows of `metrics.jsonl`."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

from ...evaluation import general_text
from ...terminal import SafeConsole
from .run_directory import METRICS, truncate_metrics
from .task import Task

LINE_EVERY = 30.0  # seconds between progress lines where there is no progress bar


class TimeLeft(TimeRemainingColumn):
    """The estimated time left, or nothing as long as it is unknown."""

    def render(self, task: ProgressTask) -> Text:
        """Render the column."""
        return Text("") if task.time_remaining is None else Text("left ") + super().render(task)


class Reporter:
    """Writes rows of metrics to the console and to `metrics.jsonl`, on the main process only.

    Args:
        folder: directory of the run.
        total_steps: optimizer steps of the whole run.
        step: optimizer steps already taken.
        enabled: whether this is the main process.
        task: provides the unit and the metrics.
    """

    def __init__(self, folder: Path, total_steps: int, step: int, enabled: bool, task: Task):
        self.folder, self.enabled, self.unit = folder, enabled, task.unit
        self.shown = [metric for metric in (*task.metrics, *task.details, general_text.METRIC) if metric.show]
        self.console = SafeConsole(quiet=not enabled)
        # Where nothing can be overwritten, such as in a file, there is a progress line now and then instead of the bar.
        self.has_bar = self.console.is_jupyter or (self.console.is_terminal and not self.console.is_dumb_terminal)
        self.total_steps, self.first_step = total_steps, step
        self.started = self.last_line = time.monotonic()
        self.progress = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeLeft(),
            console=self.console,
            disable=not (enabled and self.has_bar),
        )
        self.line = self.progress.add_task("warming up", total=total_steps, completed=step)
        if enabled:
            truncate_metrics(folder, step or -1)  # without a checkpoint, the run starts over

    def __enter__(self) -> Reporter:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def live(self, step: int, row: dict[str, float]) -> None:
        """Update the progress bar; without one, print a line if there was none for `LINE_EVERY` seconds."""
        speed = f"{row['tokens_per_second']:,.0f} {self.unit}s/s"
        loss = f"loss {row['train_loss']:.4f}" if "train_loss" in row else "nothing scored"
        text = f"{loss}  lr {row['learning_rate']:.1e}  {speed}"
        self.progress.update(self.line, completed=step, description=text)
        if not self.has_bar and time.monotonic() - self.last_line >= LINE_EVERY and step < self.total_steps:
            seconds = (time.monotonic() - self.started) / (step - self.first_step) * (self.total_steps - step)
            left = f"{seconds / 60:,.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
            self.progress.print(f"step {step:>6,} of {self.total_steps:,}  {loss}  {speed}  about {left} left")
            self.last_line = time.monotonic()

    def record(self, row: dict[str, Any]) -> None:
        """Append a row to `metrics.jsonl`, and print it if it contains an evaluation. Values that are not finite are
        omitted, since JSON has no NaN, and reported on the console."""
        if not self.enabled:
            return
        undefined = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        row = {name: value for name, value in row.items() if name not in undefined}
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        if undefined:
            why = "not finite, because nothing was scored or the model overflows"
            self.progress.print(f"step {row['step']:>6,}  {why}: {', '.join(undefined)}")
        if "val_loss" in row:
            self.last_line = time.monotonic()
            more = "".join(f"  {m.show} {row[m.name]:{m.format}}" for m in self.shown if m.name in row)
            trained = f"  train {row['train_loss']:.4f}" if "train_loss" in row else ""
            self.progress.print(
                f"step {row['step']:>6,}  {self.unit}s {row['tokens']:>12,}{trained}  "
                f"validation {row['val_loss']:.4f}{more}",
                highlight=False,
            )
        if "sample" in row:
            for line in str(row["sample"]).splitlines():
                self.progress.print(f"    {line}", style="italic")
