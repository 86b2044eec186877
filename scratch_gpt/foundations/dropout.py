"""Dropout: learn with a random part of the network missing, so that no neuron can rely on another one.

While training, each output of a hidden neuron is set to 0 with probability p, and the others are divided by 1 - p:

    y = x · m / (1 - p),   m = 0 with probability p, else 1

The mean of m is 1 - p, so the mean of y is x, and in use, where nothing is dropped, nothing needs to change. The
gradient goes where the numbers went: d y / d x = m / (1 - p) (Srivastava et al. 2014,
jmlr.org/papers/v15/srivastava14a.html; dividing in training and not in use is called inverted dropout).

A network with more weights than examples can learn these by heart: its loss on them falls to 0, while that on others
grows, which is called overfitting.
Noise is hard to learn by heart through a network that is another one at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .lesson import BLUE, RED, Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def dropout(x: torch.Tensor, p: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """x · m / (1 - p), for training."""
    kept = torch.rand(x.shape, generator=generator) >= p
    return x * kept / (1 - p)


def moons(count: int, noise: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (count, 2) of two half moons that reach into each other, and which moon (count,) each is of."""
    labels = torch.arange(count) % 2
    angle = torch.rand(count, generator=generator) * torch.pi
    x = torch.where(labels == 0, angle.cos(), 1 - angle.cos())
    y = torch.where(labels == 0, angle.sin(), 0.5 - angle.sin())
    points = torch.stack((x, y), dim=1)
    return points + noise * torch.randn(count, 2, generator=generator), labels


def fit(p: float, seed: int, steps: int = 1000, width: int = 128) -> tuple[list[float], list[float]]:
    """Train 2 → width → width → 2 on 60 noisy points; losses on them and on 2,000 others, every 50 steps."""
    generator = torch.Generator().manual_seed(seed)
    (points, labels), (others, answers) = moons(60, 0.35, generator), moons(2000, 0.35, generator)
    sizes = ((2, width), (width, width), (width, 2))
    weights = [torch.randn(shape, generator=generator) * (2 / shape[0]) ** 0.5 for shape in sizes]
    parameters = [nn.Parameter(tensor) for weight in weights for tensor in (weight, torch.zeros(weight.shape[1]))]

    def scores(x: torch.Tensor, p: float) -> torch.Tensor:
        for weight, bias in zip(parameters[0:4:2], parameters[1:4:2], strict=True):
            x = dropout(F.relu(x @ weight + bias), p, generator) if p else F.relu(x @ weight + bias)
        return x @ parameters[4] + parameters[5]

    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    seen, unseen = [], []
    for step in range(steps + 1):
        if step % 50 == 0:
            with torch.no_grad():
                seen.append(F.cross_entropy(scores(points, 0.0), labels).item())
                unseen.append(F.cross_entropy(scores(others, 0.0), answers).item())
        loss = F.cross_entropy(scores(points, p), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return seen, unseen


def run(lesson: Lesson) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    x = torch.full((10,), 2.0)
    lesson.part(
        "Half of the numbers",
        f"""Ten times the number 2 through dropout with p = 0.5:
        {" ".join(f"{v:g}" for v in dropout(x, 0.5, generator))}.
        What is left is doubled, so that the mean stays. Over a million numbers:""",
    )
    worst = 0.0
    rows: list[tuple[str | float, ...]] = []
    for p in (0.1, 0.3, 0.5, 0.8):
        dropped = dropout(torch.full((1_000_000,), 2.0), p, generator)
        rows.append((f"{p}", f"{(dropped == 0).float().mean():.1%}", dropped.mean().item()))
        worst = max(worst, abs(dropped.mean().item() - 2))
    lesson.table(("p", "became 0", "mean, 2 before"), rows)

    lesson.part(
        "Learning by heart",
        """60 points of two noisy half moons, and a network with 17,000 weights. Cross-entropy after 1,000 steps, on
        these points and on 2,000 others; means of three draws:""",
    )
    curves = {p: [fit(p, seed) for seed in range(3)] for p in (0.0, 0.2, 0.5)}
    mean = {
        p: [torch.tensor([one[side] for one in runs]).mean(0).tolist() for side in (0, 1)] for p, runs in curves.items()
    }
    rows = [(f"{p}", seen[-1], unseen[-1], min(unseen)) for p, (seen, unseen) in mean.items()]
    lesson.table(("p", "on the 60", "on others", "on others, at its best"), rows)
    lesson.say("""Without dropout the 60 points are known by heart and the loss on others has grown far beyond its best.
        Dropout slows the learning by heart down. It does not replace examples, nor stopping in time.""")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for p, colour in ((0.0, RED), (0.5, BLUE)):
            for side, style in ((0, "--"), (1, "-")):
                name = ("the 60 points", "others")[side]
                steps = range(0, 50 * len(mean[p][side]), 50)
                axes.plot(steps, mean[p][side], color=colour, linestyle=style, label=f"p = {p}, {name}")
        axes.set(xlabel="step", ylabel="cross-entropy", ylim=(0, None))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)

    lesson.picture("dropout", draw)
    return {
        "seen_without": mean[0.0][0][-1],
        "best_without": min(mean[0.0][1]),
        "mean_error": worst,
        "gap_without": mean[0.0][1][-1] - mean[0.0][0][-1],
        "gap_with": mean[0.5][1][-1] - mean[0.5][0][-1],
        "without": mean[0.0][1][-1],
        "with": mean[0.5][1][-1],
    }
