"""The files `run.yaml` and `metrics.jsonl` of a run.

The directory of a run is untrusted: `check_run_directory` checks it before anything in it is read, resumed or
overwritten, and the readers validate what they read.
"""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from ...atomic_files import write_text
from ...errors import ScratchError
from ...hub.directory_checks import check_files
from ...metrics import TEXTS, Metric
from ...redaction import redact
from ...untrusted import find_links, parse_json, read_text, read_yaml

RECORD, METRICS = "run.yaml", "metrics.jsonl"
MAX_METRICS = 256 << 20  # bytes
MAX_PROCESSES = 100_000


def check_run_directory(folder: Path) -> None:
    """Check a directory before a run is read from it or written into it.

    Raises:
        ScratchError: it contains a link, through which a run could write or remove files elsewhere, or a file that
            `check_files` refuses.
    """
    for link in find_links(folder):
        raise ScratchError(
            f"{link} is a link, and a run writes and removes files in {folder} only: copy the files there, or choose "
            "another output_dir"
        )
    try:
        check_files(folder)
    except ScratchError as error:
        raise ScratchError(f"{folder} can't be used: {error}") from error


@dataclass(frozen=True)
class RunRecord:
    """The contents of `run.yaml`.

    Attributes:
        arguments: the arguments that the run was started with, by name.
        facts: facts about model and data; "task" is the task.
        processes: number of processes.
    """

    arguments: dict[str, Any]
    facts: dict[str, Any]
    processes: int

    @property
    def data_fingerprint(self) -> str | None:
        """Hash of the data that the run was started with."""
        data = self.facts.get("data")
        return data.get("fingerprint") if isinstance(data, dict) else None


def read_run(folder: Path) -> RunRecord:
    """Read `run.yaml` of a run.

    Raises:
        ScratchError: it can't be read, or does not have the structure that `write_run` writes.
    """
    path = folder / RECORD
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ScratchError(f"{path}, the record of the run, can't be read: {error.strerror}") from error
    parts = [content.get(name) if isinstance(content, dict) else None for name in ("arguments", "facts", "machine")]
    arguments, facts, machine = parts
    processes = machine.get("processes") if isinstance(machine, dict) else None
    if not (isinstance(arguments, dict) and isinstance(facts, dict) and isinstance(processes, int)):
        raise ScratchError(f"{path} is not the record of a run: want arguments, facts and the number of processes")
    if not 1 <= processes <= MAX_PROCESSES:
        raise ScratchError(f"{path}: the number of processes is {processes}, want 1 to {MAX_PROCESSES:,}")
    if not all(isinstance(name, str) for name in (*arguments, *facts)):
        raise ScratchError(f"{path} has a name that is not a string")
    return RunRecord(arguments, facts, processes)


class _PlainDumper(yaml.SafeDumper):
    """Writes repeated values in full, without aliases, which `untrusted.parse_yaml` does not read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_run(
    folder: Path, arguments: dict[str, Any], facts: dict[str, Any], processes: int, device: torch.device
) -> None:
    """Write `run.yaml`: all arguments, versions, the machine, and facts about model and data; secrets are redacted.

    Args:
        folder: directory of the run.
        arguments: all arguments by name.
        facts: facts about model and data; "task" is the task.
        processes: number of processes.
        device: device of the run.
    """
    packages = ("scratch_gpt", "torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors")
    content = {
        "arguments": arguments,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"threads": torch.get_num_threads(), "processes": processes, "device": _device(device)},
        "facts": facts,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_text(folder / RECORD, yaml.dump(redact(content), Dumper=_PlainDumper, sort_keys=False, allow_unicode=True))


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()} processor"


def _processor() -> str:
    return platform.processor() or platform.machine()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of `metrics.jsonl`; an incomplete last line, which a killed process leaves, is ignored.

    Returns:
        Rows with an integer "step", numbers by name, and possibly the texts `TEXTS`.

    Raises:
        ScratchError: a line is not such a row.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    lines = read_text(path, MAX_METRICS).splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.endswith("\n"):
            row = parse_json(line, f"{path}, line {number}")
            if not _is_row(row):
                raise ScratchError(f"{path}, line {number} is not a row of metrics: want a step and numbers by name")
            rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return False
    numbers = [value for name, value in row.items() if name not in TEXTS]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)


def best_evaluation(rows: list[dict[str, Any]], metric: Metric) -> dict[str, Any] | None:
    """Return the row with the best value of a metric, the first of several, or None if no row has it."""
    best: dict[str, Any] | None = None
    for row in rows:
        if metric.name in row and (best is None or metric.is_better(row[metric.name], best[metric.name])):
            best = row
    return best


def add_to_best_evaluation(folder: Path, metric: Metric, numbers: dict[str, float | str]) -> None:
    """Add numbers to the row of the best evaluation, and write `metrics.jsonl` anew.

    Args:
        folder: directory of the run.
        metric: metric that selects the best evaluation.
        numbers: values by name, and texts; numbers that are not finite are omitted.
    """
    rows = read_metrics(folder)
    if (best := best_evaluation(rows, metric)) is not None:
        best |= {name: value for name, value in numbers.items() if isinstance(value, str) or math.isfinite(value)}
        write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def truncate_metrics(folder: Path, step: int) -> None:
    """Remove the rows after `step`, which a resumed run writes again, and an incomplete last line."""
    if (folder / METRICS).exists():
        kept = [row for row in read_metrics(folder) if row["step"] <= step]
        # Always a new file: rows are appended to it, and the existing one may be a hard link to another file.
        write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
