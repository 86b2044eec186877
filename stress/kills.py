"""Kill training runs with SIGKILL, resume them, and compare them bit for bit with uninterrupted runs.

    pip install -e . && python stress/kills.py --output kills.json

Three kinds of tiny runs, with dropout, shuffling and accumulation: a GPT with AdamW, a GPT with Muon, and an
encoder-decoder. Half of the kills come at a random time; the other half while a checkpoint is being written, just
before one of the system calls of the save (open, mkdir, fsync, rename, unlink, rmdir), each in turn. A run passes if
its final weights and optimizer state are bit-equal to those of the uninterrupted run. Prints a table, with the largest
number of steps between a kill and the newest complete checkpoint; exits with 1 if a run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file

from scratch_gpt.train.checkpoints.checkpoint import newest_checkpoint
from scratch_gpt.train.engine.run_directory import read_metrics
from scratch_gpt.train.tasks import FAMILIES, recipe_of

TRAINING = Path(__file__).parents[1] / "training"
STEPS, SAVE_EVERY = 12, 3
LOOP = f"--max_steps {STEPS} --save_every {SAVE_EVERY} --keep_last 2 --eval_every 5 --log_every 1 --num_threads 1"
LOOP += " --precision fp32 --dropout 0.1 --gradient_accumulation_steps 2 --hidden_size 32 --num_attention_heads 2"
GPT = f"{LOOP} --num_stories 300 --num_hidden_layers 1 --context_length 32 --batch_size 2 --vocab_size 300"
PAIRS = f"{LOOP} --num_pairs 300 --encoder_layers 1 --decoder_layers 1 --tokens_per_batch 128 --vocab_size 300"
CASES = {
    "GPT, AdamW": ("language_modeling.py", f"{GPT} --optimizer adamw"),
    "GPT, Muon": ("language_modeling.py", f"{GPT} --optimizer muon"),
    "encoder-decoder": ("translation.py", f"{PAIRS} --metric_for_best_model val_loss"),
}
CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}  # names of Python's audit events


def train(case: str, folder: Path, *more: str, before: Callable[[], None] | None = None) -> int:
    """Start a run in a forked process.

    Args:
        case: a key of `CASES`.
        folder: output directory.
        more: further options of the run.
        before: called in the process before the run.

    Returns:
        The process id.
    """
    child = os.fork()
    if child:
        return child
    try:
        script, options = CASES[case]
        sys.argv = [script, "--output_dir", str(folder), *options.split(), *more]
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        if before is not None:
            before()
        runpy.run_path(str(TRAINING / script), run_name="__main__")
    finally:
        os._exit(0)
    return 0


def kill_at_call(number: int, log: Path) -> Callable[[], None]:
    """Return a function that installs a SIGKILL before one system call of the second checkpoint's writer.

    Args:
        number: number of the call, from 0; -1 only counts.
        log: file for the number, name and path of the last call.
    """
    second = f"step-{2 * SAVE_EVERY:08d}"
    seen = [0]

    def call(name: str, path: object) -> None:
        if second in str(path) and threading.current_thread() is not threading.main_thread():
            log.write_text(f"{seen[0]} {name} {path}")
            if seen[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1

    def hook(event: str, args: tuple) -> None:
        if event in CALLS and not str(args[0]).startswith(str(log)):
            call(event, args[0])

    def install() -> None:
        fsync = os.fsync

        def synced(descriptor: int) -> None:
            call("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        os.fsync = synced
        sys.addaudithook(hook)

    return install


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return weights, optimizer state and random state of the last checkpoint."""
    final = folder / "checkpoints" / f"step-{STEPS:08d}"
    return load_file(final / "model.safetensors") | load_file(final / "training_state.safetensors")


def bit_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Return whether two states have the same names and bit-equal tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resume(case: str, folder: Path, expected: dict[str, torch.Tensor]) -> dict[str, object]:
    """Resume a killed run, and return its last step, the steps lost, and whether its final state is as expected."""
    last_step = max((row["step"] for row in read_metrics(folder)), default=0)
    can_resume = (folder / "run.yaml").exists()
    newest = newest_checkpoint(folder) if can_resume else None
    saved_step = int(newest.name.removeprefix("step-")) if newest else 0
    os.waitpid(train(case, folder, *(["--resume"] if can_resume else [])), 0)
    return {"step": last_step, "lost": last_step - saved_step, "equal": bit_equal(state_of(folder), expected)}


def main() -> None:
    """Run the test from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=90, help="Total number of kills.")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="Kinds of runs.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed of the times.")
    parser.add_argument("--output", type=Path, help="Write the result of each run to this file, as JSON.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for family in FAMILIES:  # import once, before the forks
        recipe_of(family)
    generator, records = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SCRATCH_GPT_CACHE"] = str(folder / "cache")
        for case in args.cases:
            log = folder / "calls"
            began = time.monotonic()
            os.waitpid(train(case, folder / "uninterrupted", before=kill_at_call(-1, log)), 0)
            seconds, calls = time.monotonic() - began, int(log.read_text().split()[0]) + 1
            expected = state_of(folder / "uninterrupted")
            kills = args.kills // len(args.cases)
            for number in track(range(kills), f"{case}: {calls} calls per save", console=Console(stderr=True)):
                killed = folder / "killed"
                record: dict[str, object] = {"case": case}
                if number % 2:
                    delay = generator.uniform(0, seconds)
                    child = train(case, killed)
                    time.sleep(delay)
                    os.kill(child, signal.SIGKILL)
                    record["seconds"] = delay
                else:
                    record["call"] = number // 2 * max(1, calls // max(1, kills // 2)) % calls
                    child = train(case, killed, before=kill_at_call(int(str(record["call"])), log))
                status = os.waitpid(child, 0)[1]
                record["killed"] = os.WIFSIGNALED(status)
                record["at"] = log.read_text().replace(str(killed), "") if "call" in record else ""
                records.append(record | resume(case, killed, expected))
                shutil.rmtree(killed)
            shutil.rmtree(folder / "uninterrupted")
    show(records)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n")
    sys.exit(0 if all(r["equal"] for r in records) else 1)


def show(records: list[dict[str, object]]) -> None:
    """Print the results of each kind of run as a table."""
    table = Table("run", "kills during a save", "at random times", "bit-equal at the end", "most steps lost")
    for case in dict.fromkeys(str(r["case"]) for r in records):
        own = [r for r in records if r["case"] == case]
        in_save = sum("call" in r and bool(r["killed"]) for r in own)
        at_random = sum("seconds" in r and bool(r["killed"]) for r in own)
        lost = max(int(str(r["lost"])) for r in own)
        table.add_row(case, str(in_save), str(at_random), f"{sum(bool(r['equal']) for r in own)}/{len(own)}", str(lost))
    Console().print(table)


if __name__ == "__main__":
    main()
