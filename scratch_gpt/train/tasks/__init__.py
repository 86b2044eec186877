"""The tasks, one folder each. A new task is a new folder and a line in `FAMILIES`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ...errors import ScratchError

if TYPE_CHECKING:
    from ..engine.recipe import Recipe

# Package of each family. Its module `arguments` defines ARGUMENTS; its module `recipe` defines RECIPE and, in its
# docstring, the description for `--help`.
FAMILIES = {
    "language_modeling": f"{__name__}.language_modeling",
    "masked_lm": f"{__name__}.masked_lm",
    "classification": f"{__name__}.classification",
    "translation": f"{__name__}.translation",
    "sft": f"{__name__}.sft",
    "dpo": f"{__name__}.dpo",
    "policy_gradient": f"{__name__}.policy_gradient",
    "distillation": f"{__name__}.distillation",
}


def recipe_of(family: Any) -> Recipe:
    """The recipe of a task.

    Raises:
        ScratchError: there is no such task.
    """
    recipe: Recipe = _module("recipe", family).RECIPE
    return recipe


def description_of(family: Any) -> str:
    """What training for a task does, with examples, for `--help`.

    Raises:
        ScratchError: there is no such task.
    """
    return _module("recipe", family).__doc__ or ""


def arguments_of(family: Any) -> tuple[type[Any], type[Any], type[Any]]:
    """The dataclasses of a task's data, model and training arguments; importing them loads neither model nor data.

    Raises:
        ScratchError: there is no such task.
    """
    arguments: tuple[type[Any], type[Any], type[Any]] = _module("arguments", family).ARGUMENTS
    return arguments


def _module(name: str, family: Any) -> Any:
    if not isinstance(family, str) or family not in FAMILIES:
        raise ScratchError(f"unknown task {family!r:.60}, want one of {', '.join(FAMILIES)}")
    return importlib.import_module(f"{FAMILIES[family]}.{name}")
