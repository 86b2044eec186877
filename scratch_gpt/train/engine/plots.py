"""Plots of a training run: its losses, or several metrics in panels."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from ...metrics import Metric, Panel
from .task import Task

LIGHT, DARK, RED, GREEN = "#8fb3d9", "#1f4e79", "#c0504d", "#4f8a4c"


def plot_run(rows: list[dict[str, Any]], path: Path, title: str, task: Task) -> None:
    """Plot the metrics of a training run.

    Args:
        rows: rows of `metrics.jsonl`.
        path: path of the image.
        title: title of the plot.
        task: provides the panels, metrics and unit.
    """
    if task.panels:
        plot_panels(rows, path, title, task.panels)
    else:
        plot_losses(rows, path, title, task.unit, task.metrics)


def plot_panels(rows: list[dict[str, Any]], path: Path, title: str, panels: tuple[Panel, ...]) -> None:
    """Plot several metrics over the number of samples, or of tokens, one per panel.

    Args:
        rows: rows of `metrics.jsonl`.
        path: path of the image.
        title: title of the plot.
        panels: the metrics to plot.
    """
    from matplotlib.figure import Figure

    recorded = {name for row in rows for name in row}
    x_axis = "samples" if "samples" in recorded else "tokens"
    shown = [panel for panel in panels if recorded & {panel.trained, panel.held_out}]
    figure = Figure(figsize=(10, 2.6 * -(-len(shown) // 2)), layout="constrained")
    figure.suptitle(title)
    for axes, panel in zip(figure.subplots(-(-len(shown) // 2), 2).flat, shown, strict=False):
        for name, style in ((panel.trained, {"color": LIGHT}), (panel.held_out, {"color": DARK, "marker": "o"})):
            points = [(row.get(x_axis, 0), row[name]) for row in rows if name in row]
            if points:
                label = "training" if name == panel.trained else "held out"
                axes.plot(*zip(*points, strict=True), linewidth=1.2, markersize=4, label=label, **style)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(x_axis, fontsize=9)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    for axes in figure.axes[len(shown) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=150)
    del figure, axes
    gc.collect()


def plot_losses(
    rows: list[dict[str, Any]], path: Path, title: str = "", unit: str = "token", metrics: tuple[Metric, ...] = ()
) -> None:
    """Plot training and validation loss over the tokens seen, with the entropy of the text if it is known.

    Args:
        rows: rows of `metrics.jsonl`.
        path: path of the image.
        title: title of the plot.
        unit: unit that the loss is averaged over, such as "token".
        metrics: those with `plot` are drawn on a second axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    trained = [(row["tokens"], row["train_loss"]) for row in rows if "train_loss" in row]
    validated = [(row["tokens"], row["val_loss"]) for row in rows if "val_loss" in row]
    if trained:
        axes.plot(*zip(*trained, strict=True), color=LIGHT, linewidth=1.2, label="train")
    if validated:
        axes.plot(*zip(*validated, strict=True), color=DARK, marker="o", markersize=4, label="validation")
    floors = [row["entropy_floor"] for row in rows if "entropy_floor" in row]
    if floors:
        axes.axhline(floors[-1], color=RED, linestyle="--", linewidth=1.2, label="entropy (lower bound)")
    if trained or validated:
        lowest = min([loss for _, loss in trained + validated] + floors[-1:])
        highest = trained[len(trained) // 20][1] if trained else max(loss for _, loss in validated)
        axes.set_ylim(lowest - 0.05 * (highest - lowest), highest + 0.05 * (highest - lowest) + 1e-6)
    axes.set_xlabel(f"{unit}s seen")
    axes.set_ylabel(f"loss in nats per {unit}")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    for metric in (metric for metric in metrics if metric.plot):
        if scored := [(row["tokens"], row[metric.name]) for row in rows if metric.name in row]:
            right_axis = axes.twinx()
            right_axis.plot(*zip(*scored, strict=True), color=GREEN, marker="s", markersize=4, linewidth=1.2)
            right_axis.set_ylabel(metric.title, color=GREEN)
            right_axis.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k")
    figure.savefig(path, dpi=150)
    del figure, axes
    gc.collect()  # figures are reference cycles of several megabytes, which Python collects rarely
