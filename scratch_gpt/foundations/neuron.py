"""A neuron: its output, its loss, and gradient descent on that loss.

A neuron multiplies each input by a weight and adds the products and a bias:

    prediction = w_1 x_1 + … + w_n x_n + b

An example is a list of inputs x and a target y. The loss over N examples is the mean squared error (Σ is the sum over
the examples):

    loss = 1/N Σ (prediction - y)²

The derivative of the loss with respect to a weight is the rate at which the loss changes if that weight changes a
little and the others stay constant. By the chain rule, u² has the derivative 2u times that of u; here u is
prediction - y, whose derivative is x_i for a weight and 1 for the bias:

    d loss / d w_i = 1/N Σ 2 (prediction - y) x_i        d loss / d b = 1/N Σ 2 (prediction - y)

All derivatives together are the gradient. Gradient descent subtracts the gradient, multiplied by the learning rate:

    w_i  ←  w_i - rate · d loss / d w_i                  b  ←  b - rate · d loss / d b

Why the learning rate must be small: let y = x, fix the bias at 0 and learn from one example. The derivative is
2 (w x - x) x, and one step changes the weight's error to

    w - 1  →  (w - 1) - rate 2 (w - 1) x²  =  (w - 1) (1 - 2 rate x²)

With a rate of 0.01 the factor is 1 - 0.02 x². The error shrinks only if the factor is between -1 and 1, that is for
0 < x < 10; for x = 99 it is -195, and every example makes the error larger. Scaling the inputs to [0, 1] fixes this.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .lesson import BLUE, GREY, RED, Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Neuron:
    """A linear neuron: one weight per input, and a bias."""

    weights: list[float]
    bias: float = 0.0

    def __call__(self, inputs: Sequence[float]) -> float:
        """Return the prediction."""
        return sum(w * x for w, x in zip(self.weights, inputs, strict=True)) + self.bias


def mean_squared_error(neuron: Neuron, inputs: Sequence[Sequence[float]], targets: Sequence[float]) -> float:
    """Return 1/N Σ (prediction - y)²."""
    return sum((neuron(x) - y) ** 2 for x, y in zip(inputs, targets, strict=True)) / len(targets)


def gradients(neuron: Neuron, inputs: Sequence[Sequence[float]], targets: Sequence[float]) -> tuple[list[float], float]:
    """Return the derivatives of the mean squared error with respect to each weight, and to the bias."""
    errors = [2 * (neuron(x) - y) / len(targets) for x, y in zip(inputs, targets, strict=True)]
    by_weight = [sum(e * x[i] for e, x in zip(errors, inputs, strict=True)) for i in range(len(neuron.weights))]
    return by_weight, sum(errors)


def descend(
    neuron: Neuron, inputs: Sequence[Sequence[float]], targets: Sequence[float], rate: float, learn_bias: bool = True
) -> None:
    """Take one step of gradient descent.

    Args:
        neuron: updated in place.
        inputs: inputs of each example.
        targets: target of each example.
        rate: learning rate.
        learn_bias: whether to update the bias.
    """
    by_weight, by_bias = gradients(neuron, inputs, targets)
    neuron.weights = [w - rate * g for w, g in zip(neuron.weights, by_weight, strict=True)]
    if learn_bias:
        neuron.bias -= rate * by_bias


def powers(x: float, degree: int) -> list[float]:
    """Return x, x², … x^degree; with these inputs, a neuron is a polynomial."""
    return [x**k for k in range(1, degree + 1)]


def learn_one_by_one(neuron: Neuron, xs: Sequence[float], rate: float, learn_bias: bool) -> list[float]:
    """Learn y = x from one example at a time.

    Args:
        neuron: of one input, updated in place.
        xs: the examples' inputs, which are their targets, too.
        rate: learning rate.
        learn_bias: whether to update the bias.

    Returns:
        The weight's error, w - 1, before the first example and after each.
    """
    errors = [neuron.weights[0] - 1]
    for x in xs:
        descend(neuron, [[x]], [x], rate, learn_bias)
        errors.append(neuron.weights[0] - 1)
    return errors


def run(presenter: Presenter) -> dict[str, float]:
    """Show divergence, its remedy by scaled inputs, and a polynomial fit."""
    results: dict[str, float] = {}
    presenter.section(
        "Divergence",
        """A neuron with one weight, initially 0, and a bias fixed at 0 learns y = x from x = 0, 1, 2, … 99, one example
        at a time, with a learning rate of 0.01. Each example multiplies the weight's error, w - 1, by 1 - 0.02 x².""",
    )
    diverging = learn_one_by_one(Neuron([0.0]), range(100), 0.01, learn_bias=False)
    shown = (1, 5, 10, 11, 20, 99)
    rows = [(f"{x}", 1 - 0.02 * x * x, diverging[x], diverging[x + 1]) for x in shown]
    presenter.table(("x", "factor 1 - 0.02 x²", "w - 1 before", "w - 1 after"), rows)
    presenter.text("""From x = 1 to 9 the factor is between -1 and 1 and the error shrinks. From 11 on, each example
        makes it larger. At the end the weight has over a hundred digits.""")
    results["factor_error"] = max(
        abs(after - before * (1 - 0.02 * x * x)) / max(abs(before), 1e-9)
        for x, (before, after) in enumerate(itertools.pairwise(diverging))
    )
    results["diverged_error"] = abs(diverging[-1])

    presenter.section(
        "Scaled inputs",
        """Divide inputs and targets by 99: now they are between 0 and 1, the factor is between 0.98 and 1, and training
        is stable. Here the bias is trained, too; its error disturbs the weight at first, and both converge. A hundred
        epochs of the same hundred examples:""",
    )
    scaled = [x / 99 for x in range(100)]
    neuron = Neuron([0.0])
    converging = learn_one_by_one(neuron, scaled * 100, 0.01, learn_bias=True)
    steps = (0, 100, 1000, 2000, 5000, 10_000)
    presenter.table(("examples", "w - 1"), [(f"{n:,}", converging[n]) for n in steps])
    presenter.text(
        f"At the end: y = {neuron.weights[0]:.3f} x {neuron.bias:+.3f}. For x = 42 of 99 that is "
        f"{99 * neuron([42 / 99]):.2f}."
    )
    results |= {"weight": neuron.weights[0], "bias": neuron.bias}

    def draw_steps(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        series = zip(panels, (diverging, converging), (RED, BLUE), ("x", "x / 99"), strict=True)
        for axes, errors, colour, title in series:
            axes.plot([abs(e) for e in errors], color=colour)
            axes.axhline(1, color=GREY, linewidth=0.8)
            axes.set(yscale="log", title=title, xlabel="examples seen", ylabel="error of the weight, |w - 1|")

    presenter.plot("neuron_steps", draw_steps, (10, 4))

    presenter.section(
        "A polynomial from the same neuron",
        """With the inputs x, x² and x³, the weighted sum is a polynomial. The target is y = 1 - 2x + 0.5x² + 3x³, at 41
        points from -1 to 1; each step uses all of them, with a learning rate of 0.5.""",
    )
    xs = [i / 20 - 1 for i in range(41)]
    target = Neuron([-2.0, 0.5, 3.0], 1.0)
    inputs = [powers(x, 3) for x in xs]
    targets = [target(x) for x in inputs]
    cubic = Neuron([0.0, 0.0, 0.0])
    history: list[tuple[str | float, ...]] = []
    for step in range(2001):
        if step in (0, 20, 200, 2000):
            loss = mean_squared_error(cubic, inputs, targets)
            history.append((f"{step}", loss, cubic.bias, *cubic.weights))
        descend(cubic, inputs, targets, rate=0.5)
    presenter.table(("step", "loss", "bias", "x", "x²", "x³"), history)
    pairs = zip([*cubic.weights, cubic.bias], [*target.weights, target.bias], strict=True)
    results["polynomial_error"] = max(abs(a - b) for a, b in pairs)
    presenter.text(f"The largest error of a coefficient is {results['polynomial_error']:.1g}.")
    return results
