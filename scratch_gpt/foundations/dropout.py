"""Dropout: train with a random part of the neurons disabled, so that no neuron can rely on another one.

During training, each output of a hidden neuron is set to 0 with probability p, and the others are divided by 1 - p:

    y = x · m / (1 - p),   m = 0 with probability p, else 1

The mean of m is 1 - p, so the mean of y is x, and inference, without dropout, needs no scaling. The gradient has the
same mask: d y / d x = m / (1 - p) (Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html; scaling during
training instead of inference is called inverted dropout).

A network with more weights than examples can memorise them: its loss on them falls to 0, while the loss on other
examples grows. This is overfitting. Dropout makes memorising noise harder, because the active network differs at every
step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .lesson import BLUE, RED, Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def dropout(x: torch.Tensor, p: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return x · m / (1 - p), as during training."""
    mask = torch.rand(x.shape, generator=generator) >= p
    return x * mask / (1 - p)


def moons(count: int, noise: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points (count, 2) of two interleaving half circles, and the labels (count,)."""
    labels = torch.arange(count) % 2
    angle = torch.rand(count, generator=generator) * torch.pi
    x = torch.where(labels == 0, angle.cos(), 1 - angle.cos())
    y = torch.where(labels == 0, angle.sin(), 0.5 - angle.sin())
    points = torch.stack((x, y), dim=1)
    return points + noise * torch.randn(count, 2, generator=generator), labels


def fit(p: float, seed: int, steps: int = 1000, width: int = 128) -> tuple[list[float], list[float]]:
    """Train a network 2 → width → width → 2 on 60 noisy points.

    Args:
        p: dropout probability.
        seed: of points, weights and dropout.
        steps: number of steps, each on all points.
        width: neurons of a hidden layer.

    Returns:
        Cross-entropy on the training points and on 2,000 test points, every 50 steps.
    """
    generator = torch.Generator().manual_seed(seed)
    (points, labels), (test_points, test_labels) = moons(60, 0.35, generator), moons(2000, 0.35, generator)
    sizes = ((2, width), (width, width), (width, 2))
    weights = [torch.randn(shape, generator=generator) * (2 / shape[0]) ** 0.5 for shape in sizes]
    parameters = [nn.Parameter(tensor) for weight in weights for tensor in (weight, torch.zeros(weight.shape[1]))]

    def scores(x: torch.Tensor, p: float) -> torch.Tensor:
        for weight, bias in zip(parameters[0:4:2], parameters[1:4:2], strict=True):
            x = dropout(F.relu(x @ weight + bias), p, generator) if p else F.relu(x @ weight + bias)
        return x @ parameters[4] + parameters[5]

    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    train_losses, test_losses = [], []
    for step in range(steps + 1):
        if step % 50 == 0:
            with torch.no_grad():
                train_losses.append(F.cross_entropy(scores(points, 0.0), labels).item())
                test_losses.append(F.cross_entropy(scores(test_points, 0.0), test_labels).item())
        loss = F.cross_entropy(scores(points, p), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return train_losses, test_losses


def run(presenter: Presenter) -> dict[str, float]:
    """Show the mean of dropped-out values, and overfitting with and without dropout."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((10,), 2.0)
    presenter.section(
        "The mean is preserved",
        f"""Ten times the number 2 after dropout with p = 0.5:
        {" ".join(f"{v:g}" for v in dropout(x, 0.5, generator))}.
        The remaining numbers are doubled, which preserves the mean. Over a million numbers:""",
    )
    largest_error = 0.0
    rows: list[tuple[str | float, ...]] = []
    for p in (0.1, 0.3, 0.5, 0.8):
        dropped = dropout(torch.full((1_000_000,), 2.0), p, generator)
        rows.append((f"{p}", f"{(dropped == 0).float().mean():.1%}", dropped.mean().item()))
        largest_error = max(largest_error, abs(dropped.mean().item() - 2))
    presenter.table(("p", "zeros", "mean (2 before)"), rows)

    presenter.section(
        "Overfitting",
        """60 points of two noisy half circles, and a network with 17,000 weights. Cross-entropy after 1,000 steps on
        these points and on 2,000 test points; means of three seeds:""",
    )
    curves = {p: [fit(p, seed) for seed in range(3)] for p in (0.0, 0.2, 0.5)}
    mean = {
        p: [torch.tensor([one[side] for one in runs]).mean(0).tolist() for side in (0, 1)] for p, runs in curves.items()
    }
    rows = [(f"{p}", train[-1], test[-1], min(test)) for p, (train, test) in mean.items()]
    presenter.table(("p", "training loss", "test loss", "lowest test loss"), rows)
    presenter.text("""Without dropout the network memorises the 60 points, and the test loss grows far above its
        minimum. Dropout reduces overfitting. It replaces neither more examples nor early stopping.""")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for p, colour in ((0.0, RED), (0.5, BLUE)):
            for side, style in ((0, "--"), (1, "-")):
                name = ("training", "test")[side]
                steps = range(0, 50 * len(mean[p][side]), 50)
                axes.plot(steps, mean[p][side], color=colour, linestyle=style, label=f"p = {p}, {name}")
        axes.set(xlabel="step", ylabel="cross-entropy", ylim=(0, None))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)

    presenter.plot("dropout", draw)
    return {
        "train_without": mean[0.0][0][-1],
        "best_without": min(mean[0.0][1]),
        "mean_error": largest_error,
        "gap_without": mean[0.0][1][-1] - mean[0.0][0][-1],
        "gap_with": mean[0.5][1][-1] - mean[0.5][0][-1],
        "without": mean[0.0][1][-1],
        "with": mean[0.5][1][-1],
    }
