"""Leaf or flower: a classifier on our own autograd, and its loss, the cross-entropy."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .autograd import Value, as_value
from .lesson import BLUE, ORANGE, Presenter

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
    """Return ln Σ e^s - s_label."""
    highest = max(score.data for score in scores)  # to avoid overflow
    exponentials = [(s - highest).exp() for s in scores]
    return sum(exponentials, start=Value(0)).log() + highest - scores[label]


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
    """Derive the cross-entropy; train a linear and a nonlinear classifier on two tasks."""
    _explain(presenter)
    return _classify(presenter)


def _explain(presenter: Presenter) -> None:
    presenter.section(
        "The question",
        """A leaf is green and large or, in autumn, red and small. A flower is red and large or, as a bud, green and
        small. Can a network tell them apart? Neither the colour nor the volume alone decides. Our network has

        - two inputs: colour (0 green, 1 red) and volume;
        - a hidden layer of 8 neurons with tanh;
        - two outputs, one score for each class; such scores are called logits. The prediction is the class with the
          higher score.

        Without the hidden layer, the border between the classes would be a straight line: two weighted sums are equal
        where their difference, again a weighted sum, is 0. With it, the border can be curved.""",
    )
    presenter.section(
        "Cross-entropy: a loss for probabilities",
        """Which loss? The number of errors does not work: it does not change if a weight changes a little, so its slope
        is 0. Instead, softmax turns the scores into probabilities, and the loss of an example is the negative logarithm
        of the probability of the right class, its label. This is the cross-entropy:

            loss  =  -ln p_label
                  =  ln (Σ e^s_j) - s_label

        (ln is the logarithm to the base e. The second form is the first with the formula of softmax put in.) It is 0 if
        the right class gets all of the probability, and grows without bound if it gets almost none:""",
    )
    presenter.table(
        ("probability of the right class", "loss in nats"), [(f"{p:g}", -math.log(p)) for p in (0.99, 0.5, 0.24, 0.01)]
    )
    presenter.text("""The unit is called nat. To read it backwards: a loss of 1.43 nats means that the right class got
        e^-1.43 = 0.24, that is 24%.""")
    presenter.section(
        "Its gradient",
        """The derivative of the cross-entropy with respect to a score is the probability that the class got, minus the
        one it should have got (1 for the label, 0 for the others):

            d loss/d s_i = p_i - [1 if i is the label]

        Why? By the chain rule ln (Σ e^s_j) has the derivative e^s_i / Σ e^s_j, which is p_i; and -s_label has -1 for
        the label, 0 for the others. With scores 2 and 0 the probabilities are 0.88 and 0.12. If class 2 is right, the
        gradient is (0.88, -0.88): the first score must fall, the second rise. If class 1 is right, it is (-0.12, 0.12):
        almost nothing is to be changed. Our `Value` finds this without a special rule:""",
    )
    presenter.code(cross_entropy)
    presenter.section(
        "The training loop",
        """Each step takes a few random examples, a batch, computes the mean of their losses, and goes one step downhill
        (stochastic gradient descent). The learning rate decays to 0, so that the last steps are small:""",
    )
    presenter.code(train)


def _classify(presenter: Presenter) -> dict[str, float]:
    results: dict[str, float] = {}
    presenter.section(
        "Two tasks",
        """The same network learns a second task: to tell whether a point hits a disc. Only the examples differ. It is
        trained on 200 examples, 10 in each step, and tested on 300 others, which it has not seen: a network that only
        remembers its examples would fail there.""",
    )
    trained: dict[tuple[str, str], Network] = {}
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
            trained[name, kind] = network
    line = trained["leaf or flower", "one layer"]
    leaves = sum(line.predict(inputs) == 0 for inputs, _ in plants(300, 1)) / 300
    training_leaves = sum(label == 0 for _, label in plants(200, 0)) / 200
    misses = sum(not hit for _, hit in disc(300, 1)) / 300
    presenter.table(("task", "network", "first loss", "last 50 losses", "test accuracy"), rows)
    presenter.text(f"""A guess between two classes has ln 2 = 0.693. One layer stays near that for the plants: two
        groups of each class lie opposite each other, so that no line helps on average. It calls {leaves:.0%} of them
        "leaf", as its training set happens to have more leaves than flowers ({training_leaves:.0%}). In the test set
        leaves are fewer, so it is right a little less often than a guess: that is chance. For the disc it learns how
        frequent misses are: always "miss" is right for {misses:.0%}. With a hidden layer both tasks are learned.""")

    def draw(figure: Figure) -> None:
        steps = 50
        for axes, (name, (make_examples, labels, classes)) in zip(figure.subplots(1, 2), TASKS.items(), strict=True):
            examples = make_examples(300, 1)
            low = [min(inputs[i] for inputs, _ in examples) for i in (0, 1)]
            high = [max(inputs[i] for inputs, _ in examples) for i in (0, 1)]
            lines = [[low[i] + (high[i] - low[i]) * k / (steps - 1) for k in range(steps)] for i in (0, 1)]
            predictions = [[trained[name, "hidden layer"].predict((x, y)) for x in lines[0]] for y in lines[1]]
            axes.contourf(*lines, predictions, levels=[-0.5, 0.5, 1.5], colors=[BLUE, ORANGE], alpha=0.25)
            for number, colour in ((0, BLUE), (1, ORANGE)):
                points = [inputs for inputs, label in examples if label == number]
                axes.scatter(*zip(*points, strict=True), s=12, color=colour, label=f"is a {classes[number]}")
            axes.set(title=name, xlabel=labels[0], ylabel=labels[1])
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)

    title = "What the network predicts (areas), and what 300 test examples are (dots)"
    presenter.plot("leaf_or_flower", title, draw, (10, 5))
    return results
