"""`scratch-gpt learn`: lessons from one neuron to a language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app

if TYPE_CHECKING:
    from rich.console import Console

    from ..foundations.lesson import Presenter


@app.command()
def learn(
    lesson: Annotated[
        str | None, typer.Argument(help="Name or number of the lesson. Without it, all are listed.")
    ] = None,
    exercises: Annotated[
        bool, typer.Option("--exercises/--no-exercises", help="Print the lesson's exercises instead of the lesson.")
    ] = False,
    solutions: Annotated[
        bool, typer.Option("--solutions/--no-solutions", help="Print the exercises with their solutions.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for plots. Default of the ladder: runs/ladder.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(metavar="FILE", help="Text file that the ladder trains on.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each model of the ladder. Default: 3.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each run of the ladder. Default: 1,200.")] = None,
) -> None:
    """Run a lesson on the foundations: each takes seconds, explains and shows the code, and names its source file.

    `ladder` is an ablation: it trains models from the bigram to a current GPT with the same budget, in minutes.

    Examples:

    ```
    scratch-gpt learn neuron --save plots
    scratch-gpt learn neuron --exercises
    ```
    """
    from rich.console import Console

    from ..errors import ScratchError
    from ..foundations import LADDER, find_lesson, load_lesson
    from ..foundations.exercises import present_exercises
    from ..foundations.lesson import Presenter

    console = Console()
    lesson = None if lesson is None else find_lesson(lesson)
    given = {"dataset": dataset, "seeds": seeds, "steps": steps}
    used = [f"--{name}" for name, value in given.items() if value is not None]
    if lesson != LADDER and used:
        raise ScratchError(f"{', '.join(used)}: only for the ladder (scratch-gpt learn ladder {used[0]} …)")
    wanted = [f"--{name}" for name, value in (("exercises", exercises), ("solutions", solutions)) if value]
    if wanted and lesson is not None and (used or save is not None):
        unused = used + ["--save"] * (save is not None)
        raise ScratchError(f"{', '.join(unused)} can't be used with {wanted[0]}, which does not run the lesson")
    if lesson is None and wanted:
        raise ScratchError(f"{wanted[0]} prints those of a lesson: scratch-gpt learn LESSON {wanted[0]}")
    if lesson is None and save is not None:
        raise ScratchError("--save saves the plots of a lesson: scratch-gpt learn LESSON --save DIR")
    if lesson is None:
        _list_lessons(console)
    elif wanted:
        present_exercises(Presenter(console), lesson, solutions)
        if not solutions:
            console.print(f"\nsolutions: scratch-gpt learn {lesson} --solutions", highlight=False, markup=False)
    elif lesson == LADDER:
        from ..foundations import ladder

        options = {name: value for name, value in (("seeds", seeds), ("steps", steps)) if value is not None}
        text = ladder.open_text(dataset)
        presenter = Presenter(console, save or Path("runs/ladder"))
        ladder.run(presenter, text, **options)
        _end_lesson(presenter, lesson)
    else:
        presenter = Presenter(console, save)
        load_lesson(lesson)(presenter)
        _end_lesson(presenter, lesson)


def _list_lessons(console: Console) -> None:
    from ..foundations import LESSONS
    from ..foundations.lesson import Presenter

    rows = [
        (f"{number}", name, f"{lesson.minutes}", lesson.content)
        for number, (name, lesson) in enumerate(LESSONS.items(), 1)
    ]
    Presenter(console).table(("", "lesson", "min", "content"), rows)
    console.print(
        "From school maths (functions, derivatives, e^x and ln) to a language model.\n"
        "Start with [bold]scratch-gpt learn neuron[/bold]. After a lesson: "
        "[bold]scratch-gpt learn neuron --exercises[/bold].",
        highlight=False,
    )


def _end_lesson(presenter: Presenter, lesson: str) -> None:
    """Say where the models do the same, and what to do next."""
    from ..foundations import VIEWS, next_lesson, source_file
    from ..foundations.bridges import present_bridge

    present_bridge(presenter, lesson)
    lines = [f"source: {source_file(lesson)}"]
    if view := VIEWS.get(lesson):
        lines.append(f"in your own model: scratch-gpt see MODEL, tab {view}")
    if presenter.folder is None:
        lines.append(f"plots: scratch-gpt learn {lesson} --save DIR")
    lines.append(f"exercises: scratch-gpt learn {lesson} --exercises")
    if following := next_lesson(lesson):
        lines.append(f"next: scratch-gpt learn {following}")
    for line in lines:
        presenter.console.print(line, soft_wrap=True, highlight=False, markup=False)
