"""Tiny translation runs."""

import subprocess
from pathlib import Path

from helpers.processes import PROJECT, run_here

TRAIN = str(PROJECT / "training" / "translation.py")


TINY = ("--num_pairs", "400", "--vocab_size", "400", "--hidden_size", "32", "--encoder_layers", "1")
TINY += ("--decoder_layers", "1", "--num_attention_heads", "2", "--tokens_per_batch", "256", "--num_threads", "1")
TINY += ("--precision", "fp32", "--log_every", "1", "--num_beams", "2")


def train(folder: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess:
    """Train a tiny translation model."""
    return run_here(TRAIN, "--output_dir", str(folder), *TINY, *options, check=check)


def scratch_gpt(*arguments: str, cwd) -> subprocess.CompletedProcess:
    """Run `scratch-gpt` in this process."""
    return run_here("scratch-gpt", *arguments, cwd=cwd, check=False)
