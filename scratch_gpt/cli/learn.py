"""`scratch-gpt learn`: lessons from one neuron to a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app


@app.command()
def learn(
    lesson: Annotated[str | None, typer.Argument(help="The lesson to run. Without it, all are listed.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for plots. Default of the ladder: runs/ladder.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(metavar="FILE", help="Text file that the ladder trains on.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each model of the ladder. Default: 3.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each run of the ladder. Default: 1,200.")] = None,
) -> None:
    """Run a lesson on the foundations: each takes seconds, prints explanations, and names its source file.

    `ladder` is an ablation: it trains models from the bigram to a current GPT with the same budget, in minutes.

    Example:

    ```
    scratch-gpt learn neuron --save plots
    ```
    """
    from rich.console import Console

    from ..errors import ScratchError
    from ..foundations import LADDER, LESSONS, VIEWS, load_lesson, source_file
    from ..foundations.lesson import Presenter

    console = Console()
    given = {"dataset": dataset, "seeds": seeds, "steps": steps}
    if lesson != LADDER and (unused := [f"--{name}" for name, value in given.items() if value is not None]):
        raise ScratchError(f"{', '.join(unused)}: only for the ladder (scratch-gpt learn ladder {unused[0]} …)")
    if lesson is None and save is not None:
        raise ScratchError("--save saves the plots of a lesson: scratch-gpt learn LESSON --save DIR")
    if lesson is None:
        Presenter(console).table(("lesson", "content"), [*LESSONS.items()])
        console.print("Start with [bold]scratch-gpt learn neuron[/bold].")
        return
    if lesson == LADDER:
        from ..foundations import ladder

        options = {name: value for name, value in (("seeds", seeds), ("steps", steps)) if value is not None}
        text = ladder.open_text(dataset)
        ladder.run(Presenter(console, save or Path("runs/ladder")), text, **options)
    else:
        load_lesson(lesson)(Presenter(console, save))
    console.print(f"source: {source_file(lesson)}", soft_wrap=True, highlight=False, markup=False)
    if view := VIEWS.get(lesson):
        console.print(f"in your own model: scratch-gpt see MODEL, tab {view}", highlight=False, markup=False)
