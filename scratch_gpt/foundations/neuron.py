"""A neuron: what it computes, how wrong it is, and how it becomes less wrong.

A neuron multiplies each input by a weight, adds the products up and adds a bias:

    prediction = w_1 x_1 + … + w_n x_n + b

An example is a list of inputs x and the answer y that is wanted. How wrong the neuron is over N examples, the mean
squared error tells (Σ adds up over the examples):

    loss = 1/N Σ (prediction - y)²

A derivative says how many times as much the loss grows as a weight does, where that weight grows a little and the
others hold still. By the chain rule, u² has the derivative 2u times that of u; here u is prediction - y, and its
derivative is x_i for a weight and 1 for the bias:

    d loss / d w_i = 1/N Σ 2 (prediction - y) x_i        d loss / d b = 1/N Σ 2 (prediction - y)

All derivatives together are the gradient. Gradient descent takes a small part of it, the learning rate, away:

    w_i  ←  w_i - rate · d loss / d w_i                  b  ←  b - rate · d loss / d b

Why the step must be small. Let y = x, leave the bias at 0 and learn from one example: the derivative is 2 (w x - x) x,
and one step makes of the weight's error

    w - 1  →  (w - 1) - rate 2 (w - 1) x²  =  (w - 1) (1 - 2 rate x²)

With a rate of 0.01 the factor is 1 - 0.02 x². It shrinks the error only while it lies between -1 and 1, so for 0 < x <
10; for x = 99 it is -195, and every example makes the error larger. Inputs between 0 and 1 mend it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .lesson import BLUE, GREY, RED, Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Neuron:
    """Weights, one for each input, and a bias."""

    weights: list[float]
    bias: float = 0.0

    def __call__(self, inputs: Sequence[float]) -> float:
        return sum(w * x for w, x in zip(self.weights, inputs, strict=True)) + self.bias


def mean_squared_error(neuron: Neuron, inputs: Sequence[Sequence[float]], targets: Sequence[float]) -> float:
    """1/N Σ (prediction - y)²."""
    return sum((neuron(x) - y) ** 2 for x, y in zip(inputs, targets, strict=True)) / len(targets)


def gradients(neuron: Neuron, inputs: Sequence[Sequence[float]], targets: Sequence[float]) -> tuple[list[float], float]:
    """Derivatives of the mean squared error by each weight, and by the bias."""
    errors = [2 * (neuron(x) - y) / len(targets) for x, y in zip(inputs, targets, strict=True)]
    by_weight = [sum(e * x[i] for e, x in zip(errors, inputs, strict=True)) for i in range(len(neuron.weights))]
    return by_weight, sum(errors)


def descend(
    neuron: Neuron, inputs: Sequence[Sequence[float]], targets: Sequence[float], rate: float, learn_bias: bool = True
) -> None:
    """One step of gradient descent."""
    by_weight, by_bias = gradients(neuron, inputs, targets)
    neuron.weights = [w - rate * g for w, g in zip(neuron.weights, by_weight, strict=True)]
    if learn_bias:
        neuron.bias -= rate * by_bias


def powers(x: float, degree: int) -> list[float]:
    """x, x², … x^degree: as inputs of a neuron they make it a polynomial."""
    return [x**k for k in range(1, degree + 1)]


def learn_one_by_one(neuron: Neuron, xs: Sequence[float], rate: float, learn_bias: bool) -> list[float]:
    """Learn y = x from one example after the other; the weight's error, before and after each."""
    errors = [neuron.weights[0] - 1]
    for x in xs:
        descend(neuron, [[x]], [x], rate, learn_bias)
        errors.append(neuron.weights[0] - 1)
    return errors


def run(lesson: Lesson) -> dict[str, float]:
    found: dict[str, float] = {}
    lesson.part(
        "The steps that blow up",
        """A neuron with one weight, 0, and a bias that stays 0 is to learn y = x from x = 0, 1, 2, … 99, one after the
        other, with a learning rate of 0.01. Each example multiplies the weight's error, w - 1, by 1 - 0.02 x².""",
    )
    wild = learn_one_by_one(Neuron([0.0]), range(100), 0.01, learn_bias=False)
    shown = (1, 5, 10, 11, 20, 99)
    rows = [(f"{x}", 1 - 0.02 * x * x, wild[x], wild[x + 1]) for x in shown]
    lesson.table(("x", "factor 1 - 0.02 x²", "w - 1 before", "w - 1 after"), rows)
    lesson.say("""From x = 1 to 9 the factor lies between -1 and 1 and the error shrinks. From 11 on each example makes
        it larger than the one before had left it. At the end the weight has over a hundred digits.""")
    found["factor_error"] = max(
        abs(after - before * (1 - 0.02 * x * x)) / max(abs(before), 1e-9)
        for x, (before, after) in enumerate(itertools.pairwise(wild))
    )
    found["wild_error"] = abs(wild[-1])

    lesson.part(
        "Mended",
        """Divide inputs and answers by 99: now they lie between 0 and 1, the factor between 0.98 and 1, and nothing can
        blow up. The bias may learn too; while it is off, it pulls the weight along, and in the end both arrive. A
        hundred rounds through the same hundred examples:""",
    )
    scaled = [x / 99 for x in range(100)]
    neuron = Neuron([0.0])
    tame = learn_one_by_one(neuron, scaled * 100, 0.01, learn_bias=True)
    steps = (0, 100, 1000, 2000, 5000, 10_000)
    lesson.table(("examples", "w - 1"), [(f"{n:,}", tame[n]) for n in steps])
    lesson.say(
        f"At the end: y = {neuron.weights[0]:.3f} x {neuron.bias:+.3f}. For x = 42 of 99 that is "
        f"{99 * neuron([42 / 99]):.2f}."
    )
    found |= {"weight": neuron.weights[0], "bias": neuron.bias}

    def draw_steps(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        for axes, errors, colour, title in zip(panels, (wild, tame), (RED, BLUE), ("x", "x / 99"), strict=True):
            axes.plot([abs(e) for e in errors], color=colour)
            axes.axhline(1, color=GREY, linewidth=0.8)
            axes.set(yscale="log", title=title, xlabel="examples seen", ylabel="error of the weight, |w - 1|")

    lesson.picture("neuron_steps", draw_steps, (10, 4))

    lesson.part(
        "A curve from the same neuron",
        """Hand it x, x² and x³ as three inputs, and its weighted sum is a polynomial. The target is
        y = 1 - 2x + 0.5x² + 3x³, at 41 points from -1 to 1; all of them make each step, with a rate of 0.5.""",
    )
    xs = [i / 20 - 1 for i in range(41)]
    wanted = Neuron([-2.0, 0.5, 3.0], 1.0)
    inputs = [powers(x, 3) for x in xs]
    targets = [wanted(x) for x in inputs]
    cubic = Neuron([0.0, 0.0, 0.0])
    stages: list[tuple[str | float, ...]] = []
    for step in range(2001):
        if step in (0, 20, 200, 2000):
            loss = mean_squared_error(cubic, inputs, targets)
            stages.append((f"{step}", loss, cubic.bias, *cubic.weights))
        descend(cubic, inputs, targets, rate=0.5)
    lesson.table(("step", "loss", "bias", "x", "x²", "x³"), stages)
    pairs = zip([*cubic.weights, cubic.bias], [*wanted.weights, wanted.bias], strict=True)
    found["polynomial_error"] = max(abs(a - b) for a, b in pairs)
    lesson.say(f"No coefficient is off by more than {found['polynomial_error']:.1g}.")
    return found
