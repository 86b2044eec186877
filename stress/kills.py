"""Kill training runs with SIGKILL, resume them, and compare them bit for bit with uninterrupted runs.

    pip install -e . && python stress/kills.py --output kills.json

Tiny runs with dropout, shuffling and accumulation: a GPT with AdamW, a GPT with Muon, an encoder-decoder, and a GPT
whose weights are sharded over several processes, one of which is killed, each in turn; the others must then end by
themselves. Half of the kills come at a random time; the other half while a checkpoint is being written, just before one
of the system calls of the save (open, mkdir, fsync, rename, unlink, rmdir), each in turn. A run passes if its final
weights and optimizer state are bit-equal to those of the uninterrupted run. Prints a table, with the largest number of
steps between a kill and the newest complete checkpoint, and the longest time that the other processes took to end;
exits with 1 if a run failed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from scratch_gpt.hub.tensor_files import load_tensors
from scratch_gpt.train.checkpoints.checkpoint import newest_checkpoint
from scratch_gpt.train.checkpoints.snapshot import TENSORS
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
SHARDED = {"GPT sharded over 2": 2, "GPT sharded over 4": 4}  # processes of the cases that have several
CASES |= dict.fromkeys(SHARDED, ("language_modeling.py", f"{GPT} --shard"))
MOST_SECONDS = 60  # that the other processes may take to end
CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}  # names of Python's audit events


def train(case: str, folder: Path, *more: str, before: Callable[[], None] | None = None, victim: int = 0) -> list[int]:
    """Start a run in forked processes.

    Args:
        case: a key of `CASES`.
        folder: output directory.
        more: further options of the run.
        before: called in one of the processes before the run.
        victim: number of that process.

    Returns:
        The process ids.
    """
    count, children = SHARDED.get(case, 1), []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for process in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            if count > 1:
                numbers = {"RANK": process, "LOCAL_RANK": process, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
                os.environ.update({name: str(number) for name, number in numbers.items()})
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            script, options = CASES[case]
            sys.argv = [script, "--output_dir", str(folder), *options.split(), *more]
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            if before is not None and process == victim:
                before()
            runpy.run_path(str(TRAINING / script), run_name="__main__")
        finally:
            os._exit(0)
    return children


def wait(children: list[int], victim: int = 0) -> tuple[bool, float]:
    """Wait for the processes of a run; whether the victim was killed, and the seconds that the others took to end after
    it. Those that take too long are killed, and the time is infinite."""
    killed = os.WIFSIGNALED(os.waitpid(children[victim], 0)[1])
    began = time.monotonic()
    others = [child for child in children if child != children[victim]]
    for child in others if killed else ():
        os.kill(child, signal.SIGTERM)  # as the launcher does
    while others and time.monotonic() - began < MOST_SECONDS:
        others = [child for child in others if os.waitpid(child, os.WNOHANG)[0] == 0]
        time.sleep(0.05)
    seconds = time.monotonic() - began if not others else math.inf
    for child in others:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return killed, seconds


def kill_at_call(number: int, log: Path, in_main_thread: bool) -> Callable[[], None]:
    """Return a function that installs a SIGKILL before one system call of the second checkpoint's writer.

    Args:
        number: number of the call, from 0; -1 only counts.
        log: file for the number, name and path of the last call.
        in_main_thread: whether checkpoints are written by the main thread.
    """
    second = f"step-{2 * SAVE_EVERY:08d}"
    seen = [0]

    def call(name: str, path: object) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if second in str(path) and is_main == in_main_thread:
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
    return load_tensors(final, "model") | load_tensors(final, TENSORS)


def bit_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Return whether two states have the same names and bit-equal tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resume(case: str, folder: Path, expected: dict[str, torch.Tensor]) -> dict[str, object]:
    """Resume a killed run, and return its last step, the steps lost, and whether its final state is as expected."""
    last_step = max((row["step"] for row in read_metrics(folder)), default=0)
    can_resume = (folder / "run.yaml").exists()
    newest = newest_checkpoint(folder) if can_resume else None
    saved_step = int(newest.name.removeprefix("step-")) if newest else 0
    wait(train(case, folder, *(["--resume"] if can_resume else [])))
    return {"step": last_step, "lost": last_step - saved_step, "equal": bit_equal(state_of(folder), expected)}


def kill_runs(case: str, folder: Path, kills: int, generator: random.Random) -> list[dict[str, object]]:
    """Kill runs of one kind and resume them; returns a record of each kill."""
    log, records, count = folder / "calls", [], SHARDED.get(case, 1)
    hooks, calls, seconds = [], [], 0.0
    for victim in range(count):  # processes of a sharded save make different calls
        hooks.append(partial(kill_at_call, log=log, in_main_thread=count > 1))
        began = time.monotonic()
        wait(train(case, folder / "uninterrupted", before=hooks[victim](-1), victim=victim))
        seconds, expected = time.monotonic() - began, state_of(folder / "uninterrupted")
        calls.append(int(log.read_text().split()[0]) + 1)
        shutil.rmtree(folder / "uninterrupted")
    for number in track(range(kills), f"{case}: {calls} calls per save", console=Console(stderr=True)):
        killed, victim = folder / "killed", number // 2 % count
        record: dict[str, object] = {"case": case, "process": victim}
        if number % 2:
            delay = generator.uniform(0, seconds)
            children = train(case, killed)
            time.sleep(delay)
            os.kill(children[victim], signal.SIGKILL)
            record["seconds"] = delay
        else:
            step = max(1, calls[victim] * 2 * count // max(1, kills))
            record["call"] = number // 2 // count * step % calls[victim]
            children = train(case, killed, before=hooks[victim](record["call"]), victim=victim)
        record["killed"], record["others_ended_after"] = wait(children, victim)
        record["at"] = log.read_text().replace(str(killed), "") if "call" in record else ""
        records.append(record | resume(case, killed, expected))
        shutil.rmtree(killed)
    return records


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
            records += kill_runs(case, folder, args.kills // len(args.cases), generator)
    show(records)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n")
    sys.exit(0 if all(r["equal"] and r["others_ended_after"] < MOST_SECONDS for r in records) else 1)


def show(records: list[dict[str, object]]) -> None:
    """Print the results of each kind of run as a table."""
    table = Table(
        "run", "kills during a save", "at random times", "bit-equal at the end", "most steps lost", "others ended"
    )
    for case in dict.fromkeys(str(r["case"]) for r in records):
        own = [r for r in records if r["case"] == case]
        in_save = sum("call" in r and bool(r["killed"]) for r in own)
        at_random = sum("seconds" in r and bool(r["killed"]) for r in own)
        lost = max(int(str(r["lost"])) for r in own)
        equal = f"{sum(bool(r['equal']) for r in own)}/{len(own)}"
        slowest = max(float(str(r["others_ended_after"])) for r in own)
        table.add_row(
            case, str(in_save), str(at_random), equal, str(lost), f"{slowest:.0f} s" if case in SHARDED else ""
        )
    Console().print(table)


if __name__ == "__main__":
    main()
