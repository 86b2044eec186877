"""Activation functions, the nonlinearities between layers, and softmax, which turns scores into probabilities.

A layer is several neurons with the same inputs. Their weights form a matrix, with the weights of one neuron in each
column; the product x W of an input vector x with it is the vector of all weighted sums. So a layer is y = x W + b (in
code `x @ W + b`, for many examples at once if x has a row for each). A second layer after it gives
(x W + b) V + c = x (W V) + (b V + c): again one matrix and one bias. Any number of layers without a nonlinearity
between them is equivalent to one linear layer. A layer between inputs and outputs is called hidden; the nonlinearity is
called the activation function.

Activation functions and their derivatives (Φ is the cumulative distribution function of the standard normal
distribution, φ its density; the last two derivatives follow from the product rule):

    ReLU     max(x, 0)                      1 if x > 0, else 0
    sigmoid  s = 1 / (1 + e^-x)             s (1 - s)
    tanh     t = tanh x                     1 - t²
    GELU     x Φ(x)                         Φ(x) + x φ(x)                     (arXiv:1606.08415)
    SiLU     x s(x)                         s + x s (1 - s)

Softmax turns K scores into K probabilities, e^x_i / Σ e^x_j. It preserves their order, the probabilities add up to 1,
and adding a constant to all scores changes nothing (so the maximum can be subtracted first, to avoid overflow). With
two scores, the first probability is e^a / (e^a + e^b) = 1 / (1 + e^-(a - b)): the sigmoid of their difference.

The network below is trained with Adam (arXiv:1412.6980), whose steps have about the same size for all weights: with the
running means m ← 0.9 m + 0.1 g of the gradient and v ← 0.999 v + 0.001 g² of the squared gradient, it subtracts
rate · m / √v. Both start at 0, hence the bias correction by 1 - 0.9^t and 1 - 0.999^t at step t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .lesson import Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
_erf = np.vectorize(math.erf, otypes=[float])


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^-x), computed by tanh, which does not overflow."""
    return 0.5 * (1 + np.tanh(x / 2))


def normal_cdf(x: Array) -> Array:
    """Return Φ(x), the cumulative distribution function of the standard normal distribution."""
    return 0.5 * (1 + _erf(x / math.sqrt(2)))


def normal_pdf(x: Array) -> Array:
    """Return φ(x), the density of the standard normal distribution and derivative of Φ."""
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


# For each name the function and its derivative.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "none": (lambda x: x, np.ones_like),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "gelu": (lambda x: x * normal_cdf(x), lambda x: normal_cdf(x) + x * normal_pdf(x)),
    "silu": (lambda x: x * sigmoid(x), lambda x: sigmoid(x) + x * sigmoid(x) * (1 - sigmoid(x))),
}


def softmax(x: Array) -> Array:
    """Return the probabilities of scores along the last axis."""
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def fit_sine(activation: str, steps: int, seed: int = 0, hidden: int = 24, rate: float = 0.01) -> list[float]:
    """Train a network 1 → hidden → 1 on y = sin 3x, x in [-1, 1], with Adam.

    Args:
        activation: a key of `ACTIVATIONS`.
        steps: number of steps, each on all 64 points.
        seed: of the initial weights.
        hidden: number of hidden neurons.
        rate: learning rate.

    Returns:
        The mean squared error before each step and after the last.
    """
    f, derivative = ACTIVATIONS[activation]
    generator = np.random.default_rng(seed)
    x = np.linspace(-1, 1, 64)[:, None]
    y = np.sin(3 * x)
    weights = [generator.normal(0, 2, (1, hidden)), generator.uniform(-1, 1, (1, hidden))]
    weights += [generator.normal(0, hidden**-0.5, (hidden, 1)), np.zeros((1, 1))]
    mean, square = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    losses = []
    for step in range(1, steps + 2):
        w1, b1, w2, b2 = weights
        sums = x @ w1 + b1
        activations = f(sums)
        error = activations @ w2 + b2 - y
        losses.append(float((error**2).mean()))
        d_output = 2 * error / len(x)  # the chain rule, from the last layer to the first
        d_sums = d_output @ w2.T * derivative(sums)
        gradients = [x.T @ d_sums, d_sums.sum(0, keepdims=True)]
        gradients += [activations.T @ d_output, d_output.sum(0, keepdims=True)]
        for i, gradient in enumerate(gradients):
            mean[i] = 0.9 * mean[i] + 0.1 * gradient
            square[i] = 0.999 * square[i] + 0.001 * gradient**2
            corrected = mean[i] / (1 - 0.9**step), square[i] / (1 - 0.999**step)
            weights[i] = weights[i] - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return losses


def run(presenter: Presenter) -> dict[str, float]:
    """Show linear layers, softmax, and a comparison of activation functions."""
    generator = np.random.default_rng(0)
    presenter.section(
        "Linear layers without activation functions are one linear layer",
        """Three random layers, 4 → 8 → 8 → 2, without activation functions, compared with the product of the three:""",
    )
    shapes = ((4, 8), (8, 8), (8, 2))
    layers = [(generator.normal(size=shape), generator.normal(size=shape[1])) for shape in shapes]
    x = generator.normal(size=(5, 4))
    stacked, matrix, bias = x, np.eye(4), np.zeros(4)
    for weight, shift in layers:
        stacked, matrix, bias = stacked @ weight + shift, matrix @ weight, bias @ weight + shift
    single = x @ matrix + bias
    rows = [
        (f"{n}", f"{a[0]:.6f}, {a[1]:.6f}", f"{b[0]:.6f}, {b[1]:.6f}")
        for n, (a, b) in enumerate(zip(stacked, single, strict=True))
    ]
    presenter.table(("example", "three layers", "one layer"), rows[:3])
    results = {"stack_difference": float(abs(stacked - single).max())}

    presenter.section(
        "Softmax",
        "Three scores; the same with 100 added to each; two scores, and the sigmoid of their difference:",
    )
    scores = np.array([2.0, 1.0, -1.0])
    two = np.array([0.7, -0.4])
    probabilities: list[tuple[str, str]] = [
        ("2, 1, -1", "  ".join(f"{p:.4f}" for p in softmax(scores))),
        ("102, 101, 99", "  ".join(f"{p:.4f}" for p in softmax(scores + 100))),
        ("0.7, -0.4", "  ".join(f"{p:.4f}" for p in softmax(two))),
        ("sigmoid(0.7 + 0.4)", f"{float(sigmoid(np.array(1.1))):.4f}"),
    ]
    presenter.table(("scores", "probabilities"), probabilities)
    results |= {
        "softmax_sum": float(softmax(scores).sum()),
        "softmax_against_sigmoid": float(abs(softmax(two)[0] - sigmoid(two[0] - two[1]))),
    }

    presenter.section(
        "A comparison of activation functions",
        "One hidden layer of 24 neurons learns y = sin 3x. Mean squared error, mean of three seeds:",
    )
    curves = {name: np.mean([fit_sine(name, 2000, seed) for seed in range(3)], axis=0) for name in ACTIVATIONS}
    presenter.table(
        ("activation", "50 steps", "200 steps", "2,000 steps"),
        [(name, c[50], c[200], c[-1]) for name, c in curves.items()],
    )
    nonlinear = [curve for name, curve in curves.items() if name != "none"]
    results |= {
        "linear_loss": float(curves["none"][-1]),
        "worst_loss": float(max(c[-1] for c in nonlinear)),
        "early_spread": float(max(c[50] for c in nonlinear) - min(c[50] for c in nonlinear)),
        "late_spread": float(max(c[-1] for c in nonlinear) - min(c[-1] for c in nonlinear)),
    }
    presenter.text(f"""After 50 steps the losses of the activation functions differ by up to
        {results["early_spread"]:.2g}, after 2,000 by {results["late_spread"]:.1g}. Without one, the loss stays at
        {results["linear_loss"]:.2g}, that of the best straight line. Every activation function ends over a thousand
        times below it; compared with that, their differences are small.""")

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        line = np.linspace(-4, 4, 200)
        for number, (name, (f, _)) in enumerate(ACTIVATIONS.items()):
            if name != "none":
                left.plot(line, f(line), color=f"C{number}", label=name)
            right.plot(curves[name], color=f"C{number}", label=name)
        left.set(title="activation functions", xlabel="x", ylim=(-1.2, 3))
        right.set(title="learning sin 3x", xlabel="step", ylabel="mean squared error (logarithmic)", yscale="log")
        for axes in (left, right):
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, fontsize=8)

    presenter.plot("activations", draw, (10, 4.2))
    return results
