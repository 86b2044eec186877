"""Kill training runs with SIGKILL, resume them, and compare with runs that were never stopped, bit for bit.

    pip install -e . && python stress/kills.py --output kills.json

Three kinds of runs, each tiny, with dropout, shuffling and accumulation: a GPT with AdamW, a GPT with Muon, and an
encoder-decoder. Of the kills, one half comes at a random moment; the other half while a checkpoint is being written,
just before one of the system calls of its save (open, mkdir, fsync, rename, unlink, rmdir), each in its turn. A run
passes if it ends with the very weights and optimizer state of the run that was never stopped. Prints a table, with the
most steps that lay between a kill and the newest whole checkpoint; exits with 1 if a run failed.
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
CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}  # as Python's audit names them


def train(case: str, folder: Path, *more: str, before: Callable[[], None] | None = None) -> int:
    """Start a run in a process of its own; its process id."""
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
    """Die at the system call with this number of the checkpoints' writer, counted from 0 in the second checkpoint."""
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
    """Weights, optimizer and random states of the last checkpoint."""
    final = folder / "checkpoints" / f"step-{STEPS:08d}"
    return load_file(final / "model.safetensors") | load_file(final / "training_state.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resumed(case: str, folder: Path, expected: dict[str, torch.Tensor]) -> dict[str, object]:
    """Go on with a killed run, and say how that ended."""
    done = max((row["step"] for row in read_metrics(folder)), default=0)
    started = folder / "run.yaml"
    newest = newest_checkpoint(folder) if started.exists() else None
    at = int(newest.name.removeprefix("step-")) if newest else 0
    os.waitpid(train(case, folder, *(["--resume"] if started.exists() else [])), 0)
    return {"step": done, "lost": done - at, "equal": same(state_of(folder), expected)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=90, help="How many, over all kinds of runs.")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="Kinds of runs.")
    parser.add_argument("--seed", type=int, default=0, help="Of the random moments.")
    parser.add_argument("--output", type=Path, help="Write what happened to each run here, as JSON.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for family in FAMILIES:  # imported once here, and not in every fork
        recipe_of(family)
    generator, records = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SCRATCH_GPT_CACHE"] = str(folder / "cache")
        for case in args.cases:
            log = folder / "calls"
            began = time.monotonic()
            os.waitpid(train(case, folder / "whole", before=kill_at_call(-1, log)), 0)
            seconds, calls = time.monotonic() - began, int(log.read_text().split()[0]) + 1
            expected = state_of(folder / "whole")
            kills = args.kills // len(args.cases)
            for number in track(range(kills), f"{case}: {calls} calls a save", console=Console(stderr=True)):
                killed = folder / "killed"
                record: dict[str, object] = {"case": case}
                if number % 2:
                    moment = generator.uniform(0, seconds)
                    child = train(case, killed)
                    time.sleep(moment)
                    os.kill(child, signal.SIGKILL)
                    record["seconds"] = moment
                else:
                    record["call"] = number // 2 * max(1, calls // max(1, kills // 2)) % calls
                    child = train(case, killed, before=kill_at_call(int(str(record["call"])), log))
                status = os.waitpid(child, 0)[1]
                record["killed"] = os.WIFSIGNALED(status)
                record["at"] = log.read_text().replace(str(killed), "") if "call" in record else ""
                records.append(record | resumed(case, killed, expected))
                shutil.rmtree(killed)
            shutil.rmtree(folder / "whole")
    show(records)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n")
    sys.exit(0 if all(r["equal"] for r in records) else 1)


def show(records: list[dict[str, object]]) -> None:
    table = Table("run", "kills in a save", "at random moments", "bit-equal in the end", "most steps lost")
    for case in dict.fromkeys(str(r["case"]) for r in records):
        own = [r for r in records if r["case"] == case]
        in_save = sum("call" in r and bool(r["killed"]) for r in own)
        at_random = sum("seconds" in r and bool(r["killed"]) for r in own)
        lost = max(int(str(r["lost"])) for r in own)
        table.add_row(case, str(in_save), str(at_random), f"{sum(bool(r['equal']) for r in own)}/{len(own)}", str(lost))
    Console().print(table)


if __name__ == "__main__":
    main()
