"""Definitions of metrics, shared by console, plots, model card and the selection of the best model."""

from __future__ import annotations

from dataclasses import dataclass

# Texts in a row of `metrics.jsonl`, beside its numbers; the verdict compares the model with others in words.
TEXTS = ("sample", "verdict")


@dataclass(frozen=True)
class Metric:
    """The definition of a metric that an evaluation returns.

    Attributes:
        name: key in `metrics.jsonl`, such as "val_loss".
        title: name in tables, such as "loss".
        unit: unit in tables, such as "nats per token"; empty if it has none.
        format: format specification on the console, such as ".4f".
        higher_is_better: whether the best value is the highest; otherwise it is the lowest.
        show: label on the console line of an evaluation; empty if it is not shown.
        plot: whether to plot it on a second axis of the loss plot.
        index: whether the Hub's model index of a published model lists it.
    """

    name: str
    title: str
    unit: str = ""
    format: str = ".4f"
    higher_is_better: bool = False
    show: str = ""
    plot: bool = False
    index: bool = True

    def is_better(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`."""
        return value > other if self.higher_is_better else value < other

    @property
    def label(self) -> str:
        """Title and unit, for tables."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


@dataclass(frozen=True)
class Panel:
    """A panel of a plot: a metric of training, a metric of evaluation, or both.

    Attributes:
        title: title of the panel.
        trained: name of the metric of training steps, or None.
        held_out: name of the metric of evaluations, or None.
    """

    title: str
    trained: str | None = None
    held_out: str | None = None


def find_metric(metrics: tuple[Metric, ...], name: str) -> Metric | None:
    """Return the metric with this name, or None."""
    return next((metric for metric in metrics if metric.name == name), None)
