"""Activation functions, the nonlinearities between layers, and softmax, which turns scores into probabilities."""

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
    return _stack_linear_layers(presenter) | _show_softmax(presenter) | _compare(presenter)


def _stack_linear_layers(presenter: Presenter) -> dict[str, float]:
    presenter.section(
        "The question",
        """A neuron gives a weighted sum of its inputs: with one input, a straight line. How does a network draw a curve
        without being given x² and x³? Do more neurons, one layer after the other, suffice? And a neuron gives any
        number: how does a network give probabilities, as it must if it is to choose between several possibilities?""",
    )
    presenter.section(
        "Layers",
        """One neuron gives one number. Several neurons with the same inputs are a layer. Their weights form a table of
        numbers, a matrix, with the weights of one neuron in each column. The product x W of a list of inputs (a vector)
        x with the matrix W is the vector of all their weighted sums, so that a layer is

            y = x W + b            in code: x @ W + b

        where b holds the biases. Two inputs, three neurons:

            x = (1, 2)     W = ( 1  0  3 )
                               ( 2  1  0 )
            x W = (1·1 + 2·2, 1·0 + 2·1, 1·3 + 2·0)
                = (5, 2, 3)

        The output of a layer can be the input of another one. A layer between inputs and outputs is called hidden. Does
        a second layer make the network more powerful? Put one formula into the other:

            (x W + b) V + c  =  x (W V) + (b V + c)

        That is again one matrix and one vector of biases. However many such layers we stack, the result is one linear
        layer: a straight line, if there is one input.""",
    )
    generator = np.random.default_rng(0)
    presenter.section("A check", "Three random layers, 4 → 8 → 8 → 2, and the product of the three; two outputs each:")
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
    presenter.text("So something that is not linear must stand between the layers.")
    return {"stack_difference": float(abs(stacked - single).max())}


def _show_softmax(presenter: Presenter) -> dict[str, float]:
    presenter.section(
        "Activation functions",
        """An activation function f is applied to every output of a hidden layer: f(x W + b). Those in use, with the
        derivatives that backpropagation needs (Φ(x) is the probability that a normally distributed number is below x,
        and φ its derivative, the bell curve):

            ReLU     max(x, 0)       1 if x > 0, else 0
            sigmoid  s = 1/(1+e^-x)  s (1 - s)
            tanh     tanh x          1 - tanh² x
            GELU     x Φ(x)          Φ(x) + x φ(x)
            SiLU     x s(x)          s + x s (1 - s)

        ReLU is a straight line with a bend; sigmoid and tanh are S-shaped and end at 0 or -1, and 1 (far from 0 they
        are flat: saturated); GELU (arXiv:1606.08415) and SiLU are smooth versions of ReLU. A sum of shifted bends
        approximates any curve, as short straight pieces do.""",
    )
    presenter.section(
        "Softmax",
        """One more function is needed at the output: a network that chooses among K possibilities gives K scores, and
        we want K probabilities. Softmax makes every score positive by e^x, and divides by the sum:

            p_i = e^x_i / Σ e^x_j

        The probabilities add up to 1 and keep the order of the scores. Adding the same number to all scores changes
        nothing, because it multiplies numerator and denominator alike; so the code subtracts the maximum, or e^x could
        be too large for the computer. With two scores a and b, p_1 = 1 / (1 + e^-(a - b)), the sigmoid of a - b.""",
    )
    presenter.code(softmax)
    presenter.section(
        "Softmax of three lists of scores",
        "The second has 100 more than the first in every place; the last row is the sigmoid of the third's difference:",
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
    return {
        "softmax_sum": float(softmax(scores).sum()),
        "softmax_against_sigmoid": float(abs(softmax(two)[0] - sigmoid(two[0] - two[1]))),
    }


def _compare(presenter: Presenter) -> dict[str, float]:
    presenter.section(
        "Which activation function?",
        """A network with one input, one hidden layer of 24 neurons and one output learns y = sin 3x between -1 and 1.
        Mean squared error, mean of three random starts ("none" is the network without activation function):""",
    )
    curves = {name: np.mean([fit_sine(name, 2000, seed) for seed in range(3)], axis=0) for name in ACTIVATIONS}
    presenter.table(
        ("activation", "50 steps", "200 steps", "2,000 steps"),
        [(name, c[50], c[200], c[-1]) for name, c in curves.items()],
    )
    nonlinear = [curve for name, curve in curves.items() if name != "none"]
    results = {
        "linear_loss": float(curves["none"][-1]),
        "worst_loss": float(max(c[-1] for c in nonlinear)),
        "early_spread": float(max(c[50] for c in nonlinear) - min(c[50] for c in nonlinear)),
        "late_spread": float(max(c[-1] for c in nonlinear) - min(c[-1] for c in nonlinear)),
    }
    presenter.text(f"""Without one the loss stays at {results["linear_loss"]:.2g}, that of the best straight line. With
        any of them it ends over a thousand times lower. At the start they differ by up to
        {results["early_spread"]:.2g}, at the end by {results["late_spread"]:.1g}: that there is one matters more than
        which.""")

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        line = np.linspace(-4, 4, 200)
        for number, (name, (f, _)) in enumerate(ACTIVATIONS.items()):
            if name != "none":
                left.plot(line, f(line), color=f"C{number}")
            right.plot(curves[name], color=f"C{number}", label=name)
        left.set(title="the functions", xlabel="x", ylabel="f(x)", ylim=(-1.2, 3))
        right.set(title="learning sin 3x", xlabel="step", ylabel="mean squared error (logarithmic)", yscale="log")
        for axes in (left, right):
            axes.grid(alpha=0.25)
        figure.legend(loc="outside right center", title="activation")

    presenter.plot("activations", "Activation functions, and networks that learn with them", draw, (11, 4.2))
    presenter.section(
        "The optimizer of this lesson: Adam",
        """Plain gradient descent would have needed many more steps. The networks were trained with Adam
        (arXiv:1412.6980), as most language models are. It keeps two running means for each parameter, of its derivative
        g and of g², and divides one by the root of the other, so that the steps of all parameters have about the same
        size:

            m  ←  0.9 m + 0.1 g
            v  ←  0.999 v + 0.001 g²
            w  ←  w - rate · m / √v

        m and v start at 0 and are too small at first; the code corrects that by dividing them by 1 - 0.9^t and
        1 - 0.999^t at step t.""",
    )
    return results
