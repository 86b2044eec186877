"""Training: one loop, and a recipe for each task. `train` is the entry point for Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["train"]


def train(family: str, **arguments: Any) -> Path:
    """Train a model in this process, as `scratch-gpt train TASK` does on the command line.

        from scratch_gpt.train import train

        folder = train("language_modeling", dataset="my_text.txt", output_dir="runs/mine", max_steps=500)

    Args:
        family: the task, such as "language_modeling"; `scratch_gpt.train.tasks.FAMILIES` lists them.
        arguments: arguments with the names of the command line; `config` is a YAML file with further ones, or the name
            of a built-in one.

    Returns:
        The output directory: a model directory that `from_pretrained` loads.

    Raises:
        ScratchError: bad input; a subclass: the run failed or was interrupted.
    """
    from .engine.parsing import arguments_from
    from .engine.run import train_recipe
    from .tasks import recipe_of

    recipe = recipe_of(family)
    return train_recipe(recipe, *arguments_from(recipe.arguments, arguments))
