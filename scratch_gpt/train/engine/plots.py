"""Pictures of a run: losses, and what learning from rewards is watched by."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

LIGHT, DARK, RED, GREEN = "#8fb3d9", "#1f4e79", "#c0504d", "#4f8a4c"
# Panels of a run that learns from rewards: title, figure in training, figure on held-out prompts.
PANELS = (
    ("reward", "reward", "val_reward"),
    ("KL to the reference, nats a completion", "kl", "val_kl"),
    ("entropy, nats a token", "entropy", None),
    ("different pairs of words, share", None, "val_distinct_2"),
    ("tokens clipped, share", "clip_fraction", None),
    ("tokens of a completion", "length", "val_length"),
)


def plot_run(rows: list[dict[str, Any]], path: Path, title: str = "", unit: str = "token") -> None:
    """The picture of a run, from the rows of its `metrics.jsonl`."""
    if any("val_reward" in row for row in rows):
        plot_rewards(rows, path, title)
    else:
        plot_losses(rows, path, title, unit)


def plot_rewards(rows: list[dict[str, Any]], path: Path, title: str = "") -> None:
    """Reward, KL, entropy, variety, clipping and length over the samples that were learned from."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if any(name in row for name in panel[1:] if name for row in rows)]
    figure = Figure(figsize=(10, 2.6 * -(-len(panels) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, trained, held_out) in zip(figure.subplots(-(-len(panels) // 2), 2).flat, panels, strict=False):
        for figure_name, style in ((trained, {"color": LIGHT}), (held_out, {"color": DARK, "marker": "o"})):
            points = [(row.get("samples", 0), row[figure_name]) for row in rows if figure_name in row]
            if points:
                label = "training" if figure_name == trained else "held-out prompts"
                axes.plot(*zip(*points, strict=True), linewidth=1.2, markersize=4, label=label, **style)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("samples", fontsize=9)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=150)
    del figure, axes
    gc.collect()


def plot_losses(rows: list[dict[str, Any]], path: Path, title: str = "", unit: str = "token") -> None:
    """Losses over tokens (or texts, as `unit` says), with the entropy floor where it is known, and BLEU or accuracy
    where there is one, as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    trained = [(row["tokens"], row["train_loss"]) for row in rows if "train_loss" in row]
    validated = [(row["tokens"], row["val_loss"]) for row in rows if "val_loss" in row]
    if trained:
        axes.plot(*zip(*trained, strict=True), color=LIGHT, linewidth=1.2, label="train")
    if validated:
        axes.plot(*zip(*validated, strict=True), color=DARK, marker="o", markersize=4, label="validation")
    floors = [row["entropy_floor"] for row in rows if "entropy_floor" in row]
    if floors:
        axes.axhline(floors[-1], color=RED, linestyle="--", linewidth=1.2, label="entropy: no model gets below")
    if trained or validated:
        lowest = min([loss for _, loss in trained + validated] + floors[-1:])
        highest = trained[len(trained) // 20][1] if trained else max(loss for _, loss in validated)
        axes.set_ylim(lowest - 0.05 * (highest - lowest), highest + 0.05 * (highest - lowest) + 1e-6)
    axes.set_xlabel(f"{unit}s seen")
    axes.set_ylabel(f"loss in nats a {unit}")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    for name, label in (("val_bleu", "BLEU"), ("val_accuracy", "accuracy")):
        if scored := [(row["tokens"], row[name]) for row in rows if name in row]:
            beside = axes.twinx()
            beside.plot(*zip(*scored, strict=True), color=GREEN, marker="s", markersize=4, linewidth=1.2)
            beside.set_ylabel(label, color=GREEN)
            beside.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k")
    figure.savefig(path, dpi=150)
    del figure, axes
    gc.collect()  # a figure holds itself, and megabytes, in circles that Python finds but rarely
