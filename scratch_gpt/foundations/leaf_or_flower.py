"""Leaf or flower: a classifier on our own autograd.

The network has two inputs, colour (0 green, 1 red) and volume, and two outputs, one for each class; the prediction is
the class with the higher output. Between them is a hidden layer with tanh: the decision boundary of a single layer
would be a straight line, because two weighted sums are equal where their difference, again a weighted sum, is 0.

The accuracy can't be the loss, because it does not change with small changes of a weight. So softmax turns the two
scores (logits) into probabilities, p_i = e^s_i / Σ e^s_j, and the loss of an example is the negative log probability of
its label, the cross-entropy:

    loss = -log p_label = log Σ e^s_j - s_label

It is 0 if the label's probability is 1, log 2 = 0.693 if both are 1/2, and grows without bound for confident errors.
Its derivative with respect to a score is p_i, minus 1 for the label's; `backward` computes it without a special case.

Each step uses a small random batch of examples (stochastic gradient descent), and the learning rate decays to 0.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .autograd import Value, as_value
from .lesson import GREEN, RED, Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Example = tuple[tuple[float, float], int]


class Network:
    """A multilayer perceptron: linear layers with biases, and tanh between them.

    Args:
        sizes: number of inputs, of neurons of each hidden layer, and of outputs.
        seed: of the initial weights, which are random because neurons with equal weights would stay equal.
    """

    def __init__(self, sizes: Sequence[int], seed: int):
        draw = random.Random(seed).gauss
        self.layers = [
            [([Value(draw(0, inputs**-0.5)) for _ in range(inputs)], Value(0)) for _ in range(outputs)]
            for inputs, outputs in itertools.pairwise(sizes)
        ]

    def parameters(self) -> list[Value]:
        """Return all weights and biases."""
        return [value for layer in self.layers for weights, bias in layer for value in (*weights, bias)]

    def __call__(self, inputs: Sequence[float]) -> list[Value]:
        """Return the logits, one per class."""
        activations = [as_value(number) for number in inputs]
        for number, layer in enumerate(self.layers):
            sums = [sum((w * x for w, x in zip(ws, activations, strict=True)), start=bias) for ws, bias in layer]
            activations = sums if number == len(self.layers) - 1 else [s.tanh() for s in sums]
        return activations

    def predict(self, inputs: Sequence[float]) -> int:
        """Return the class with the highest logit."""
        scores = [score.data for score in self(inputs)]
        return scores.index(max(scores))


def cross_entropy(scores: Sequence[Value], label: int) -> Value:
    """Return log Σ e^s - s_label."""
    highest = max(score.data for score in scores)  # subtracted to avoid overflow
    return sum(((s - highest).exp() for s in scores), start=Value(0)).log() + highest - scores[label]


def train(network: Network, examples: Sequence[Example], steps: int, rate: float, batch: int, seed: int) -> list[float]:
    """Train by stochastic gradient descent, with a learning rate that decays linearly to 0.

    Args:
        network: updated in place.
        examples: inputs and label of each example.
        steps: number of steps.
        rate: initial learning rate.
        batch: number of examples per step.
        seed: of the random batches.

    Returns:
        The loss of each step.
    """
    generator, losses = random.Random(seed), []
    for step in range(steps):
        loss = Value(0)
        for inputs, label in generator.sample(list(examples), batch):
            loss = loss + cross_entropy(network(inputs), label) / batch
        loss.backward()
        current_rate = rate * (1 - step / steps)
        for parameter in network.parameters():
            parameter.data -= current_rate * parameter.grad
        losses.append(loss.data)
    return losses


def accuracy(network: Network, examples: Sequence[Example]) -> float:
    """Return the fraction of examples that are classified correctly."""
    return sum(network.predict(inputs) == label for inputs, label in examples) / len(examples)


def plants(count: int, seed: int) -> list[Example]:
    """Generate leaves (0), which are green and large or, in autumn, red and small, and flowers (1), which are red and
    large or, as buds, green and small."""
    generator = random.Random(seed)
    examples: list[Example] = []
    for _ in range(count):
        red, large = generator.random() < 0.5, generator.random() < 0.5
        colour, volume = generator.gauss(0.75 if red else 0.25, 0.1), generator.gauss(0.75 if large else 0.25, 0.1)
        examples.append(((colour, volume), int(red == large)))
    return examples


def disc(count: int, seed: int) -> list[Example]:
    """Generate points in a square that hit a disc around its centre (1) or miss it (0)."""
    generator = random.Random(seed)
    examples: list[Example] = []
    while len(examples) < count:
        x, y = generator.uniform(-1, 1), generator.uniform(-1, 1)
        if abs(math.hypot(x, y) - 0.65) > 0.05:  # a margin between the classes
            examples.append(((x, y), int(math.hypot(x, y) < 0.65)))
    return examples


TASKS: dict[str, tuple[Callable[[int, int], list[Example]], tuple[str, str], tuple[str, str]]] = {
    "leaf or flower": (plants, ("colour, green to red", "volume"), ("leaf", "flower")),
    "hit or miss": (disc, ("left to right", "low to high"), ("miss", "hit")),
}


def run(presenter: Presenter) -> dict[str, float]:
    """Train a linear and a nonlinear classifier on two tasks, and plot the decision boundaries."""
    results: dict[str, float] = {}
    presenter.section(
        "Two inputs, two classes",
        """A leaf is green and large or, in autumn, red and small; a flower is red and large or, as a bud, green and
        small. Neither colour nor volume alone separates the classes. The boundary of one layer is a straight line; with
        a hidden layer of 8 neurons and tanh it can be curved. Trained on 200 examples, 10 per step; evaluated on 300
        others.""",
    )
    trained: dict[str, Network] = {}
    rows = []
    for name, (make_examples, _, _) in TASKS.items():
        examples, test_examples = make_examples(200, 0), make_examples(300, 1)
        for kind, sizes in (("one layer", (2, 2)), ("hidden layer", (2, 8, 2))):
            network = Network(sizes, seed=0)
            losses = train(network, examples, steps=700, rate=1.0, batch=10, seed=0)
            correct = accuracy(network, test_examples)
            final_loss = sum(losses[-50:]) / 50
            rows.append((name, kind, f"{losses[0]:.3f}", f"{final_loss:.3f}", f"{correct:.1%}"))
            results[f"{name}, {kind}"] = correct
            trained[name] = network
    misses = sum(not hit for _, hit in disc(300, 1)) / 300
    presenter.table(("task", "network", "first loss", "last 50 losses", "test accuracy"), rows)
    presenter.text(f"""The best line classifies three of the four groups of plants correctly, and gradient descent does
        not even find that; in the second task, points that hit or miss a disc, always predicting "miss" is correct for
        {misses:.0%}. The network is the same for both tasks: only the examples differ. In the plot, areas are
        predictions and dots are the 300 test examples.""")

    def draw(figure: Figure) -> None:
        steps = 50
        for axes, (name, (make_examples, labels, classes)) in zip(figure.subplots(1, 2), TASKS.items(), strict=True):
            examples = make_examples(300, 1)
            low = [min(inputs[i] for inputs, _ in examples) for i in (0, 1)]
            high = [max(inputs[i] for inputs, _ in examples) for i in (0, 1)]
            lines = [[low[i] + (high[i] - low[i]) * k / (steps - 1) for k in range(steps)] for i in (0, 1)]
            predictions = [[trained[name].predict((x, y)) for x in lines[0]] for y in lines[1]]
            axes.contourf(*lines, predictions, levels=[-0.5, 0.5, 1.5], colors=[GREEN, RED], alpha=0.25)
            for number, colour in ((0, GREEN), (1, RED)):
                points = [inputs for inputs, label in examples if label == number]
                axes.scatter(*zip(*points, strict=True), s=12, color=colour, label=classes[number])
            axes.set(title=name, xlabel=labels[0], ylabel=labels[1])
            axes.legend(frameon=False)

    presenter.plot("leaf_or_flower", draw, (10, 4.5))
    return results
