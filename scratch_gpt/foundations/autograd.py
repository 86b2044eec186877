"""Automatic differentiation: each number records its operands, so that derivatives can be computed backwards.

Here each value is one number, a scalar. PyTorch does the same with tensors, which are arrays of numbers; micrograd
(github.com/karpathy/micrograd) does it with scalars, in as few lines as here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .lesson import BLUE, GREY, Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LABEL_BOX = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}


class Value:
    """A scalar that records its operands.

    Attributes:
        data: the number.
        grad: derivative, with respect to this number, of the number that `backward` was called on.
        operands: the numbers that it was computed from, each with the derivative of this number with respect to it.
        label: name in `draw_graph`.
    """

    def __init__(self, data: float, operands: tuple[tuple[Value, float], ...] = (), label: str = ""):
        self.data, self.operands, self.label = float(data), operands, label
        self.grad = 0.0

    def __add__(self, other: Value | float) -> Value:
        other = as_value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)), "+")

    def __mul__(self, other: Value | float) -> Value:
        other = as_value(other)
        operands = (self, other.data), (other, self.data)
        return Value(self.data * other.data, operands, "×")

    def __pow__(self, exponent: float) -> Value:
        """Raise to a constant exponent."""
        return Value(self.data**exponent, ((self, exponent * self.data ** (exponent - 1)),), f"^{exponent:g}")

    def exp(self) -> Value:
        """Return e^x."""
        result = math.exp(self.data)
        return Value(result, ((self, result),), "exp")

    def log(self) -> Value:
        """Return the natural logarithm, ln x."""
        return Value(math.log(self.data), ((self, 1 / self.data),), "ln")

    def tanh(self) -> Value:
        """Return the hyperbolic tangent."""
        result = math.tanh(self.data)
        return Value(result, ((self, 1 - result * result),), "tanh")

    def relu(self) -> Value:
        """Return max(x, 0)."""
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
        """Compute `grad` of all numbers that this one depends on; earlier values are overwritten."""
        order = topological(self)
        for value in order:
            value.grad = 0.0
        self.grad = 1.0
        for value in reversed(order):
            for operand, derivative in value.operands:
                operand.grad += derivative * value.grad


def as_value(number: Value | float) -> Value:
    """Return a `Value` unchanged, and wrap a number as a constant."""
    return number if isinstance(number, Value) else Value(number, label="constant")


def topological(output: Value) -> list[Value]:
    """Return all values that `output` depends on, and itself, operands before results.

    Iterative, because a deep graph would exceed Python's recursion limit.
    """
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
    """Draw the graph with values and gradients, from the inputs on the left to the output on the right."""
    order = topological(output)
    column: dict[int, int] = {}
    for value in order:
        column[id(value)] = 1 + max((column[id(operand)] for operand, _ in value.operands), default=-1)
    for value in reversed(order):  # an input is placed just before its first use
        for operand, _ in value.operands:
            if not operand.operands:
                column[id(operand)] = min(column[id(v)] for v in order if operand in dict(v.operands)) - 1
    height: dict[int, float] = {}
    for number in range(max(column.values()) + 1):
        values = [value for value in order if column[id(value)] == number]
        for row, value in enumerate(values):
            height[id(value)] = (len(values) - 1) / 2 - row
    axes = figure.add_subplot()
    axes.set_axis_off()
    for value in order:
        position = column[id(value)], height[id(value)]
        for operand, derivative in value.operands:
            start = column[id(operand)], height[id(operand)]
            axes.annotate(
                "", position, start, arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 34, "shrinkB": 34}
            )
            middle = (start[0] + position[0]) / 2, (start[1] + position[1]) / 2
            axes.text(*middle, f"×{derivative:.3g}", color=GREY, fontsize=8, ha="center", va="center", bbox=LABEL_BOX)
        text = f"{value.label}\n{value.data:.4g}\ngrad {value.grad:.4g}"
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": BLUE}
        axes.text(*position, text, ha="center", va="center", fontsize=9, bbox=box)
    axes.set_xlim(-0.5, max(column.values()) + 0.5)
    axes.set_ylim(min(height.values()) - 0.6, max(height.values()) + 0.6)


def run(presenter: Presenter) -> dict[str, float]:
    """Derive backpropagation on a small graph; show a numerical check, and a number that is used twice."""
    presenter.section(
        "The question",
        """For the neuron we derived the gradient by hand. A network has thousands of parameters in formulas inside
        formulas. How does a program find all derivatives by itself? By two ideas. First: every computation, however
        long, is made of small ones (+, ×, …), whose derivatives are known. Each of these is called a local derivative:

            c = a + b    d c/d a = 1     d c/d b = 1
            c = a · b    d c/d a = b     d c/d b = a
            c = a²       d c/d a = 2a
            c = tanh a   d c/d a = 1 - c²

        (tanh is an S-shaped function from -1 to 1; the next lesson says what for.) So each number remembers what it was
        computed from, its operands, and the local derivatives:""",
    )
    presenter.code(Value.__mul__, Value.tanh)

    presenter.section(
        "The chain rule along a graph",
        """Second: draw the computation as a graph, with an arrow from each operand to the result. The chain rule says:
        the derivative of the end with respect to a number is the product of the local derivatives along the path to
        the end; if there are several paths, the sum of their products. Take a neuron with tanh, out = tanh(w x + b),
        and its loss (out - 1)², at w = 0.5, x = 2, b = -0.3:

            w x  =  0.5 · 2        =  1
            sum  =  1 - 0.3        =  0.7
            out  =  tanh 0.7       =  0.6044
            loss =  (0.6044 - 1)²  =  0.1565

        This is the forward pass. Now backwards, from the loss, whose derivative with respect to itself is 1:

            out:     1 · 2 (0.6044 - 1)      = -0.7913
            sum:     -0.7913 · (1 - 0.6044²) = -0.5022
            w x, b:  -0.5022 · 1             = -0.5022
            w:       -0.5022 · x             = -1.004
            x:       -0.5022 · w             = -0.2511""",
    )
    w, loss, rows = _compute_graph()
    presenter.section(
        "Backpropagation in code",
        """The program does the same. It visits every number after all its results (in reverse topological order), so
        that its derivative is complete before it is passed on to the operands. This is backpropagation:""",
    )
    presenter.code(Value.backward)
    presenter.section("The result", "The gradient of every number of the graph, computed by `loss.backward()`:")
    presenter.table(("number", "value", "d loss / d number"), rows)
    title = "Backpropagation: each arrow carries its local derivative"
    presenter.plot("autograd_graph", title, lambda figure: draw_graph(loss, figure), (13, 4.5))

    presenter.section(
        "A numerical check",
        """Is it right? If w changes by a small h, the loss changes by about the derivative times h. So compute the loss
        at w + h and at w - h, and divide the difference by 2h:""",
    )

    def loss_at(weight: float) -> float:
        return (math.tanh(weight * 2.0 - 0.3) - 1) ** 2

    checks = [(f"{h:g}", (loss_at(0.5 + h) - loss_at(0.5 - h)) / (2 * h), w.grad) for h in (0.1, 0.01, 0.001)]
    presenter.table(("h", "measured", "by the chain rule"), checks)
    presenter.text("""They agree better the smaller h is. Why not always measure? Because each parameter would need two
        more computations of the loss; backpropagation gives all derivatives in about the time of two.""")

    presenter.section(
        "A number that is used twice",
        """In y = a·a + a there are three arrows from a. The derivative is the sum over the three paths, a + a + 1. This
        is why `backward` adds to `grad` (+=) instead of assigning it.""",
    )
    a = Value(3.0, label="a")
    y = a * a + a
    y.backward()
    presenter.text(f"""At a = 3: y = {y.data:g}, dy/da = {a.grad:g}. PyTorch works in the same way, with arrays of
        numbers (tensors) instead of single ones.""")
    return {"numeric_error": abs(float(checks[-1][1]) - w.grad), "used_twice": a.grad}


def _compute_graph() -> tuple[Value, Value, list[tuple[str, float, float]]]:
    """Return w and the loss of the lesson's example after `backward`, and a row for each number."""
    w, x, b = Value(0.5, label="w"), Value(2.0, label="x"), Value(-0.3, label="b")
    product = w * x
    total = product + b
    out = total.tanh()
    error = out - 1
    loss = error**2
    loss.backward()
    error.label, loss.label = "out - 1", "loss = (out - 1)²"
    product.label, total.label, out.label = "w x", "sum = w x + b", "out = tanh(…)"
    numbers = {"w": w, "x": x, "b": b, "w x": product, "sum = w x + b": total, "out = tanh sum": out, "loss": loss}
    return w, loss, [(name, value.data, value.grad) for name, value in numbers.items()]
