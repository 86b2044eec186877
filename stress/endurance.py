"""Train for thousands of steps and generate thousands of texts: does memory or the number of open files grow?

    pip install -e . && python stress/endurance.py --output endurance.json

Trains a tiny GPT with evaluations, samples, checkpoints, dropout and accumulation in one process, and generates with
the trained model in another. Resident memory (Linux: RSS) and open files are sampled from outside. The first fifth of
the work is warm-up; the median memory of the second fifth is compared with that of the last. Prints a table; exits with
1 if memory grew by more than 2%, or files were left open.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from scratch_gpt.train.engine.run_directory import read_metrics

PRETRAIN = Path(__file__).parents[1] / "training" / "language_modeling.py"
TRAINING = "--hidden_size 32 --num_hidden_layers 2 --num_attention_heads 2 --context_length 64 --batch_size 4 "
TRAINING += "--gradient_accumulation_steps 2 --dropout 0.1 --num_stories 2000 --num_threads 1 --log_every 10"
GENERATE = """
import sys, torch, scratch_gpt
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, count = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
for number in range(count):
    prompt = tokenizer("One day, Anna " * (1 + number % 3), return_tensors="pt")
    model.generate(**prompt, max_new_tokens=8 + number % 8, num_beams=1 + number % 2)
    print(number + 1, flush=True)
"""
MAX_GROWTH = 0.02


def watch(command: list[str], done: Callable[[], int], total: int, title: str) -> dict[str, float]:
    """Run a command, and measure memory and open files after the warm-up and at the end.

    Args:
        command: program and arguments.
        done: returns the number of steps done so far.
        total: number of steps.
        title: description for messages.

    Raises:
        SystemExit: the command failed, or was too short to be measured.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    samples: list[tuple[float, int, int]] = []
    with Progress(console=Console(stderr=True)) as progress:
        line = progress.add_task(title, total=total)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                samples.append((done() / total, watched.memory_info().rss, watched.num_fds()))
            except psutil.NoSuchProcess:
                break
            progress.update(line, completed=done())
            time.sleep(0.1)
    if process.wait():
        sys.exit(f"{title} failed with exit code {process.returncode}")

    def between(first: float, last: float, column: int) -> list[int]:
        return [sample[column] for sample in samples if first <= sample[0] < last]

    # After the last step, the command saves, plots and reloads, which is not measured.
    spans = (0.2, 0.4), (0.8, 1.0)
    if not all(between(*span, 1) for span in spans):
        sys.exit(f"{title} was too short to be measured: increase its number of steps")
    memory = [statistics.median(between(*span, 1)) for span in spans]
    files = [min(between(*span, 2)) for span in spans]  # the minimum, because a checkpoint is open while it is written
    return {
        "done": total,
        "warm_bytes": memory[0],
        "end_bytes": memory[1],
        "growth": memory[1] / memory[0] - 1,
        "warm_files": files[0],
        "end_files": files[1],
    }


def main() -> None:
    """Run the test from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="Number of training steps.")
    parser.add_argument("--generations", type=int, default=2000, help="Number of texts to generate.")
    parser.add_argument("--output", type=Path, help="Write the metrics to this file, as JSON.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run, log = Path(name) / "run", Path(name) / "generated.txt"
        every = str(max(1, args.steps // 20))
        command = [sys.executable, str(PRETRAIN), "--output_dir", str(run), *TRAINING.split()]
        command += ["--max_steps", str(args.steps), "--eval_every", every, "--save_every", every]

        def steps_done() -> int:
            return max((row["step"] for row in read_metrics(run)), default=0)

        def texts_done() -> int:
            return len(log.read_text().splitlines()) if log.exists() else 0

        metrics = {"training steps": watch(command, steps_done, args.steps, "training")}
        script = f"import sys; sys.stdout = open({str(log)!r}, 'w')\n{GENERATE}"
        command = [sys.executable, "-c", script, str(run), str(args.generations)]
        metrics["texts generated"] = watch(command, texts_done, args.generations, "generating")
    table = Table("work", "memory after warm-up", "at the end", "growth", "open files")
    for work, row in metrics.items():
        megabytes = [f"{row[key] / 1e6:,.1f} MB" for key in ("warm_bytes", "end_bytes")]
        files = f"{row['warm_files']:.0f} → {row['end_files']:.0f}"
        table.add_row(f"{row['done']:,} {work}", *megabytes, f"{row['growth']:+.2%}", files)
    Console().print(table)
    if args.output:
        args.output.write_text(json.dumps(metrics, indent=1) + "\n")
    passed = all(row["growth"] <= MAX_GROWTH and row["end_files"] <= row["warm_files"] for row in metrics.values())
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
