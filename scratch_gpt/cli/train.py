"""`scratch-gpt train`: train a model of any task."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .app import app, is_debug


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train(
    context: typer.Context,
    family: Annotated[str | None, typer.Argument(metavar="TASK", help="The task to train for.")] = None,
    num_processes: Annotated[
        int,
        typer.Option(
            "--num_processes",
            "--num-processes",
            min=1,
            help="Number of processes on this machine, such as one per GPU.",
        ),
    ] = 1,
) -> None:
    """Train a model. `scratch-gpt train` lists the tasks, `scratch-gpt train TASK --help` the arguments of one.

    Example:

    ```
    scratch-gpt train language_modeling --dataset my_text.txt --output_dir runs/mine
    ```
    """
    from ..train.tasks import FAMILIES, description_of

    arguments = list(context.args)
    if family in (None, "-h", "--help"):
        print("usage: scratch-gpt train TASK [--num_processes N] [--config FILE] [--NAME VALUE ...]\n")
        for name in FAMILIES:
            print(f"  {name:<20}{description_of(name).splitlines()[0]}")
        print("\nscratch-gpt train TASK --help shows examples and all arguments.")
        return
    from ..auto import register
    from ..train.engine.command import train_command
    from ..train.engine.launch import launch
    from ..train.engine.parsing import parse_arguments
    from ..train.engine.run import check_settings
    from ..train.tasks import recipe_of

    register()
    recipe, description = recipe_of(family), description_of(family)
    if num_processes == 1 or {"-h", "--help"} & set(arguments):
        train_command(recipe, description, arguments, f"scratch-gpt train {family}", is_debug())
        return
    settings = parse_arguments(recipe.arguments, description, arguments, processes=num_processes)
    check_settings(*settings)  # here too, so that an error is reported once
    command = ["-m", "scratch_gpt", *(["--debug"] if is_debug() else []), "train", str(family), *arguments]
    sys.exit(launch(command, num_processes))
