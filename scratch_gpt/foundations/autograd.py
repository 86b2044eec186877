"""Automatic differentiation: every number remembers what it was made of, so that derivatives can be asked for.

A sum or product of numbers can be drawn with boxes and arrows, which is called a graph: operands point to results. For
each arrow we know one derivative, that of the result by the operand: 1 for a sum, the other factor for a product; those
of the other operations stand with them below (tanh x is an S from -1 to 1 with the slope 1 - tanh² x; the next station
is about such bends). The chain rule says how a number far down the graph depends on one far up: multiply along a path,
add over all paths:

    d out / d a  =  Σ over results r of a:  d out / d r · d r / d a

So it is enough to walk from the output back to the inputs, and to hand each number's derivative on to what it was made
of. A number's own derivative must be complete before it is handed on: all its results come first. An order in which
operands stand before results is called topological; we walk it backwards. That is backpropagation.

Here each value is one number, a scalar. PyTorch does the same with whole tables of numbers, tensors (and micrograd,
github.com/karpathy/micrograd, with scalars, in as few lines as here).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .lesson import BLUE, GREY, Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PLAIN = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}


class Value:
    """A number that knows its operands.

    Attributes:
        data: the number.
        grad: derivative of the number that `backward` was called on, by this one.
        operands: what it was computed from, each with the derivative of this number by it.
        label: what a drawing calls it.
    """

    def __init__(self, data: float, operands: tuple[tuple[Value, float], ...] = (), label: str = ""):
        self.data, self.operands, self.label = float(data), operands, label
        self.grad = 0.0

    def __add__(self, other: Value | float) -> Value:
        other = as_value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)), "+")

    def __mul__(self, other: Value | float) -> Value:
        other = as_value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)), "×")

    def __pow__(self, exponent: float) -> Value:
        """The exponent is a plain number."""
        return Value(self.data**exponent, ((self, exponent * self.data ** (exponent - 1)),), f"^{exponent:g}")

    def exp(self) -> Value:
        result = math.exp(self.data)
        return Value(result, ((self, result),), "exp")

    def log(self) -> Value:
        return Value(math.log(self.data), ((self, 1 / self.data),), "log")

    def tanh(self) -> Value:
        result = math.tanh(self.data)
        return Value(result, ((self, 1 - result * result),), "tanh")

    def relu(self) -> Value:
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),), "relu")

    def __neg__(self) -> Value:
        return self * -1

    def __sub__(self, other: Value | float) -> Value:
        other = as_value(other)
        return Value(self.data - other.data, ((self, 1.0), (other, -1.0)), "-")

    def __truediv__(self, other: Value | float) -> Value:
        return self * as_value(other) ** -1

    def __rsub__(self, other: float) -> Value:
        return as_value(other) - self

    def __rtruediv__(self, other: float) -> Value:
        return self**-1 * other

    __radd__ = __add__
    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"Value({self.data:.4g}, grad={self.grad:.4g})"

    def backward(self) -> None:
        """Fill in `grad` of everything that this number was made of; what stood there is forgotten."""
        order = topological(self)
        for value in order:
            value.grad = 0.0
        self.grad = 1.0
        for value in reversed(order):
            for operand, derivative in value.operands:
                operand.grad += derivative * value.grad


def as_value(number: Value | float) -> Value:
    """The number itself, or a constant of it."""
    return number if isinstance(number, Value) else Value(number, label="constant")


def topological(output: Value) -> list[Value]:
    """Everything that `output` depends on, operands before results, and itself. Without recursion: graphs are deep."""
    order: list[Value] = []
    seen: set[int] = set()
    stack = [(output, False)]
    while stack:
        value, operands_done = stack.pop()
        if operands_done:
            order.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            stack.append((value, True))
            stack.extend((operand, False) for operand, _ in value.operands)
    return order


def draw_graph(output: Value, figure: Figure) -> None:
    """The graph, from inputs on the left to the output on the right, with values and gradients on it."""
    order = topological(output)
    column: dict[int, int] = {}
    for value in order:
        column[id(value)] = 1 + max((column[id(operand)] for operand, _ in value.operands), default=-1)
    for value in reversed(order):  # a number that was given stands just before its first use
        for operand, _ in value.operands:
            if not operand.operands:
                column[id(operand)] = min(column[id(v)] for v in order if operand in dict(v.operands)) - 1
    height: dict[int, float] = {}
    for number in range(max(column.values()) + 1):
        here = [value for value in order if column[id(value)] == number]
        for row, value in enumerate(here):
            height[id(value)] = (len(here) - 1) / 2 - row
    axes = figure.add_subplot()
    axes.set_axis_off()
    for value in order:
        place = column[id(value)], height[id(value)]
        for operand, derivative in value.operands:
            start = column[id(operand)], height[id(operand)]
            axes.annotate(
                "", place, start, arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 34, "shrinkB": 34}
            )
            middle = (start[0] + place[0]) / 2, (start[1] + place[1]) / 2
            axes.text(*middle, f"×{derivative:.3g}", color=GREY, fontsize=8, ha="center", va="center", bbox=PLAIN)
        text = f"{value.label}\n{value.data:.4g}\ngrad {value.grad:.4g}"
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": BLUE}
        axes.text(*place, text, ha="center", va="center", fontsize=9, bbox=box)
    axes.set_xlim(-0.5, max(column.values()) + 0.5)
    axes.set_ylim(min(height.values()) - 0.6, max(height.values()) + 0.6)


def run(lesson: Lesson) -> dict[str, float]:
    lesson.part(
        "A graph of numbers",
        """A neuron with a bend: out = tanh(w x + b), and how wrong it is: loss = (out - 1)². Each result remembers its
        operands and its own derivative by each of them. Backwards along the arrows, derivatives are multiplied; where
        arrows meet, they are added. In the picture, an arrow bears the derivative of its result by its operand.""",
    )
    w, x, b = Value(0.5, label="w"), Value(2.0, label="x"), Value(-0.3, label="b")
    product = w * x
    total = product + b
    out = total.tanh()
    error = out - 1
    loss = error**2
    loss.backward()
    error.label, loss.label = "out - 1", "loss = (out - 1)²"
    product.label, total.label, out.label = "w x", "w x + b", "out = tanh(…)"
    rows = [
        (name, v.data, v.grad)
        for name, v in {"w": w, "x": x, "b": b, "w x": product, "w x + b": total, "out": out, "loss": loss}.items()
    ]
    lesson.table(("number", "value", "d loss / d number"), rows)
    lesson.picture("autograd_graph", lambda figure: draw_graph(loss, figure), (13, 4.5))

    lesson.part(
        "Is it true?",
        """A derivative is a promise: nudge w by a little, and the loss moves by the derivative times that little. Try
        it: compute the loss at w + h and at w - h, and divide the difference by 2h.""",
    )

    def loss_at(weight: float) -> float:
        return (math.tanh(weight * 2.0 - 0.3) - 1) ** 2

    rows = [(f"{h:g}", (loss_at(0.5 + h) - loss_at(0.5 - h)) / (2 * h), w.grad) for h in (0.1, 0.01, 0.001)]
    lesson.table(("h", "measured", "by the chain rule"), rows)

    lesson.part(
        "A number that is used twice",
        """In y = a·a + a, the number a has three arrows. The derivative adds them up: a + a + 1. This is why gradients
        are
        added to, never put in place of what is there, and why a number hands on only when all its results have.""",
    )
    a = Value(3.0, label="a")
    y = a * a + a
    y.backward()
    lesson.say(f"At a = 3: y = {y.data:g}, dy/da = {a.grad:g}.")
    return {"numeric_error": abs(float(rows[-1][1]) - w.grad), "used_twice": a.grad}
