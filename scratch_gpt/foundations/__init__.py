"""From one neuron to a language model: lessons, each a module small enough to read in one sitting.

Each module starts with the derivation and contains the code that it explains. Its `run(presenter)` demonstrates the
code in seconds (the ladder in minutes) and returns the measurements behind its claims. `scratch-gpt learn LESSON` runs
it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ScratchError

if TYPE_CHECKING:
    from .lesson import Presenter

# Ordered so that each lesson builds only on earlier ones.
LESSONS = {
    "neuron": "a weight and a bias fit a line, then a polynomial; why the learning rate must be small",
    "autograd": "automatic differentiation: the chain rule along a computation graph",
    "activations": "nonlinearities between the layers, and what a network is without them",
    "leaf_or_flower": "a network that classifies, on our own autograd",
    "depth": "why deep networks are hard to train: vanishing and exploding gradients, and four remedies",
    "text": "characters as numbers: the bigram, a window of characters, embeddings",
    "subwords": "byte-pair encoding: subwords from the most frequent pairs",
    "attention": "from the average of the past to multi-head attention, in four steps; positions",
    "dropout": "less overfitting",
    "ladder": "an ablation ladder: the gain of each idea under one budget (minutes)",
}
LADDER = "ladder"
# The tab of the page of `scratch-gpt see` that shows in a trained model what a lesson derives.
VIEWS = {"depth": "Architecture", "text": "Next token", "subwords": "Tokens", "attention": "Attention"}


def load_lesson(name: str) -> Callable[[Presenter], dict[str, float]]:
    """Return the function that runs a lesson and returns its measurements.

    Raises:
        ScratchError: there is no lesson of this name.
    """
    if name not in LESSONS:
        raise ScratchError(f"unknown lesson {name!r}: choose one of {', '.join(LESSONS)}")
    run: Callable[[Presenter], dict[str, float]] = importlib.import_module(f".{name}", __name__).run
    return run


def source_file(name: str) -> Path:
    """Return the path of a lesson's module."""
    return Path(__file__).with_name(f"{name}.py")
