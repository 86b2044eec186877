"""Why deep networks are hard to train: every layer multiplies the gradient once more.

In a stack of layers h_l = tanh(h_{l-1} W_l), the chain rule propagates the gradient as

    d loss / d h_{l-1}  =  (tanh'(h_{l-1} W_l) · d loss / d h_l) W_lᵀ

(· is the elementwise product, Wᵀ the transpose of W), so thirty layers multiply thirty matrices. If each makes vectors
a little shorter, the gradient vanishes and the first layers learn nothing; if a little longer, it explodes. The numbers
in a layer's output are called features, the examples that are processed together a batch, the mean squared distance
from the mean variance, and its root standard deviation. Four remedies:

- *initialization*: weights of variance 1/n (LeCun et al. 1998). A sum of n products w_i x_i of independent numbers with
  mean 0, where x_i has variance 1, then has variance n · 1/n · 1 = 1: the scale is preserved;
- *batch normalization* (arXiv:1502.03167): scale each feature to mean 0 and variance 1 over the examples of a batch (at
  inference, with means and variances of training);
- *layer normalization* (arXiv:1607.06450): the same for each example, over its features. It needs no other examples;
- *residual connections* (arXiv:1512.03385): h_l = h_{l-1} + tanh(…), so that d h_l / d h_{l-1} is 1 + …: the gradient
  has a direct path.

The norms are applied to the sums, before tanh. Usually each has a learned scale and shift, which are omitted here.

Both norms are one function along different axes: y = (x - mean) / s, s the standard deviation of n numbers. If x_j
grows by a small d, the mean grows by d/n and s by d y_j / n, so d y_i / d x_j = ([1 if i = j] - 1/n - y_i y_j / n) / s.
Multiplied by g_i = d loss / d y_i and summed over i:

    d loss / d x  =  (g - mean(g) - y · mean(g y)) / s

The components of the gradient that only shift or scale x are removed, because the norm cancels them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .lesson import Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
EPS = 1e-5  # prevents division by zero if all numbers are equal


def normalize(x: Array, axis: int) -> Array:
    """Scale (examples, features) to mean 0 and variance 1 along an axis: 0 is batch, -1 layer normalization."""
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + EPS)


def normalize_backward(x: Array, gradient: Array, axis: int) -> Array:
    """Return d loss / d x, given `gradient`, d loss / d normalize(x)."""
    y, s = normalize(x, axis), np.sqrt(x.var(axis, keepdims=True) + EPS)
    return (gradient - gradient.mean(axis, keepdims=True) - y * (gradient * y).mean(axis, keepdims=True)) / s


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
    """Compare the activations and gradients of thirty-layer networks."""
    presenter.section(
        "Thirty layers",
        """64 neurons per layer, tanh, random weights, before training. Standard deviation of the last layer's output,
        relative to the input, and of the gradient at three layers, relative to the last one. If the gradient is far
        below 1, the first layers learn nothing; far above, training is unstable.""",
    )
    measured = {name: measure_scales(stack) for name, stack in STACKS.items()}
    rows = [
        (name, f"{signals[-1]:.1e}", *(f"{gradients[i]:.1e}" for i in (19, 9, 0)))
        for name, (signals, gradients) in measured.items()
    ]
    presenter.table(("weights", "output", "gradient at 20", "at 10", "at 1"), rows)
    presenter.text("""With weights half as large, both vanish: 1/2 to the 29th power is 2e-9. With weights twice as
        large, the gradient explodes, limited by the saturation of tanh. With variance 1/n, before training, only tanh
        reduces it. The norms make the scale of the weights irrelevant (the gradient grows by about a tenth per layer);
        the residual connections give it a direct path.""")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, (_, gradients) in measured.items():
            axes.plot(range(1, 31), gradients, label=name, linestyle="-" if "," in name else "--")
        axes.set(yscale="log", xlabel="layer", ylabel="gradient relative to the last layer")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)

    presenter.plot("depth", draw)
    first_gradients = {name: gradients[0] for name, (_, gradients) in measured.items()}
    return {**first_gradients, "signal": measured["half as large"][0][-1]}
