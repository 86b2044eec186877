"""Leaf or flower: a network that decides, on our own autograd.

Two inputs, the colour (0 green, 1 red) and the volume; two neurons at the end, one for each class; the higher one wins.
Between them a hidden layer with a bend, tanh: a single layer would draw a straight line between leaves and flowers, for
two weighted sums are equal where their difference, again a weighted sum, is 0.

What is to be minimised? The share of right answers won't do: it does not move when a weight moves a little. So the two
scores (the field says logits) become shares by softmax, p_i = e^s_i / Σ e^s_j, and the loss of an example is the
surprise at the right answer, -log p with the natural logarithm: 0 where p is 1, the larger the smaller p is. It is
called cross-entropy:

    loss = -log p_right = log Σ e^s_j - s_right

It is 0 where the right answer has all, log 2 = 0.693 where both have half, and grows without bound where the network is
sure and wrong. Its derivative by each score is e^s_i / Σ e^s_j = p_i, less 1 for the right one: what `backward` finds
without being told.

Each step learns from a few examples drawn at random (stochastic gradient descent), and the learning rate falls to 0, so
that the last steps only polish.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .autograd import Value, as_value
from .lesson import GREEN, RED, Lesson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Example = tuple[tuple[float, float], int]


class Network:
    """Layers of neurons, each with a weight for every input and a bias; tanh between the layers.

    Args:
        sizes: number of inputs, of the neurons of each hidden layer, and of outputs.
        seed: of the weights, which start at random: neurons that start alike stay alike.
    """

    def __init__(self, sizes: Sequence[int], seed: int):
        draw = random.Random(seed).gauss
        self.layers = [
            [([Value(draw(0, inputs**-0.5)) for _ in range(inputs)], Value(0)) for _ in range(outputs)]
            for inputs, outputs in itertools.pairwise(sizes)
        ]

    def parameters(self) -> list[Value]:
        return [value for layer in self.layers for weights, bias in layer for value in (*weights, bias)]

    def __call__(self, inputs: Sequence[float]) -> list[Value]:
        """The scores of the classes."""
        signals = [as_value(number) for number in inputs]
        for number, layer in enumerate(self.layers):
            sums = [sum((w * x for w, x in zip(ws, signals, strict=True)), start=bias) for ws, bias in layer]
            signals = sums if number == len(self.layers) - 1 else [s.tanh() for s in sums]
        return signals

    def decide(self, inputs: Sequence[float]) -> int:
        """The class with the highest score."""
        scores = [score.data for score in self(inputs)]
        return scores.index(max(scores))


def cross_entropy(scores: Sequence[Value], right: int) -> Value:
    """log Σ e^s - s_right."""
    highest = max(score.data for score in scores)  # taken away first, so that no e^s overflows
    return sum(((s - highest).exp() for s in scores), start=Value(0)).log() + highest - scores[right]


def train(network: Network, examples: Sequence[Example], steps: int, rate: float, batch: int, seed: int) -> list[float]:
    """Gradient descent on `batch` examples at a time, drawn at random; the loss of each step."""
    drawer, losses = random.Random(seed), []
    for step in range(steps):
        loss = Value(0)
        for inputs, right in drawer.sample(list(examples), batch):
            loss = loss + cross_entropy(network(inputs), right) / batch
        loss.backward()
        slower = rate * (1 - step / steps)
        for parameter in network.parameters():
            parameter.data -= slower * parameter.grad
        losses.append(loss.data)
    return losses


def accuracy(network: Network, examples: Sequence[Example]) -> float:
    return sum(network.decide(inputs) == right for inputs, right in examples) / len(examples)


def plants(count: int, seed: int) -> list[Example]:
    """Leaves (0) are green and large, or red and shrivelled, as in autumn; flowers (1) are red and large, or green and
    small, as buds."""
    drawer = random.Random(seed)
    found: list[Example] = []
    for _ in range(count):
        red, large = drawer.random() < 0.5, drawer.random() < 0.5
        colour, volume = drawer.gauss(0.75 if red else 0.25, 0.1), drawer.gauss(0.75 if large else 0.25, 0.1)
        found.append(((colour, volume), int(red == large)))
    return found


def disc(count: int, seed: int) -> list[Example]:
    """Arrows that hit (1) a disc around the middle, or miss (0): other inputs, other labels."""
    drawer = random.Random(seed)
    found: list[Example] = []
    while len(found) < count:
        x, y = drawer.uniform(-1, 1), drawer.uniform(-1, 1)
        if abs(math.hypot(x, y) - 0.65) > 0.05:  # nothing on the line itself
            found.append(((x, y), int(math.hypot(x, y) < 0.65)))
    return found


TASKS: dict[str, tuple[Callable[[int, int], list[Example]], tuple[str, str], tuple[str, str]]] = {
    "leaf or flower": (plants, ("colour, green to red", "volume"), ("leaf", "flower")),
    "hit or miss": (disc, ("left to right", "low to high"), ("miss", "hit")),
}


def run(lesson: Lesson) -> dict[str, float]:
    found: dict[str, float] = {}
    lesson.part(
        "Two inputs, two outputs, the higher one wins",
        """A leaf is green and large, or red and shrivelled in autumn; a flower is red and large, or a green bud. Colour
        alone decides nothing, volume neither. One layer can only draw a line; a hidden layer of 8 neurons with tanh
        bends it. Trained on 200 plants, 10 a step; judged on 300 others.""",
    )
    trained: dict[str, Network] = {}
    rows = []
    for name, (make, _, _) in TASKS.items():
        examples, others = make(200, 0), make(300, 1)
        for kind, sizes in (("one layer", (2, 2)), ("with a hidden layer", (2, 8, 2))):
            network = Network(sizes, seed=0)
            losses = train(network, examples, steps=700, rate=1.0, batch=10, seed=0)
            right = accuracy(network, others)
            late = sum(losses[-50:]) / 50
            rows.append((name, kind, f"{losses[0]:.3f}", f"{late:.3f}", f"{right:.1%}"))
            found[f"{name}, {kind}"] = right
            trained[name] = network
    misses = sum(not hit for _, hit in disc(300, 1)) / 300
    lesson.table(("task", "network", "first loss", "last 50 losses", "right, of 300 others"), rows)
    lesson.say(f"""The best line puts three of the four groups of plants on the right sides, and descent finds not
        even that; always saying "miss" would be right for {misses:.0%} of the arrows. The second task, an
        arrow that hits or misses a disc, has other inputs and other labels. Not a line of the network was changed for
        it: only its examples. In the picture, areas are what the network decides, dots the 300 others.""")

    def draw(figure: Figure) -> None:
        steps = 50
        for axes, (name, (make, labels, classes)) in zip(figure.subplots(1, 2), TASKS.items(), strict=True):
            examples = make(300, 1)
            low = [min(inputs[i] for inputs, _ in examples) for i in (0, 1)]
            high = [max(inputs[i] for inputs, _ in examples) for i in (0, 1)]
            lines = [[low[i] + (high[i] - low[i]) * k / (steps - 1) for k in range(steps)] for i in (0, 1)]
            decided = [[trained[name].decide((x, y)) for x in lines[0]] for y in lines[1]]
            axes.contourf(*lines, decided, levels=[-0.5, 0.5, 1.5], colors=[GREEN, RED], alpha=0.25)
            for which, colour in ((0, GREEN), (1, RED)):
                points = [inputs for inputs, right in examples if right == which]
                axes.scatter(*zip(*points, strict=True), s=12, color=colour, label=classes[which])
            axes.set(title=name, xlabel=labels[0], ylabel=labels[1])
            axes.legend(frameon=False)

    lesson.picture("leaf_or_flower", draw, (10, 4.5))
    return found
