"""A neuron: its output, its loss, and gradient descent on that loss."""

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
        products = (w * x for w, x in zip(self.weights, inputs, strict=True))
        return sum(products) + self.bias


def mean_squared_error(neuron: Neuron, inputs: Sequence[Sequence[float]], targets: Sequence[float]) -> float:
    """Return 1/N Σ (prediction - y)²."""
    return sum((neuron(x) - y) ** 2 for x, y in zip(inputs, targets, strict=True)) / len(targets)


def gradients(neuron: Neuron, inputs: Sequence[Sequence[float]], targets: Sequence[float]) -> tuple[list[float], float]:
    """Return the derivatives of the mean squared error with respect to each weight, and to the bias."""
    by_weight, by_bias = [0.0] * len(neuron.weights), 0.0
    for x, y in zip(inputs, targets, strict=True):
        slope = 2 * (neuron(x) - y) / len(targets)
        numbers = zip(by_weight, x, strict=True)
        by_weight = [g + slope * x_i for g, x_i in numbers]
        by_bias += slope
    return by_weight, by_bias


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
    """Derive gradient descent; show divergence, its remedy by scaled inputs, and a polynomial fit."""
    _explain(presenter)
    return _diverge(presenter) | _fit_polynomial(presenter)


def _explain(presenter: Presenter) -> None:
    presenter.section(
        "The question",
        """How can a program find a rule from examples, instead of being told it? It starts with a formula that contains
        adjustable numbers, the parameters, and changes them until the formula fits the examples. A language model
        learns in the same way; it only has more parameters. The smallest such formula is a neuron. It multiplies each
        input x by a weight w, and adds the products and one more number, the bias b:

            prediction = w_1 x_1 + … + w_n x_n + b

        With one input this is the straight line w x + b: the weight is its slope, the bias its height at x = 0. Weights
        and bias are the parameters. In Python:""",
    )
    presenter.code(Neuron.__call__)

    presenter.section(
        "The loss: how wrong is it?",
        """An example is an input x with the wanted output y, its target. The loss is one number that says how wrong the
        predictions are: 0 is perfect. Ours is the mean squared error (Σ means: the sum over the N examples):

            loss = 1/N Σ (prediction - y)²

        The square makes every error count as positive, and large ones more. Three examples of the rule y = x: (1, 1),
        (2, 2), (3, 3). With b = 0 and w = 0 the errors are -1, -2 and -3, and the loss is (1 + 4 + 9) / 3 = 4.667. For
        other weights:""",
    )
    inputs, targets = [[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0]
    rows = [(f"{w:g}", mean_squared_error(Neuron([w]), inputs, targets)) for w in (0.0, 0.5, 1.0, 1.5, 2.0)]
    presenter.table(("w", "loss"), rows)
    presenter.text("Drawn over w, the loss is a parabola. Learning means to find its lowest point.")

    presenter.section(
        "The gradient: which way is down?",
        """The derivative of the loss with respect to w is the slope of that curve: how fast the loss changes if w
        changes a little and all other parameters stay as they are. By the chain rule, u² has the derivative 2u times
        that of u. Here u = prediction - y, whose derivative is x with respect to w, and 1 with respect to b:

            d loss / d w  =  1/N Σ 2 (prediction - y) x
            d loss / d b  =  1/N Σ 2 (prediction - y)

        The derivatives with respect to all parameters together are the gradient. At w = 0 and b = 0 the first is
        2/3 (-1·1 - 2·2 - 3·3) = -9.333. It is negative: the loss falls if w grows.""",
    )
    presenter.code(gradients)

    presenter.section(
        "Gradient descent",
        """Gradient descent walks downhill: from each parameter it subtracts its derivative, multiplied by a small
        number, the learning rate.

            w  ←  w - rate · d loss / d w
            b  ←  b - rate · d loss / d b

        One step with the rate 0.05 leads from w = 0 to 0 + 0.05 · 9.333 = 0.467. The next steps (b stays 0 here, so
        that one can follow a single number):""",
    )
    neuron = Neuron([0.0])
    path: list[tuple[str | float, ...]] = []
    for step in range(6):
        slope = gradients(neuron, inputs, targets)[0][0]
        path.append((f"{step}", neuron.weights[0], mean_squared_error(neuron, inputs, targets), slope))
        descend(neuron, inputs, targets, 0.05, learn_bias=False)
    presenter.table(("step", "w", "loss", "d loss / d w"), path)
    presenter.text("Near the lowest point the slope is small, and so are the steps.")


def _diverge(presenter: Presenter) -> dict[str, float]:
    results: dict[str, float] = {}
    presenter.section(
        "Why the learning rate must be small",
        """The same rule y = x, but with x = 0, 1, 2, … 99, one example at a time. For one example the derivative is
        2 (w x - x) x = 2 (w - 1) x², so that a step multiplies w - 1, the weight's error, by a factor:

            w - 1  →  (w - 1) - rate · 2 (w - 1) x²
                   =  (w - 1) (1 - 2 · rate · x²)

        With the rate 0.01 the factor is 1 - 0.02 x². We start with w = 0 and keep b = 0:""",
    )
    diverging = learn_one_by_one(Neuron([0.0]), range(100), 0.01, learn_bias=False)
    shown = (1, 5, 10, 11, 20, 99)
    rows = [(f"{x}", 1 - 0.02 * x * x, diverging[x], diverging[x + 1]) for x in shown]
    presenter.table(("x", "factor 1 - 0.02 x²", "w - 1 before", "w - 1 after"), rows)
    presenter.text("""From x = 1 to 9 the factor is between -1 and 1, and the error shrinks. From 11 on each step jumps
        over the lowest point and lands farther away: training diverges. At the end, w has over a hundred digits.""")
    results["factor_error"] = max(
        abs(after - before * (1 - 0.02 * x * x)) / max(abs(before), 1e-9)
        for x, (before, after) in enumerate(itertools.pairwise(diverging))
    )
    results["diverged_error"] = abs(diverging[-1])

    presenter.section(
        "Scaled inputs",
        """A smaller learning rate would help, but small inputs are better: divide inputs and targets by 99. Now they
        are between 0 and 1, and the factor is between 0.98 and 1. The bias is trained, too; its error disturbs the
        weight at first, and both converge. A pass through all examples is called an epoch. A hundred epochs of the
        hundred examples:""",
    )
    scaled = [x / 99 for x in range(100)]
    neuron = Neuron([0.0])
    converging = learn_one_by_one(neuron, scaled * 100, 0.01, learn_bias=True)
    steps = (0, 100, 1000, 2000, 5000, 10_000)
    presenter.table(("examples", "epochs", "w - 1"), [(f"{n:,}", f"{n // 100}", converging[n]) for n in steps])
    presenter.text(
        f"At the end: prediction = {neuron.weights[0]:.3f} x {'-' if neuron.bias < 0 else '+'} {abs(neuron.bias):.3f}. "
        f"For x = 42 of 99 that is "
        f"{99 * neuron([42 / 99]):.2f}."
    )

    def draw_steps(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        titles = "inputs 0 to 99: it diverges", "inputs divided by 99: it converges"
        for axes, errors, colour, title in zip(panels, (diverging, converging), (RED, BLUE), titles, strict=True):
            axes.plot([abs(e) for e in errors], color=colour)
            axes.axhline(1, color=GREY, linewidth=0.8)
            axes.set(yscale="log", title=title, xlabel="examples seen", ylabel="error of the weight, |w - 1|")

    presenter.plot("neuron_steps", "A neuron learns y = x with the learning rate 0.01", draw_steps, (10, 4.3))
    return results | {"weight": neuron.weights[0], "bias": neuron.bias}


def _fit_polynomial(presenter: Presenter) -> dict[str, float]:
    presenter.section(
        "A polynomial from the same neuron",
        """A neuron is a straight line only in its inputs. Give it the inputs x, x² and x³, and the weighted sum is a
        polynomial, learned by the same code. The target is y = 1 - 2x + 0.5x² + 3x³, at 41 points from -1 to 1. Each
        step uses all of them, with the rate 0.5; the last three columns are the three weights:""",
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
            history.append((f"{step:,}", loss, cubic.bias, *cubic.weights))
        descend(cubic, inputs, targets, rate=0.5)
    presenter.table(("step", "loss", "bias", "x", "x²", "x³"), history)
    pairs = zip([*cubic.weights, cubic.bias], [*target.weights, target.bias], strict=True)
    error = max(abs(a - b) for a, b in pairs)
    presenter.text(f"""The largest error of a parameter is {error:.1g}. But we had to choose the inputs x² and x³
        ourselves. A network finds such features of its own; for that it needs several layers, and their gradient. That
        is the next lesson.""")
    return {"polynomial_error": error}
