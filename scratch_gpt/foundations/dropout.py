"""Overfitting, and dropout: train with a random part of the neurons disabled, so that none can rely on another."""

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
    """Show overfitting, derive dropout, and show that it preserves the mean and reduces overfitting."""
    presenter.section(
        "The question",
        """A network with more weights than examples can memorise them: its loss on them falls to 0. But we want it to
        be right on examples that it has not seen. So part of the data is kept aside: the network is trained on the
        training set and judged on the rest, the validation or test set. If the training loss falls while the loss on
        the rest rises, the network learns what is accidental in its examples, the noise. This is overfitting. What
        helps?

        - more examples, if there are any;
        - a smaller network;
        - early stopping: keep the weights from the step where the validation loss was lowest;
        - making it harder to memorise. One such method is dropout.""",
    )
    means = _show_mean(presenter)
    return means | _overfit(presenter)


def _show_mean(presenter: Presenter) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    presenter.section(
        "Dropout",
        f"""In each training step, every output of a hidden neuron is set to 0 with probability p, and the others are
        divided by 1 - p (Srivastava et al. 2014):

            y = x · m / (1 - p)
            m = 0 with probability p, else 1

        No neuron can rely on a certain other one, so accidental combinations are of little use. Why the division? The
        mean of m is 1 - p, so the mean of y is x: in use, when nothing is dropped, the next layer gets what it is used
        to. The gradient has the same mask: d y / d x = m / (1 - p). Ten times the number 2 with p = 0.5:

            {" ".join(f"{v:g}" for v in dropout(torch.full((10,), 2.0), 0.5, generator))}""",
    )
    presenter.code(dropout)
    presenter.section("The mean is preserved", "A million times the number 2:")
    largest_error = 0.0
    rows: list[tuple[str | float, ...]] = []
    for p in (0.1, 0.3, 0.5, 0.8):
        dropped = dropout(torch.full((1_000_000,), 2.0), p, generator)
        rows.append((f"{p}", f"{(dropped == 0).float().mean():.1%}", dropped.mean().item()))
        largest_error = max(largest_error, abs(dropped.mean().item() - 2))
    presenter.table(("p", "zeros", "mean"), rows)
    return {"mean_error": largest_error}


def _overfit(presenter: Presenter) -> dict[str, float]:
    presenter.section(
        "Overfitting, with and without dropout",
        """60 points of two half circles that overlap, and a network with 17,000 weights. Cross-entropy in nats after
        1,000 steps, on these points and on 2,000 others; means of three random starts:""",
    )
    curves = {p: [fit(p, seed) for seed in range(3)] for p in (0.0, 0.5)}
    mean = {
        p: [torch.tensor([one[side] for one in runs]).mean(0).tolist() for side in (0, 1)] for p, runs in curves.items()
    }
    rows = [(f"{p}", train[-1], test[-1], min(test)) for p, (train, test) in mean.items()]
    presenter.table(("p", "training loss", "test loss", "lowest test loss"), rows)
    presenter.text("""Without dropout the network memorises the 60 points, and the test loss rises far above its lowest
        value; a guess between two classes would have ln 2 = 0.693. With dropout it rises less, but it rises: dropout
        replaces neither more examples nor early stopping. Large language models, which see each text only once or a few
        times, are mostly trained without dropout; small ones on little text need it.""")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for p, colour in ((0.0, RED), (0.5, BLUE)):
            for side, style in ((0, "--"), (1, "-")):
                name = ("training", "test")[side]
                steps = range(0, 50 * len(mean[p][side]), 50)
                axes.plot(steps, mean[p][side], color=colour, linestyle=style, label=f"p = {p}, {name}")
        axes.set(xlabel="step", ylabel="cross-entropy in nats", ylim=(0, None))
        axes.grid(alpha=0.25)
        figure.legend(loc="outside right center", title="dropout, examples")

    presenter.plot("dropout", "The training loss falls, the test loss rises: overfitting", draw, (9, 4.5))
    return {
        "train_without": mean[0.0][0][-1],
        "best_without": min(mean[0.0][1]),
        "gap_without": mean[0.0][1][-1] - mean[0.0][0][-1],
        "gap_with": mean[0.5][1][-1] - mean[0.5][0][-1],
        "without": mean[0.0][1][-1],
        "with": mean[0.5][1][-1],
    }
