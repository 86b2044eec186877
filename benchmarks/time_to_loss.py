"""Wall time to a loss on TinyShakespeare, whole processes side by side: nanoGPT's CPU recipe, then ours.

    NANOGPT=PATH_TO_CHECKOUT python benchmarks/time_to_loss.py PATH_TO_TINYSHAKESPEARE [--rounds 3]

nanoGPT runs with the command of its README for a CPU (4 layers, width 128, context 64, batch 12, 2000 steps) and
reports its own estimate over 20 random batches; ours reports every token of the last tenth of the text. Run it on an
idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
NANOGPT_ARGUMENTS = (
    *("--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=100", "--block_size=64", "--batch_size=12"),
    *("--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0"),
)


def timed(command: list[str], cwd: Path) -> tuple[float, str]:
    """Seconds that a command takes, and what it prints."""
    started = time.perf_counter()
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, result.stdout


def run_nanogpt(checkout: Path, text: Path, scratch: Path) -> dict[str, float]:
    data = checkout / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    out = f"--out_dir={scratch / 'nanogpt'}"
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", out, *NANOGPT_ARGUMENTS]
    seconds, printed = timed(command, checkout)
    losses = [float(loss) for loss in re.findall(r"step \d+: train loss [\d.]+, val loss ([\d.]+)", printed)]
    return {"seconds": seconds, "val_loss": losses[-1]}


def run_ours(text: Path, scratch: Path) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    config = PROJECT / "training" / "configs" / "tinyshakespeare_char.yaml"
    command = ["accelerate", "launch", "training/pretrain_gpt.py", "--config", str(config)]
    seconds, _ = timed([*command, "--dataset", str(text), "--output_dir", str(folder)], PROJECT)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"seconds": seconds, "val_loss": min(row["val_loss"] for row in rows if "val_loss" in row)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--rounds", type=int, default=1, help="Runs of each, in turn; the median is reported.")
    parser.add_argument("--json", type=Path, help="Write the figures here.")
    args = parser.parse_args()
    checkout = Path(os.environ["NANOGPT"])
    figures: dict[str, list[dict[str, float]]] = {"nanoGPT": [], "scratch_gpt": []}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(args.rounds):
            figures["nanoGPT"].append(run_nanogpt(checkout, args.text.resolve(), Path(scratch)))
            figures["scratch_gpt"].append(run_ours(args.text.resolve(), Path(scratch)))
    table = Table("", "seconds", "validation loss", "times as fast")
    reference = statistics.median(run["seconds"] for run in figures["nanoGPT"])
    for name, runs in figures.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        loss = statistics.median(run["val_loss"] for run in runs)
        table.add_row(name, f"{seconds:.1f}", f"{loss:.4f}", f"{reference / seconds:.2f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
