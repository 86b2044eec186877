"""Pages of the course: each lesson is run, and its sections, tables and plots are written as Markdown.

Nothing is written twice: the terminal (`scratch-gpt learn`) and these pages get the text from the same functions.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scratch_gpt.foundations import LADDER, LESSONS, VIEWS, ladder, load_lesson
from scratch_gpt.foundations.bridges import BRIDGES
from scratch_gpt.foundations.exercises import load_exercises
from scratch_gpt.foundations.lesson import Presenter, draw_figure, format_cell, source_of, split_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGE = "scratch_gpt"
LADDER_RESULTS = Path(__file__).parents[1] / "results" / "ladder.md"


class MarkdownPresenter(Presenter):
    """Collects a lesson as Markdown, and its plots as PNG files.

    Attributes:
        parts: blocks of Markdown.
        images: the plots, by name.
    """

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.parts: list[str] = []
        self.images: dict[str, bytes] = {}

    def section(self, title: str, text: str = "") -> None:
        """Start a section."""
        self.parts.append(f"## {escape(title)}")
        self.text(text)

    def text(self, text: str) -> None:
        """Add paragraphs, lists and formulas."""
        for kind, lines in split_text(text):
            if kind == "formula":
                self.parts.append("\n".join(("```text", *lines, "```")))
            elif kind == "list":
                self.parts.append("\n".join(f"- {escape(line)}" for line in lines))
            else:
                self.parts.append(escape(lines[0]))

    def code(self, *functions: Callable[..., Any]) -> None:
        """Add the source code of functions, each with a link to its file."""
        for function in functions:
            path = f"{function.__module__.replace('.', '/')}.py"
            link = f"[`{function.__qualname__}`](source:{path}#{function.__qualname__})"
            self.parts.append(f"```python\n{source_of(function)}\n```\n\n{link} in `{Path(path).name}`")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """Add a table."""
        self.parts.append(
            markdown_table([escape(c) for c in columns], [[escape(format_cell(c)) for c in row] for row in rows])
        )

    def plot(self, name: str, title: str, draw: Callable[[Figure], None], size: tuple[float, float] = (8, 4.5)) -> None:
        """Add a plot."""
        file = io.BytesIO()
        draw_figure(title, draw, size).savefig(file, format="png", dpi=120)
        self.images[name] = file.getvalue()
        self.parts.append(f"![{title}](images/{name}.png)")


def escape(text: str) -> str:
    """Escape what has a meaning in Markdown or HTML, except in inline code."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_\[\]|])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of cells that are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def course_pages() -> dict[str, str]:
    """Return the generated pages by URI: one for each lesson, and the table of all bridges to the model code."""
    pages = {f"course/{name}.md": _lesson_page(name) for name in LESSONS}
    return pages | {"course/from-lesson-to-model.md": _bridge_page()}


def course_images() -> dict[str, bytes]:
    """Return the plots of the lessons by URI."""
    lessons = [_present(name) for name in LESSONS]
    return {f"course/images/{name}.png": image for lesson in lessons for name, image in lesson.images.items()}


@cache
def _present(name: str) -> MarkdownPresenter:
    """Run a lesson; of the ladder, only the text, with the committed picture of a run."""
    presenter = MarkdownPresenter()
    if name != LADDER:
        load_lesson(name)(presenter)
        return presenter
    ladder.explain(presenter)
    presenter.parts = _link_rungs(presenter.parts)
    presenter.section("The result", "Held-out loss on TinyShakespeare, with three seeds for each rung:")
    presenter.parts.append(f"![{ladder.PLOT_TITLE}](../images/ladder.png)")
    findings = re.search(r"^\| model .+?(?=\n\n\[The course\])", LADDER_RESULTS.read_text("utf-8"), re.M | re.S)
    assert findings is not None, f"{LADDER_RESULTS} has no table with findings"
    presenter.parts.append(findings[0])
    presenter.parts.append("Machine and command are at the [results](../results/ladder.md).")
    presenter.text("The lesson in the terminal trains all rungs, in minutes, on a text of your own if you want.")
    ladder.discuss(presenter)
    return presenter


def _link_rungs(parts: list[str]) -> list[str]:
    """Append to the line of each rung a link to the class that builds its model."""
    text = "\n\n".join(parts) + "\n"
    for rung in ladder.RUNGS:
        model = rung.build.func if isinstance(rung.build, partial) else rung.build
        line = f"- {escape(f'{rung.name}: {rung.meaning}')}\n"
        assert line in text, f"the rung {rung.name} is not listed"
        link = f"[`{model.__name__}`](source:{PACKAGE}/foundations/ladder_models.py#{model.__name__})"
        text = text.replace(line, f"{line[:-1]} · {link}\n")
    return [text.strip()]


def _lesson_page(name: str) -> str:
    lesson, names = LESSONS[name], list(LESSONS)
    number = names.index(name)
    save = "" if name == LADDER else " --save plots"
    neighbours = [
        f"{word}: [{LESSONS[names[i]].title}]({names[i]}.md)"
        for word, i in (("Previous", number - 1), ("Next", number + 1))
        if 0 <= i < len(names)
    ]
    parts = [
        f"# {number + 1}. {lesson.title}",
        f"After this lesson you can {lesson.outcome}.",
        f"About {lesson.minutes} minutes · in the terminal: `scratch-gpt learn {name}{save}` · "
        f"[source](source:{PACKAGE}/foundations/{name}.py)",
        *_present(name).parts,
        "## From here to the model code",
        "What this lesson defines, and what does the same in the models and their training:",
        _bridge_table(name),
    ]
    if view := VIEWS.get(name):
        parts.append(f"In your own model: `scratch-gpt see MODEL`, tab *{view}* ([how to](../how-to/see.md)).")
    parts += ["## Exercises", f"In the terminal: `scratch-gpt learn {name} --exercises`."]
    for exercise in load_exercises(name):
        solution = textwrap.indent(exercise.solution, "    ")
        parts += [f"### {exercise.title}", exercise.question, f'??? note "Solution"\n\n{solution}']
    parts += ["---", " · ".join(neighbours)]
    return "\n\n".join(parts) + "\n"


def _bridge_table(name: str) -> str:
    rows = []
    for each in BRIDGES[name]:
        path, symbol = each.there.split("#")
        here = f"[`{each.here}`](source:{PACKAGE}/foundations/{source_module(name, each.here)}.py#{each.here})"
        there = f"[`{symbol.rsplit('.', 1)[-1]}`](source:{PACKAGE}/{each.there}) in `{path.rsplit('/', 1)[-1]}`"
        rows.append((here, there, each.note))
    return markdown_table(("this lesson", "there", "note"), rows)


def source_module(lesson: str, symbol: str) -> str:
    """Return the module of `foundations` that defines a symbol of a lesson; the rungs of the ladder have their own."""
    return "ladder_models" if lesson == LADDER and symbol == "RUNGS" else lesson


def _bridge_page() -> str:
    parts = [
        "# From lesson to model",
        "Here you find for each function of the course the code that does the same in a model one can train. Read "
        "[the architecture](../explanation/architecture.md) for how these parts work together.",
    ]
    for name, lesson in LESSONS.items():
        parts += [f"## [{lesson.title}]({name}.md)", _bridge_table(name)]
    return "\n\n".join(parts) + "\n"
