"""What a run tells while it runs and leaves behind: a live line, `metrics.jsonl`, `loss.png`, `run.yaml`."""

from __future__ import annotations

import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..secrecy import redact
from ..terminal import SafeConsole

METRICS = "metrics.jsonl"

# Figures that an evaluation prints beside the losses, where the task has them.
SHOWN = {
    "entropy_floor": ("floor", ".4f"),
    "val_bits_per_byte": ("bits/byte", ".4f"),
    "val_bleu": ("BLEU", ".2f"),
    "val_exact": ("exactly right", ".1%"),
    "val_accuracy": ("accuracy", ".2%"),
    "val_f1": ("F1", ".4f"),
    "val_reward": ("reward", ".3f"),
    "val_kl": ("KL", ".2f"),
    "val_distinct_2": ("distinct-2", ".3f"),
    "val_parsed": ("parse", ".1%"),
}


class Reporter:
    """Rows of figures to the screen and to `metrics.jsonl`. On other processes than the first it does nothing."""

    def __init__(self, folder: Path, total_steps: int, step: int, enabled: bool, unit: str = "token"):
        self.folder, self.enabled, self.unit = folder, enabled, unit
        self.console = SafeConsole(quiet=not enabled)
        self.progress = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not enabled,
        )
        self.line = self.progress.add_task("warming up", total=total_steps, completed=step)
        if enabled:
            forget_after(folder, step or -1)  # a run that saved nothing begins anew

    def __enter__(self) -> Reporter:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def live(self, step: int, row: dict[str, float]) -> None:
        """Refresh the progress line."""
        speed = f"{row['tokens_per_second']:,.0f} {self.unit}s/s"
        loss = f"loss {row['train_loss']:.4f}" if "train_loss" in row else "nothing scored"
        text = f"{loss}  lr {row['learning_rate']:.1e}  {speed}"
        self.progress.update(self.line, completed=step, description=text)

    def record(self, row: dict[str, Any]) -> None:
        """Append a row to `metrics.jsonl`; print it where it holds an evaluation. Figures that are not finite are left
        out, since JSON has no NaN, and named on the screen."""
        if not self.enabled:
            return
        undefined = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        row = {name: value for name, value in row.items() if name not in undefined}
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        if undefined:
            why = "not finite, since nothing was scored or the model overflows"
            self.progress.print(f"step {row['step']:>6,}  {why}: {', '.join(undefined)}")
        if "val_loss" in row:
            more = "".join(f"  {title} {row[name]:{form}}" for name, (title, form) in SHOWN.items() if name in row)
            trained = f"  train {row['train_loss']:.4f}" if "train_loss" in row else ""
            self.progress.print(
                f"step {row['step']:>6,}  {self.unit}s {row['tokens']:>12,}{trained}  "
                f"validation {row['val_loss']:.4f}{more}",
                highlight=False,
            )
        if "sample" in row:
            self.progress.print(f"    {row['sample']}", style="italic")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run; a last line that a kill has cut short is none."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def forget_after(folder: Path, step: int) -> None:
    """Drop the rows behind `step`, which a resumed run writes again, and what a kill has cut short."""
    path = folder / METRICS
    kept = "".join(json.dumps(row) + "\n" for row in read_metrics(folder) if row["step"] <= step)
    if path.exists() and path.read_text(encoding="utf-8") != kept:
        beside = folder / f".{METRICS}"
        beside.write_text(kept, encoding="utf-8")
        beside.replace(path)


def write_run(folder: Path, arguments: dict[str, Any], facts: dict[str, Any], processes: int) -> None:
    """`run.yaml`: every argument, versions, machine, and facts such as sizes of model and data; no secrets."""
    packages = ("scratch_gpt", "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors")
    content = {
        "arguments": arguments,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"threads": torch.get_num_threads(), "processes": processes, "device": _device()},
        "facts": facts,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    text = yaml.safe_dump(redact(content), sort_keys=False, allow_unicode=True)
    (folder / "run.yaml").write_text(text, encoding="utf-8")


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{_processor()} processor"


def _processor() -> str:
    return platform.processor() or platform.machine()
