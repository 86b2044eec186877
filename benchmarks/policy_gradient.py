"""Compare the sample efficiency of PPO and REINFORCE on the same rule and model, as a table and a chart.

    python benchmarks/policy_gradient.py runs/gpt [--seeds 0 1 2] [--output FILE.json] [--chart FILE.png]

The rule is a regular expression that about a quarter of the pretrained model's stories match: somebody is glad, happy
or proud. Each run is evaluated at the end on 500 separate prompts and added to `--output`; runs that are already there
are skipped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
RULE = r"re:\b(glad|happy|proud)\b"
GOAL = 0.9
ALGORITHMS = {
    "ppo": (),
    "reinforce": ("--algorithm", "reinforce", "--learning_rate", "0.002", "--eval_every", "1"),
}
COLOURS = {"ppo": "#1f4e79", "reinforce": "#c0504d"}


def run(model: str, algorithm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train and evaluate, and return metrics and the learning curve."""
    out, judged = folder / f"{algorithm}-{seed}", folder / f"{algorithm}-{seed}.json"
    script = str(PROJECT / "training" / "policy_gradient.py")
    options = ["--init_from", model, "--reward", RULE, "--seed", str(seed), "--output_dir", str(out)]
    started = time.perf_counter()
    subprocess.run([sys.executable, script, *options, *ALGORITHMS[algorithm]], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    command = [sys.executable, "-m", "scratch_gpt", "judge", str(out), "--reward", RULE]
    command += ["--reference", model, "--output", str(judged)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curve = [(row.get("samples", 0), row["val_reward"]) for row in rows if "val_reward" in row]
    reached = next((samples for samples, reward in curve if reward >= GOAL), None)
    return {
        **json.loads(judged.read_text()),
        "seed": seed,
        "curve": curve,
        "samples_to_goal": reached,
        "seconds": seconds,
    }


def judge_base(model: str, folder: Path) -> dict[str, float]:
    """Evaluate the model that all runs start from."""
    command = [sys.executable, "-m", "scratch_gpt", "judge", model, "--reward", RULE]
    subprocess.run([*command, "--output", str(folder / "base.json")], check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads((folder / "base.json").read_text()))


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot the fraction of held-out prompts whose completion matches the rule over samples, one line per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for algorithm, runs in found.items():
        for number, one in enumerate(runs):
            label = {"ppo": "PPO", "reinforce": "REINFORCE"}[algorithm] if number == 0 else None
            axes.plot(*zip(*one["curve"], strict=True), color=COLOURS[algorithm], marker="o", markersize=3, label=label)
    axes.axhline(GOAL, color="#888888", linestyle="--", linewidth=1)
    axes.set_xlabel("samples")
    axes.set_ylabel("fraction of held-out prompts whose story matches the rule")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e3:g}k")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the story model, such as runs/gpt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("policy_gradient.json"))
    parser.add_argument("--chart", type=Path, default=Path("policy_gradient.png"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        earlier = json.loads(args.output.read_text()) if args.output.exists() else {}
        if earlier.get("model", args.model) != args.model:
            raise SystemExit(f"{args.output} holds runs from {earlier['model']}: name another --output")
        base = earlier.get("base") or judge_base(args.model, folder)
        found: dict[str, list[dict[str, Any]]] = {algorithm: earlier.get(algorithm, []) for algorithm in ALGORITHMS}
        for algorithm in ALGORITHMS:
            for seed in (seed for seed in args.seeds if seed not in {one["seed"] for one in found[algorithm]}):
                found[algorithm].append(run(args.model, algorithm, seed, folder))
                args.output.write_text(json.dumps({"model": args.model, "base": base, **found}, indent=1) + "\n")
    table = Table("", "rule matched", "KL, nats", "distinct-2 / base", "parsed", "samples to 90%", "seconds")
    table.add_row("base", f"{base['reward']:.1%}", "", "", f"{base['parsed']:.1%}", "", "")
    for algorithm, runs in found.items():
        mean = {name: statistics.mean(one[name] for one in runs) for name in ("reward", "kl", "distinct_2", "parsed")}
        reached = ", ".join("never" if one["samples_to_goal"] is None else str(one["samples_to_goal"]) for one in runs)
        each = ", ".join(f"{one['reward']:.1%}" for one in runs)
        table.add_row(
            algorithm,
            f"{mean['reward']:.1%} ({each})",
            f"{mean['kl']:.2f}",
            f"{mean['distinct_2'] / base['distinct_2']:.2f}",
            f"{mean['parsed']:.1%}",
            reached,
            ", ".join(f"{one['seconds']:.0f}" for one in runs),
        )
    Console(width=160).print(table)
    draw(found, args.chart)


if __name__ == "__main__":
    main()
