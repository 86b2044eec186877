"""Why deep is hard: through every layer the gradient is multiplied once more.

In a stack of layers h_l = tanh(h_{l-1} W_l), the chain rule hands the gradient back as

    d loss / d h_{l-1}  =  (tanh'(h_{l-1} W_l) · d loss / d h_l) W_lᵀ

(· multiplies number by number, Wᵀ is W with rows for columns), so thirty layers multiply thirty matrices. If each makes
lists of numbers, vectors, a little shorter, the first layers learn nothing (the gradient vanishes); if a little longer,
it explodes. The numbers that a layer hands on are called features, the examples that go through together a batch, the
mean squared distance from the mean variance, and its root standard deviation. Four remedies:

- *initialisation*: weights of variance 1/n (LeCun et al. 1998). A sum of n products w_i x_i of independent numbers with
  mean 0, where x_i has variance 1, then has variance n · 1/n · 1 = 1: the size stays;
- *batch normalization* (arXiv:1502.03167): bring each feature to mean 0 and variance 1 over the examples of a batch
  (in use, with means and variances of training);
- *layer normalization* (arXiv:1607.06450): the same for each example, over its features. It needs no other examples;
- *residual connections* (arXiv:1512.03385): h_l = h_{l-1} + tanh(…), so that d h_l / d h_{l-1} is 1 + …: there is a
  straight way down.

The norms stand on the sums, before tanh; in use each has a learned scale and shift, which are left out here.

Both norms are one function along another axis: y = (x - mean) / s, s the standard deviation of n numbers. If x_j grows,
the mean grows by 1/n of it and s by y_j / n, so d y_i / d x_j = ([1 if i = j] - 1/n - y_i y_j / n) / s. Times
g_i = d loss / d y_i, added up over i:

    d loss / d x  =  (g - mean(g) - y · mean(g y)) / s

The parts of the gradient that only shift or stretch all of x are taken away: the norm would undo them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .lesson import Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
EPS = 1e-5  # keeps the division possible where all numbers are alike


def normalize(x: Array, axis: int) -> Array:
    """To mean 0 and variance 1 along an axis: 0 is batch normalization, -1 layer normalization."""
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + EPS)


def normalize_backward(x: Array, gradient: Array, axis: int) -> Array:
    """d loss / d x from d loss / d normalize(x)."""
    y, s = normalize(x, axis), np.sqrt(x.var(axis, keepdims=True) + EPS)
    return (gradient - gradient.mean(axis, keepdims=True) - y * (gradient * y).mean(axis, keepdims=True)) / s


@dataclass(frozen=True)
class Stack:
    """How a deep network is built.

    Attributes:
        scale: standard deviation of the weights, in units of 1 / √width.
        axis: along which the sums are normalised; None: not at all.
        residual: whether each layer adds to what it reads.
    """

    scale: float = 1.0
    axis: int | None = None
    residual: bool = False


STACKS = {
    "half as large": Stack(0.5),
    "twice as large": Stack(2.0),
    "variance 1/n": Stack(1.0),
    "half, batch norm": Stack(0.5, axis=0),
    "half, layer norm": Stack(0.5, axis=-1),
    "half, residual": Stack(0.5, residual=True),
    "half, layer norm, residual": Stack(0.5, axis=-1, residual=True),
}


def sizes(
    stack: Stack, layers: int = 30, width: int = 64, batch: int = 128, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Size of the signal that leaves each layer, and of the gradient that arrives there, first layer first; the signal
    that enters the first layer, and the gradient that arrives at the last, have size 1."""
    generator = np.random.default_rng(seed)
    weights = [generator.normal(0, stack.scale * width**-0.5, (width, width)) for _ in range(layers)]
    inputs, sums, bent = [generator.normal(size=(batch, width))], [], []
    for weight in weights:
        sums.append(inputs[-1] @ weight)
        bent.append(np.tanh(sums[-1] if stack.axis is None else normalize(sums[-1], stack.axis)))
        inputs.append(inputs[-1] + bent[-1] if stack.residual else bent[-1])
    gradients = [generator.normal(size=(batch, width))]  # whatever the loss is, it hands back something
    for layer in reversed(range(1, layers)):
        by_sum = gradients[-1] * (1 - bent[layer] ** 2)
        if stack.axis is not None:
            by_sum = normalize_backward(sums[layer], by_sum, stack.axis)
        through = by_sum @ weights[layer].T
        gradients.append(gradients[-1] + through if stack.residual else through)
    signals = [float(x.std() / inputs[0].std()) for x in inputs[1:]]
    return signals, [float(g.std() / gradients[0].std()) for g in reversed(gradients)]


def run(lesson: Lesson) -> dict[str, float]:
    lesson.part(
        "Thirty layers",
        """64 neurons wide, tanh, random weights, nothing trained yet. How large is the signal after the last layer, if
        it went in with size 1? And how much of the gradient that arrives at the last layer comes back to the first
        ones? Far below 1 they learn nothing; far above they are thrown about.""",
    )
    measured = {name: sizes(stack) for name, stack in STACKS.items()}
    rows = [
        (name, f"{signals[-1]:.1e}", *(f"{gradients[i]:.1e}" for i in (19, 9, 0)))
        for name, (signals, gradients) in measured.items()
    ]
    lesson.table(("weights", "signal out", "gradient at 20", "at 10", "at 1"), rows)
    lesson.say("""Half as large, and both vanish: 1/2 to the 29th power is 2e-9. Twice as large, the gradient explodes
        as far as tanh lets it, which is flat where numbers are large. With variance 1/n only tanh takes some away, as
        long as nothing is trained. The norms make the size of the weights not matter (what is left grows by a tenth a
        layer), the residuals open a straight way.""")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, (_, gradients) in measured.items():
            axes.plot(range(1, 31), gradients, label=name, linestyle="-" if "," in name else "--")
        axes.set(yscale="log", xlabel="layer", ylabel="gradient that arrives, last layer = 1")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)

    lesson.picture("depth", draw)
    found = {name: gradients[0] for name, (_, gradients) in measured.items()}
    return {**found, "signal": measured["half as large"][0][-1]}
