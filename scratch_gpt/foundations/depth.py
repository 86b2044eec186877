"""Why deep networks are hard to train: every layer multiplies the gradient once more. Four remedies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from .lesson import Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
EPS = 1e-5  # prevents division by zero if all numbers are equal


def normalize(x: Array, axis: int) -> Array:
    """Scale (examples, features) to mean 0 and variance 1 along an axis: 0 is batch, -1 layer normalization."""
    centred = x - x.mean(axis, keepdims=True)
    return centred / np.sqrt(x.var(axis, keepdims=True) + EPS)


def normalize_backward(x: Array, gradient: Array, axis: int) -> Array:
    """Return d loss / d x, given `gradient`, d loss / d normalize(x)."""
    y, s = normalize(x, axis), np.sqrt(x.var(axis, keepdims=True) + EPS)
    shift = gradient.mean(axis, keepdims=True)
    scale = (gradient * y).mean(axis, keepdims=True)
    return (gradient - shift - y * scale) / s


@dataclass(frozen=True)
class Stack:
    """The architecture of a deep network.

    Attributes:
        scale: standard deviation of the weights, in units of 1 / √width.
        axis: axis along which the sums are normalized; None: no normalization.
        residual: whether the layers have residual connections.
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


def measure_scales(
    stack: Stack, layers: int = 30, width: int = 64, batch: int = 128, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Measure the scale of activations and gradients in a random network.

    Args:
        stack: architecture.
        layers: number of layers.
        width: neurons per layer.
        batch: number of examples.
        seed: of weights, inputs and output gradients.

    Returns:
        Standard deviations of each layer's output, relative to the network's input, and of the gradient with respect to
        it, relative to the one at the last layer; both from the first layer to the last.
    """
    generator = np.random.default_rng(seed)
    weights = [generator.normal(0, stack.scale * width**-0.5, (width, width)) for _ in range(layers)]
    inputs, sums, activations = [generator.normal(size=(batch, width))], [], []
    for weight in weights:
        sums.append(inputs[-1] @ weight)
        activations.append(np.tanh(sums[-1] if stack.axis is None else normalize(sums[-1], stack.axis)))
        inputs.append(inputs[-1] + activations[-1] if stack.residual else activations[-1])
    gradients = [generator.normal(size=(batch, width))]  # in place of a loss
    for layer in reversed(range(1, layers)):
        d_sums = gradients[-1] * (1 - activations[layer] ** 2)
        if stack.axis is not None:
            d_sums = normalize_backward(sums[layer], d_sums, stack.axis)
        d_inputs = d_sums @ weights[layer].T
        gradients.append(gradients[-1] + d_inputs if stack.residual else d_inputs)
    signals = [float(x.std() / inputs[0].std()) for x in inputs[1:]]
    return signals, [float(g.std() / gradients[0].std()) for g in reversed(gradients)]


def run(presenter: Presenter) -> dict[str, float]:
    """Derive the vanishing gradient and the norms; compare the gradients of thirty-layer networks."""
    presenter.section(
        "The question",
        """More layers can express more. Yet before 2015 or so, networks of thirty layers could not be trained. Why?
        Take a stack in which each layer computes h_l = tanh(h_(l-1) W_l) from the one below. By the chain rule the
        gradient travels back through

            d loss / d h_(l-1)
              = (tanh' · d loss / d h_l) W_lᵀ

        (tanh' is the slope of tanh, at most 1; W_lᵀ is W_l with rows and columns exchanged). Each layer multiplies the
        gradient once more. Thirty factors of 1/2 make 0.5^30 = 0.000000001: the gradient vanishes, and the first layers
        learn nothing. Thirty factors of 2 make a billion: it explodes, and training diverges. Only factors near 1 are
        usable.""",
    )
    presenter.section(
        "Words for spread",
        """The numbers in a layer's output are called its features; the examples that are computed together are a batch.
        How large are features? Their mean says little, because positive and negative ones cancel. So take the mean of
        their squared distances from the mean, the variance, and its root, the standard deviation:

            of 1, 2, 3, 6:  mean 3
            variance:       (4 + 1 + 0 + 9) / 4 = 3.5
            std. deviation: √3.5 = 1.87

        The question is now: how do the standard deviations of outputs and gradients change from layer to layer?""",
    )
    presenter.section(
        "Four remedies",
        """
        - Initialization: random weights of variance 1/n for n inputs (LeCun et al. 1998). A sum of n products of
          independent numbers, of variance 1/n and 1, has the variance n · 1/n · 1 = 1: the scale stays.
        - Batch normalization (arXiv:1502.03167): shift and scale each feature to mean 0 and variance 1 over the
          examples of the batch.
        - Layer normalization (arXiv:1607.06450): the same for each example over its features. It needs no other
          examples, so that language models use it.
        - Residual connections (arXiv:1512.03385): h_l = h_(l-1) + tanh(…). The derivative with respect to h_(l-1) is
          1 + …: there is always a path without any factor.

        Both norms are one function along different directions of the table (examples, features). They are applied
        before tanh; a learned scale and shift, which usually follow, are left out here.""",
    )
    presenter.code(normalize)
    _compare(presenter)
    presenter.section(
        "The gradient of a norm",
        """A norm is y = (x - mean) / s, where s is the standard deviation of n numbers. If x_j grows by a small d, the
        mean grows by d/n, and s² = 1/n Σ (x_i - mean)² by 2 (x_j - mean) d / n = 2 s y_j d / n (the change of the mean
        cancels, because the distances from it add up to 0). Growth of s² is 2 s times growth of s, so s grows by
        d y_j / n. Together:

            d y_i / d x_j
              = ([1 if i = j] - 1/n - y_i y_j / n) / s

        Multiplied by g_i = d loss / d y_i and summed over i, that is

            d loss / d x
              = (g - mean(g) - y · mean(g y)) / s

        The parts of the gradient that would only shift or scale x are removed: the norm undoes such changes, so they
        can't change the loss. And the division by s makes the gradient independent of the scale of the weights.""",
    )
    presenter.code(normalize_backward)
    measured = _measure()
    first_gradients = {name: gradients[0] for name, (_, gradients) in measured.items()}
    return {**first_gradients, "signal": measured["half as large"][0][-1]}


@cache
def _measure() -> dict[str, tuple[list[float], list[float]]]:
    return {name: measure_scales(stack) for name, stack in STACKS.items()}


def _compare(presenter: Presenter) -> None:
    presenter.section(
        "Thirty layers, measured",
        """64 features, random weights, before training. Standard deviation of the last layer's output relative to the
        input, and of the gradient at layers 20, 10 and 1 relative to layer 30 (1e-03 means 0.001):""",
    )
    measured = _measure()
    rows = [
        (name, f"{signals[-1]:.1e}", *(f"{gradients[i]:.1e}" for i in (19, 9, 0)))
        for name, (signals, gradients) in measured.items()
    ]
    presenter.table(("weights", "output", "gradient at 20", "at 10", "at 1"), rows)
    presenter.text("""Half as large as 1/n asks for: both vanish, as 0.5^29 = 2e-09. Twice as large: the gradient
        explodes, though tanh limits it. Variance 1/n: only tanh reduces it. The norms make the scale of the weights
        irrelevant (the gradient grows by a tenth per layer); residual connections give it a direct path.""")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, (_, gradients) in measured.items():
            axes.plot(range(1, 31), gradients, label=name, linestyle="-" if "," in name else "--")
        axes.set(yscale="log", xlabel="layer", ylabel="standard deviation, relative to layer 30")
        axes.grid(alpha=0.25)
        figure.legend(loc="outside right center", title="weights")

    presenter.plot("depth", "The gradient on its way back through 30 layers", draw, (9, 4.5))
