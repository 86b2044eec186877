"""Training time to nanoGPT's loss on character-level TinyShakespeare: alternate runs of its CPU recipe and of ours.

    NANOGPT=PATH_TO_CHECKOUT python benchmarks/time_to_loss.py PATH_TO_TINYSHAKESPEARE [--seeds 0 1 2]

nanoGPT runs with the CPU command of its README (4 layers, width 128, context 64, batch 12, 2000 steps), ours with
`training/configs/speedrun.yaml`, which is tuned to end just below 1.8857, the loss of that command on our machine. Both
are evaluated on every token of the last tenth of the text, in non-overlapping windows of their own context length;
nanoGPT at its best checkpoint. Training time excludes start-up, evaluation and saving. The text is tokenized in advance
(nanoGPT's script for that needs `pip install requests`). Run it on an idle machine.
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

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

PROJECT = Path(__file__).parents[1]
NANOGPT_ARGUMENTS = (
    *("--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1", "--block_size=64", "--batch_size=12"),
    *("--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0"),
)
TARGET = 1.8857
Metrics = dict[str, float]


def timed(command: list[str], cwd: Path) -> tuple[float, str]:
    """Run a command; return its duration in seconds and its output."""
    started = time.perf_counter()
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, result.stdout


def run_nanogpt(checkout: Path, text: Path, scratch: Path, seed: int) -> Metrics:
    """Train nanoGPT and evaluate it.

    Args:
        checkout: a checkout of nanoGPT.
        text: TinyShakespeare.
        scratch: folder for the output.
        seed: random seed.
    """
    data, out = checkout / "data" / "shakespeare_char", scratch / f"nanogpt{seed}"
    shutil.copy(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    seeded = (checkout / "train.py").read_text().replace("manual_seed(1337", f"manual_seed({1337 + seed}")
    (checkout / "train_seeded.py").write_text(seeded)  # its script has no argument for the seed
    command = [sys.executable, "train_seeded.py", "config/train_shakespeare_char.py", f"--out_dir={out}"]
    try:
        seconds, printed = timed([*command, *NANOGPT_ARGUMENTS], checkout)
    finally:
        (checkout / "train_seeded.py").unlink()
    steps = {int(i): float(ms) / 1000 for i, ms in re.findall(r"iter (\d+): loss [\d.]+, time ([\d.]+)ms", printed)}
    without_evaluation = [duration for i, duration in steps.items() if i % 250]
    training = statistics.mean(without_evaluation) * len(steps)
    return {"seconds": seconds, "training_seconds": training, "val_loss": score_nanogpt(checkout, out / "ckpt.pt")}


def score_nanogpt(checkout: Path, checkpoint: Path) -> float:
    """Return a checkpoint's mean loss in nats per character on nanoGPT's validation text."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    tokens = torch.from_numpy(
        np.fromfile(checkout / "data" / "shakespeare_char" / "val.bin", dtype=np.uint16).astype(np.int64)
    )
    context, total = saved["model_args"]["block_size"], 0.0
    with torch.inference_mode():
        for start in range(0, len(tokens) - 1, context):
            window = tokens[start : start + context + 1]
            logits, _ = model(window[None, :-1], window[None, 1:])
            total += F.cross_entropy(logits[0], window[1:], reduction="sum").item()
    return total / (len(tokens) - 1)


def run_ours(text: Path, scratch: Path, seed: int) -> Metrics:
    """Train our model; its metrics include the evaluation."""
    folder, config = scratch / f"ours{seed}", PROJECT / "training" / "configs" / "speedrun.yaml"
    command = ["accelerate", "launch", "training/language_modeling.py", "--config", str(config), "--seed", str(seed)]
    command += ["--dataset", str(text), "--output_dir", str(folder), "--no-baselines"]  # nanoGPT has none
    seconds, _ = timed(command, PROJECT)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    loss = min(row["val_loss"] for row in rows if "val_loss" in row)
    return {"seconds": seconds, "training_seconds": max(row.get("seconds", 0) for row in rows), "val_loss": loss}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Random seeds, one run of each model.")
    parser.add_argument("--output", type=Path, help="Write the metrics to this file, as JSON.")
    args = parser.parse_args()
    checkout, text = Path(os.environ["NANOGPT"]), args.text.resolve()
    found: dict[str, list[Metrics]] = {"nanoGPT": [], "scratch_gpt": []}
    with tempfile.TemporaryDirectory() as scratch:
        run_ours(text, Path(scratch), seed=99)  # fills the cache of token ids
        for seed in args.seeds:
            found["nanoGPT"].append(run_nanogpt(checkout, text, Path(scratch), seed))
            found["scratch_gpt"].append(run_ours(text, Path(scratch), seed))
    headings = ("validation loss", "training", "whole process", "training speed-up", "whole process speed-up")
    table = Table("mean of all seeds", *headings)
    means = {name: {k: statistics.mean(run[k] for run in runs) for k in runs[0]} for name, runs in found.items()}
    for name, mean in means.items():
        ratios = [f"{means['nanoGPT'][k] / mean[k]:.2f}" for k in ("training_seconds", "seconds")]
        times = [f"{mean[k]:.1f} s" for k in ("training_seconds", "seconds")]
        table.add_row(name, f"{mean['val_loss']:.4f}", *times, *ratios)
    Console().print(table)
    missed = sum(run["val_loss"] > TARGET for run in found["scratch_gpt"])
    Console().print(f"{missed} of our {len(args.seeds)} runs ended above {TARGET}" if missed else f"all below {TARGET}")
    if args.output:
        args.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
