"""Train a GPT with PPO for positive sentiment by one classifier, and verify the gain with a second classifier.

    python benchmarks/sentiment_policy.py train.tsv [--seeds 0] [--output FILE.json]

`train.tsv` contains sentences and labels 0 and 1 (SST-2). A classifier is trained on each half (`sst2.yaml`), and a
small GPT on all sentences without labels; the reward of PPO is a positive prediction of the first classifier. At the
end 500 prompts that PPO has not seen are completed, and scored by both classifiers: a gain for only the first one would
be reward hacking.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
TEST_PROMPTS, WORDS = 500, 3  # test prompts, and words per prompt
GPT = ("--tokenizer", "bpe", "--vocab_size", "2048", "--context_length", "64", "--epochs", "6", "--dropout", "0.2")
PPO = ("--max_new_tokens", "40", "--kl_coefficient", "0.01", "--gae_lambda", "1", "--epochs", "1.2")
JUDGES = """
from scratch_gpt.rl.rewards import open_reward

_first, _second = open_reward("{folder}/first#1"), open_reward("{folder}/second#1")

def first(prompts, completions, **_):
    return [float(p > 0.5) for p in _first(prompts=prompts, completions=completions)]

def second(prompts, completions, **_):
    return [float(p > 0.5) for p in _second(prompts=prompts, completions=completions)]
"""


def run(*command: str) -> None:
    """Run Python with these arguments; its output is printed only if it fails."""
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")


def prepare(table: Path, folder: Path) -> None:
    """Write both halves with labels, the sentences without labels, and the prompts."""
    lines = [line for line in table.read_text(encoding="utf-8").splitlines() if line.count("\t") == 1]
    random.Random(0).shuffle(lines)
    for name, half in (("first", lines[::2]), ("second", lines[1::2])):
        (folder / f"{name}.tsv").write_text("\n".join(half) + "\n", encoding="utf-8")
    sentences = [line.split("\t")[0] for line in lines]
    (folder / "sentences.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences))
    prompts = list(dict.fromkeys(" ".join(text.split()[:WORDS]) for text in sentences if len(text.split()) > WORDS))
    (folder / "test.txt").write_text("\n".join(prompts[:TEST_PROMPTS]) + "\n", encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(prompts[TEST_PROMPTS:]) + "\n", encoding="utf-8")
    (folder / "judges.py").write_text(JUDGES.format(folder=folder))


def train(script: str, out: Path, *options: str) -> float:
    """Run a training script, and return its duration in seconds."""
    started = time.perf_counter()
    run(str(PROJECT / "training" / script), "--output_dir", str(out), *options)
    return time.perf_counter() - started


def judge(model: Path, reference: Path, folder: Path) -> dict[str, Any]:
    """Score the same completions with both classifiers, and measure the divergence from the reference."""
    metrics: dict[str, Any] = {}
    for name in ("first", "second"):
        out = folder / "judged.json"
        command = ["-m", "scratch_gpt", "judge", str(model), "--max_new_tokens", "40"]
        command += ["--reward", f"{folder}/judges.py:{name}", "--dataset", str(folder / "test.txt")]
        run(*command, "--reference", str(reference), "--output", str(out))
        found = json.loads(out.read_text())
        metrics |= {**found, name: found["reward"]}
    return metrics


def main() -> None:
    """Run the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="train.tsv of SST-2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("sentiment_policy.json"))
    args = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(args.table, folder)
        config = str(PROJECT / "training" / "configs" / "sst2.yaml")
        for name in ("first", "second"):
            train("classification.py", folder / name, "--config", config, "--dataset", str(folder / f"{name}.tsv"))
        train("language_modeling.py", folder / "gpt", "--dataset", str(folder / "sentences.jsonl"), *GPT)
        rows["before"] = judge(folder / "gpt", folder / "gpt", folder)
        ppo_options = ("--reward", f"{folder}/first#1", "--dataset", str(folder / "prompts.txt"), *PPO)
        for seed in args.seeds:
            out = folder / f"ppo{seed}"
            options = ("--init_from", str(folder / "gpt"), "--seed", str(seed), *ppo_options)
            seconds = train("policy_gradient.py", out, *options)
            rows[f"PPO, seed {seed}"] = {**judge(out, folder / "gpt", folder), "seconds": seconds}
            args.output.write_text(json.dumps(rows, indent=1) + "\n")
    table = Table("", "positive by the first", "by the second", "KL", "perplexity under the reference", "distinct-2")
    for name, row in rows.items():
        perplexity = f"{row['reference_perplexity']:.1f}"
        fractions = [f"{row[classifier]:.1%}" for classifier in ("first", "second")]
        table.add_row(name, *fractions, f"{row['kl']:.2f}", perplexity, f"{row['distinct_2']:.3f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
