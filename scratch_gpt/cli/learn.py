"""`scratch-gpt learn`: lessons from one neuron to a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app


@app.command()
def learn(
    station: Annotated[str | None, typer.Argument(help="The lesson to run. Without it, all are listed.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for plots. Default of the ladder: runs/ladder.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(metavar="FILE", help="Text file that the ladder trains on.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each model of the ladder. Default: 3.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each run of the ladder. Default: 1,200.")] = None,
) -> None:
    """Run a lesson on the foundations: each takes seconds, prints explanations, and names its source file.

    `ladder` is an ablation: it trains models from the bigram to a current GPT with the same budget, in minutes.

    Example: `scratch-gpt learn neuron --save pictures`
    """
    from rich.console import Console

    from ..errors import ScratchError
    from ..foundations import LADDER, STATIONS, file_of, open_station
    from ..foundations.lesson import Lesson

    console = Console()
    given = {"dataset": dataset, "seeds": seeds, "steps": steps}
    if station != LADDER and (wrong := [f"--{name}" for name, value in given.items() if value is not None]):
        raise ScratchError(f"only the ladder takes {', '.join(wrong)}: scratch-gpt learn ladder {wrong[0]} …")
    if station is None and save is not None:
        raise ScratchError("--save keeps the pictures of a station: scratch-gpt learn STATION --save DIR")
    if station is None:
        Lesson(console).table(("station", "what it shows"), [*STATIONS.items()])
        console.print("Begin with [bold]scratch-gpt learn neuron[/bold].")
        return
    if station == LADDER:
        from ..foundations import ladder

        options = {name: value for name, value in (("seeds", seeds), ("steps", steps)) if value is not None}
        text = ladder.open_text(dataset)
        ladder.run(Lesson(console, save or Path("runs/ladder")), text, **options)
    else:
        open_station(station)(Lesson(console, save))
    console.print(f"To read: {file_of(station)}", soft_wrap=True, highlight=False, markup=False)
