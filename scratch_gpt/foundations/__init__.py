"""From one neuron to a language model: stations, each a module small enough to read in one sitting.

Every module opens with its derivation and holds the code that it teaches; its `run(lesson)` shows in seconds what the
code does (the ladder's in minutes) and hands back the figures that it claims. `scratch-gpt learn STATION` runs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ScratchError

if TYPE_CHECKING:
    from .lesson import Lesson

# In the order in which they build on each other.
STATIONS = {
    "neuron": "a weight and a bias learn a line, then a polynomial; why the steps must be small",
    "autograd": "derivatives of anything, by the chain rule along a graph",
    "activations": "the bends between the layers, and what there is without them",
    "leaf_or_flower": "a network that decides between two classes, on our own autograd",
    "depth": "why deep is hard: gradients that vanish or explode, and four remedies",
    "text": "characters as numbers: the bigram, a window of characters, embeddings",
    "subwords": "byte-pair encoding: words from the most frequent pairs",
    "attention": "from the average of the past to many heads, in four steps; positions",
    "dropout": "learning less by heart",
    "ladder": "all of it, rung by rung, under one budget: what does each idea buy? (minutes)",
}
LADDER = "ladder"


def open_station(name: str) -> Callable[[Lesson], dict[str, float]]:
    """What runs a station and hands back its figures.

    Raises:
        ScratchError: there is no such station.
    """
    if name not in STATIONS:
        raise ScratchError(f"there is no station {name!r}: take one of {', '.join(STATIONS)}")
    run: Callable[[Lesson], dict[str, float]] = importlib.import_module(f".{name}", __name__).run
    return run


def file_of(name: str) -> Path:
    """The module to read."""
    return Path(__file__).with_name(f"{name}.py")
