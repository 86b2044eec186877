"""The exercises of each lesson, with solutions: Markdown files in the folder `exercise_texts`.

A file has a heading of level 2 for each exercise and, below its question, the heading `### Solution`. Python blocks of
solutions are complete programs: they import what they need, print what they find, and check their claims by `assert`.
The question of an exercise in code ends with a block that runs as it stands, from which the reader can start.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import check_lesson

if TYPE_CHECKING:
    from .lesson import Presenter

FOLDER = Path(__file__).with_name("exercise_texts")
SOLUTION = "\n### Solution\n"


class Exercise(NamedTuple):
    """An exercise: its title, and its question and solution in Markdown."""

    title: str
    question: str
    solution: str


def load_exercises(lesson: str) -> list[Exercise]:
    """Return the exercises of a lesson.

    Raises:
        ScratchError: there is no lesson of this name.
    """
    check_lesson(lesson)
    text = (FOLDER / f"{lesson}.md").read_text("utf-8")
    exercises = []
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        title, _, rest = part.partition("\n")
        question, _, solution = rest.partition(SOLUTION)
        exercises.append(Exercise(title, question.strip(), solution.strip()))
    return exercises


def print_markdown(presenter: Presenter, text: str) -> None:
    """Print Markdown, and its blocks of code as they are, so that they can be copied into a file."""
    from rich.markdown import Markdown

    for part in re.split(r"^(```python\n.*?^```)$", text, flags=re.M | re.S):
        if part.startswith("```python\n"):
            code = part.removeprefix("```python\n").removesuffix("```").rstrip()
            presenter.console.print(f"\n{code}\n", highlight=False, markup=False, soft_wrap=True)
        elif part.strip():
            presenter.console.print(Markdown(part))


def present_exercises(presenter: Presenter, lesson: str, solutions: bool) -> None:
    """Print the exercises of a lesson, each as a section.

    Args:
        presenter: where to print them.
        lesson: name of the lesson.
        solutions: whether to print the solutions, too.

    Raises:
        ScratchError: there is no lesson of this name.
    """
    for exercise in load_exercises(lesson):
        presenter.section(exercise.title)
        print_markdown(presenter, exercise.question)
        if solutions:
            presenter.console.print("\n[bold]Solution[/bold]")
            print_markdown(presenter, exercise.solution)
