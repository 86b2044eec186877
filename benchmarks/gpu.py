"""One script for whoever has a GPU: eight minutes in all, one JSON file and a table.

    pip install -e . && python benchmarks/gpu.py [--output gpu.json] [--sections parity training]

Sections: parity of the fast paths with eager attention in bfloat16; training speed of 124M parameters, share of the
peak and memory, beside transformers and, with NANOGPT=PATH_TO_CHECKOUT, beside nanoGPT compiled; packed documents with
SDPA, flex and flash attention; decoding of 1 and 64 texts beside transformers; a model sharded over one process
(FSDP2); a run that is resumed bit-equal. Each section has a process and a time budget of its own: one that fails or
hangs is reported, and loses no other. Results are written after each section; what a section prints is in a file beside
them, `.log`. The exit code is 1 if a section has failed. `--dry_run` tries all sections out on the CPU with a tiny
model, and skips what takes long to compile there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import time
import traceback
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks the driver, so that processes can be forked

import accelerate
import torch
import transformers
from gpu_sections import SECTIONS, Setting
from rich.console import Console
from rich.table import Table

import scratch_gpt
from scratch_gpt.hardware import use_all_cores

DRY_BUDGET = 60  # seconds of a section in a dry run
UNITS = {"tokens_per_second": "{:,.0f}", "share_of_peak": "{:.1%}", "ratio": "{:.2f}", "peak_memory_gb": "{:.2f}"}


def run_in_child(name: str, setting: Setting, results: Connection, log: Path) -> None:
    """Main function of a section's process: sends each row, and then the reason of a failure, or None."""
    os.setsid()  # so that its own children can be ended with it
    with log.open("a") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
    print(f"== {name}", flush=True)
    reason = None
    try:
        for row in SECTIONS[name][0](setting):
            results.send(row)
            if row.get("good") is False:
                reason = reason or f"{row['name']} is not good enough"
    except BaseException as error:
        traceback.print_exc()
        first = (str(error).strip() or "no message").splitlines()[0]
        reason = f"{type(error).__name__}: {first}"
    results.send(reason)


def run_section(name: str, setting: Setting, log: Path) -> dict[str, Any]:
    """Run a section in a process of its own, and return its rows, seconds, status, and the reason of a failure.

    Args:
        name: one of `SECTIONS`.
        setting: where it runs.
        log: file to which what it prints is appended.
    """
    budget = DRY_BUDGET if setting.dry else SECTIONS[name][1]
    context = get_context("fork")  # the libraries are imported already
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_in_child, args=(name, setting, sender, log))
    started = time.perf_counter()
    process.start()
    sender.close()
    rows: list[dict[str, Any]] = []
    reason: str | None = f"took more than its {budget:g} s"
    while receiver.poll(max(0.0, started + budget - time.perf_counter())):
        try:
            message = receiver.recv()
        except EOFError:
            process.join()
            reason = f"its process ended with exit code {process.exitcode}"
            break
        if not isinstance(message, dict):
            reason = message
            break
        rows.append(message)
    assert process.pid is not None
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    found: dict[str, Any] = {"status": "ok" if reason is None else "failed"}
    if reason is not None:
        found["reason"] = reason
    return {**found, "seconds": round(time.perf_counter() - started, 1), "rows": rows}


def show(results: dict[str, Any], console: Console) -> None:
    """Print a table of all sections."""
    table = Table("section", "row", "result", title=f"{'dry run' if results['dry_run'] else results['device']}")
    for name, section in results["sections"].items():
        for row in section["rows"]:
            cells = [f"{key} {shown(key, value)}" for key, value in row.items() if key != "name" and value is not None]
            table.add_row(name, row["name"], ", ".join(cells))
        if section["status"] == "failed":
            table.add_row(name, "failed", section["reason"], style="red")
        table.add_section()
    console.print(table)


def shown(key: str, value: Any) -> str:
    """A metric for the table."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return UNITS.get(key, "{:.3g}").format(value)
    return str(value)


def main() -> None:
    """Parse the command line, run the sections and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="Results, a JSON file.")
    parser.add_argument("--dry_run", action="store_true", help="Try all sections out on the CPU with a tiny model.")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("there is no GPU here that PyTorch can use: --dry_run tries the sections out on the CPU")
    if args.dry_run:
        use_all_cores()
    console, log = Console(), args.output.with_suffix(".log")
    log.write_text("")
    versions = {each.__name__: each.__version__ for each in (torch, transformers, accelerate, scratch_gpt)}
    results: dict[str, Any] = {"dry_run": args.dry_run, "device": None, "versions": versions}
    results |= {"cuda": torch.version.cuda, "python": platform.python_version(), "sections": {}}
    started = time.perf_counter()
    for name in args.sections:
        console.print(f"{time.perf_counter() - started:4.0f} s  {name} …")
        section = results["sections"][name] = run_section(name, Setting(args.dry_run), log)
        if name == "device" and section["rows"]:
            results["device"] = section["rows"][0]["name"]
        results["seconds"] = round(time.perf_counter() - started, 1)
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    show(results, console)
    failed = [name for name, section in results["sections"].items() if section["status"] == "failed"]
    console.print(f"{args.output}, in {results['seconds']:.0f} s; what the sections printed: {log}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
