"""From one neuron to a language model: lessons, each a module small enough to read in one sitting.

A module contains the code that it explains. Its `run(presenter)` asks the question, derives the answer, demonstrates
the code in seconds (the ladder in minutes), and returns the measurements behind its claims. `scratch-gpt learn LESSON`
prints it, and the pages of the course are made from the same `run`. `bridges.py` says for each lesson where the
package's models do the same; `exercises/` has exercises with solutions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ScratchError

if TYPE_CHECKING:
    from .lesson import Presenter


@dataclass(frozen=True)
class Lesson:
    """A lesson of the course.

    Attributes:
        title: a few words.
        content: what it is about.
        outcome: what the reader can do after it.
        minutes: to read it with a pencil, without the exercises.
    """

    title: str
    content: str
    outcome: str
    minutes: int


# Ordered so that each lesson builds only on earlier ones.
LESSONS = {
    "neuron": Lesson(
        "A neuron",
        "a weight and a bias fit a line, then a polynomial; why the learning rate must be small",
        "do a step of gradient descent by hand, and say why training can diverge",
        15,
    ),
    "autograd": Lesson(
        "Autograd",
        "automatic differentiation: the chain rule along a computation graph",
        "compute a gradient by backpropagation on paper",
        15,
    ),
    "activations": Lesson(
        "Activation functions",
        "nonlinearities between the layers, and what a network is without them; softmax",
        "say what a hidden layer is for, and turn scores into probabilities",
        15,
    ),
    "leaf_or_flower": Lesson(
        "Leaf or flower",
        "a network that classifies, on our own autograd; cross-entropy and the nat",
        "read a loss in nats, and write a training loop",
        15,
    ),
    "depth": Lesson(
        "Depth",
        "why deep networks are hard to train: vanishing and exploding gradients, and four remedies",
        "say what initialization, norms and residual connections are for",
        20,
    ),
    "text": Lesson(
        "Text as numbers",
        "characters as numbers: the bigram, a window of characters, embeddings",
        "train a language model of characters, and let it write",
        20,
    ),
    "subwords": Lesson(
        "Subwords",
        "byte-pair encoding: subwords from the most frequent pairs",
        "build a tokenizer by hand",
        10,
    ),
    "attention": Lesson(
        "Attention",
        "five words mixed by hand: query, key, value, causal mask; several heads; positions",
        "compute the output of an attention head on paper",
        30,
    ),
    "dropout": Lesson(
        "Dropout",
        "overfitting, and how dropout reduces it",
        "recognise overfitting in two loss curves",
        10,
    ),
    "ladder": Lesson(
        "The ladder",
        "an ablation ladder: the gain of each idea under one budget (minutes)",
        "say what each part of a GPT contributes, and what is not proven at this size",
        20,
    ),
}
LADDER = "ladder"
# The tab of the page of `scratch-gpt see` that shows in a trained model what a lesson derives.
VIEWS = {"depth": "Architecture", "text": "Next token", "subwords": "Tokens", "attention": "Attention"}


def check_lesson(name: str) -> None:
    """Check that there is a lesson of this name.

    Raises:
        ScratchError: there is none.
    """
    if name not in LESSONS:
        numbered = ", ".join(f"{number} {lesson}" for number, lesson in enumerate(LESSONS, 1))
        raise ScratchError(f"unknown lesson {name!r}: choose one of {numbered}, by number or name")


def find_lesson(text: str) -> str:
    """Return the name of the lesson that a user means by its number, or by its name or title in any case.

    Raises:
        ScratchError: there is none.
    """
    wanted = text.strip().lower()
    for number, (name, lesson) in enumerate(LESSONS.items(), 1):
        if wanted in (f"{number}", name, name.replace("_", " "), lesson.title.lower()):
            return name
    check_lesson(text)
    raise AssertionError("check_lesson raises for what is no name")


def load_lesson(name: str) -> Callable[[Presenter], dict[str, float]]:
    """Return the function that runs a lesson and returns its measurements.

    Raises:
        ScratchError: there is no lesson of this name.
    """
    check_lesson(name)
    run: Callable[[Presenter], dict[str, float]] = importlib.import_module(f".{name}", __name__).run
    return run


def source_file(name: str) -> Path:
    """Return the path of a lesson's module."""
    return Path(__file__).with_name(f"{name}.py")


def next_lesson(name: str) -> str | None:
    """Return the name of the lesson after `name`; None after the last."""
    names = list(LESSONS)
    return names[names.index(name) + 1] if name != names[-1] else None
