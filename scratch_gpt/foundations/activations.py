"""Activations: the bends between the layers, and softmax, which makes shares of numbers.

A layer is several neurons that read the same inputs. Their weights make a table, a matrix: each column holds those of
one neuron, and the product x W of a list x with it is the list of all their weighted sums. So a layer is y = x W + b
(in code `x @ W + b`, for many examples at once where x has a row for each). A second one after it gives
(x W + b) V + c = x (W V) + (b V + c): again one matrix and one bias. However many are stacked, without a bend between
them they are one layer, and what it draws is straight. A layer between inputs and outputs is called hidden, a bend an
activation function.

The bends, with their derivatives, of one number (Φ(x) is the share of the standard normal distribution, the bell curve
φ, that lies below x; the last two derivatives are the product rule's):

    relu     max(x, 0)                      1 where x > 0, else 0
    sigmoid  s = 1 / (1 + e^-x)             s (1 - s)
    tanh     t = tanh x                     1 - t²
    GELU     x Φ(x), Φ the normal's share   Φ(x) + x φ(x)                     (arXiv:1606.08415)
    SiLU     x s(x)                         s + x s (1 - s)

Softmax makes of K numbers K shares: e^x_i / Σ e^x_j. It keeps their order, the shares add up to 1, and a constant added
to all changes nothing (so the largest may be subtracted from all first, and no e^x overflows). With two numbers, the
first share is e^a / (e^a + e^b) = 1 / (1 + e^-(a - b)), divided by e^a above and below: the sigmoid of their
difference.

The network below learns with Adam (arXiv:1412.6980), which makes steps of about the same length for all weights: with
m ← 0.9 m + 0.1 g and v ← 0.999 v + 0.001 g², running means of gradient and squared gradient, it takes rate · m / √v
away. Both begin at 0, hence the divisions by 1 - 0.9^t and 1 - 0.999^t at step t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .lesson import Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
_erf = np.vectorize(math.erf, otypes=[float])


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), as a tanh, which does not overflow."""
    return 0.5 * (1 + np.tanh(x / 2))


def normal_share(x: Array) -> Array:
    """Φ(x): the share of a normal distribution that lies below x."""
    return 0.5 * (1 + _erf(x / math.sqrt(2)))


def normal_density(x: Array) -> Array:
    """φ(x), the derivative of Φ."""
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


# Name to the function and its derivative.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "none": (lambda x: x, np.ones_like),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "gelu": (lambda x: x * normal_share(x), lambda x: normal_share(x) + x * normal_density(x)),
    "silu": (lambda x: x * sigmoid(x), lambda x: sigmoid(x) + x * sigmoid(x) * (1 - sigmoid(x))),
}


def softmax(x: Array) -> Array:
    """Shares along the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def fit_sine(activation: str, steps: int, seed: int = 0, hidden: int = 24, rate: float = 0.01) -> list[float]:
    """Train 1 → hidden → 1 to y = sin 3x on [-1, 1] with Adam; the loss before each step and after
    the last."""
    f, slope = ACTIVATIONS[activation]
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
        bent = f(sums)
        error = bent @ w2 + b2 - y
        losses.append(float((error**2).mean()))
        by_output = 2 * error / len(x)  # the chain rule, layer by layer from the back
        by_sums = by_output @ w2.T * slope(sums)
        gradients = (x.T @ by_sums, by_sums.sum(0, keepdims=True), bent.T @ by_output, by_output.sum(0, keepdims=True))
        for i, gradient in enumerate(gradients):
            mean[i] = 0.9 * mean[i] + 0.1 * gradient
            square[i] = 0.999 * square[i] + 0.001 * gradient**2
            corrected = mean[i] / (1 - 0.9**step), square[i] / (1 - 0.999**step)
            weights[i] = weights[i] - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return losses


def run(lesson: Lesson) -> dict[str, float]:
    generator = np.random.default_rng(0)
    lesson.part(
        "Layers without a bend are one layer",
        """Three random layers, 4 → 8 → 8 → 2, with nothing between them, against the one layer that they multiply out
        to:""",
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
    lesson.table(("example", "three layers", "one layer"), rows[:3])
    found = {"stack_difference": float(abs(stacked - single).max())}

    lesson.part(
        "Softmax makes shares",
        "Three scores; the same with 100 added to each; and two scores, beside the sigmoid of their difference:",
    )
    scores = np.array([2.0, 1.0, -1.0])
    two = np.array([0.7, -0.4])
    shares: list[tuple[str, str]] = [
        ("2, 1, -1", "  ".join(f"{p:.4f}" for p in softmax(scores))),
        ("102, 101, 99", "  ".join(f"{p:.4f}" for p in softmax(scores + 100))),
        ("0.7, -0.4", "  ".join(f"{p:.4f}" for p in softmax(two))),
        ("sigmoid(0.7 + 0.4)", f"{float(sigmoid(np.array(1.1))):.4f}"),
    ]
    lesson.table(("scores", "shares"), shares)
    found |= {
        "softmax_sum": float(softmax(scores).sum()),
        "softmax_against_sigmoid": float(abs(softmax(two)[0] - sigmoid(two[0] - two[1]))),
    }

    lesson.part(
        "Which bend? Any beats none, and with enough training all are good",
        "One hidden layer of 24 neurons learns a wave, y = sin 3x. Mean squared error, average of three starts:",
    )
    curves = {name: np.mean([fit_sine(name, 2000, seed) for seed in range(3)], axis=0) for name in ACTIVATIONS}
    lesson.table(
        ("activation", "50 steps", "200 steps", "2,000 steps"),
        [(name, c[50], c[200], c[-1]) for name, c in curves.items()],
    )
    bends = [curve for name, curve in curves.items() if name != "none"]
    found |= {
        "linear_loss": float(curves["none"][-1]),
        "worst_loss": float(max(c[-1] for c in bends)),
        "early_spread": float(max(c[50] for c in bends) - min(c[50] for c in bends)),
        "late_spread": float(max(c[-1] for c in bends) - min(c[-1] for c in bends)),
    }
    lesson.say(f"""After 50 steps the bends lie {found["early_spread"]:.2g} apart, after 2,000
        {found["late_spread"]:.1g}. Without a bend the loss stays at {found["linear_loss"]:.2g}: that of the best
        straight line. Every bend ends over a thousand times below it, and against that their differences are small.""")

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        line = np.linspace(-4, 4, 200)
        for number, (name, (f, _)) in enumerate(ACTIVATIONS.items()):
            if name != "none":
                left.plot(line, f(line), color=f"C{number}", label=name)
            right.plot(curves[name], color=f"C{number}", label=name)
        left.set(title="the bends", xlabel="x", ylim=(-1.2, 3))
        right.set(title="learning sin 3x", xlabel="step", ylabel="mean squared error (logarithmic)", yscale="log")
        for axes in (left, right):
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, fontsize=8)

    lesson.picture("activations", draw, (10, 4.2))
    return found
