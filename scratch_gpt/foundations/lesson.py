"""Presentation of a lesson: sections of at most a screen, with formulas, code, tables, and plots if there is a folder
for them."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table

from ..errors import ScratchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, LIGHT, RED, ORANGE, GREY = "#1f4e79", "#8fb3d9", "#c0504d", "#d9822b", "#888888"
INDENT = 4  # of formulas and code


class TextBlock(NamedTuple):
    """A paragraph, a list (one item per line) or a formula (line breaks are kept) of a lesson's text."""

    kind: Literal["paragraph", "list", "formula"]
    lines: list[str]


def split_text(text: str) -> list[TextBlock]:
    """Split a text at its empty lines: indented blocks are formulas, blocks that start with "- " are lists.

    Args:
        text: as written in a lesson; indentation that all lines have in common is ignored.
    """
    blocks: list[TextBlock] = []
    for part in filter(None, inspect.cleandoc(text).split("\n\n")):
        lines = part.strip("\n").splitlines()
        if lines[0].startswith(" "):
            blocks.append(TextBlock("formula", textwrap.dedent("\n".join(lines)).splitlines()))
        elif lines[0].startswith("- "):
            items = "\n".join(lines).removeprefix("- ").split("\n- ")
            blocks.append(TextBlock("list", [" ".join(item.split()) for item in items]))
        else:
            blocks.append(TextBlock("paragraph", [" ".join(part.split())]))
    return blocks


def source_of(function: Callable[..., Any]) -> str:
    """Return the source code of a function without its docstring and type annotations, which matter to tools only."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    definition = ast.parse("\n".join(lines)).body[0]
    assert isinstance(definition, ast.FunctionDef)
    start = definition.body[1 if ast.get_docstring(definition) is not None else 0].lineno
    while lines[start - 2].lstrip().startswith("#"):
        start -= 1
    for argument in (*definition.args.args, *definition.args.kwonlyargs):
        argument.annotation = None
    return "\n".join((f"def {definition.name}({ast.unparse(definition.args)}):", *lines[start - 1 :]))


class Presenter:
    """Prints a lesson, and waits for the reader between its sections.

    Args:
        console: where to print.
        folder: folder for the plots, each saved as `NAME.png`; None saves none.

    Raises:
        ScratchError: the folder can't be created.
    """

    def __init__(self, console: Console, folder: Path | None = None):
        self.console, self.folder = console, folder
        self.num_sections = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ScratchError(f"can't create the folder {folder} for plots: {error.strerror}") from error

    def section(self, title: str, text: str = "") -> None:
        """Start a section. At an interactive terminal, wait for Enter before all but the first."""
        if self.num_sections and self.console.is_terminal and sys.stdin.isatty():
            with suppress(EOFError):
                self.console.input("[dim]press Enter to continue[/dim] ")
        self.num_sections += 1
        self.console.print(f"\n[bold]{self.num_sections}. {title}[/bold]", highlight=False)
        self.text(text)

    def text(self, text: str) -> None:
        """Print paragraphs, lists and formulas (see `split_text`)."""
        previous = ""
        for kind, lines in split_text(text):
            if previous == "paragraph" and kind == "paragraph":
                self.console.print()
            previous = kind
            for line in lines:
                if kind == "list":
                    table = Table.grid(padding=(0, 1, 0, 0))
                    table.add_row("-", line)
                    self._print(table)
                else:
                    self._print(Padding(line, (0, 0, 0, INDENT), expand=False) if kind == "formula" else line)

    def code(self, *functions: Callable[..., Any]) -> None:
        """Print the source code of functions, without their docstrings."""
        for function in functions:
            self._print(Padding(source_of(function), (0, 0, 0, INDENT), expand=False))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """Print a table; numbers are rounded to four significant digits, and long names folded."""
        cells = [[format_cell(cell) for cell in row] for row in rows]
        lines = [
            [line for cell in column for line in cell.splitlines()] for column in zip(columns, *cells, strict=True)
        ]
        taken = sum(3 + max(map(len, column)) for column in lines[:-1]) + 4  # all columns but the last, and the borders
        room = max(self.console.width - taken, 15)  # the last column wraps first
        table = Table(
            *(Column(name, overflow="fold") for name in columns[:-1]),
            Column(columns[-1], overflow="fold", max_width=room),
        )
        for row in cells:
            table.add_row(*row)
        self._print(table)

    def plot(self, name: str, title: str, draw: Callable[[Figure], None], size: tuple[float, float] = (8, 4.5)) -> None:
        """Draw a figure and save it as `NAME.png`.

        Args:
            name: of the file.
            title: what the figure shows; it stands above it.
            draw: fills the figure.
            size: width and height in inches.
        """
        if self.folder is None:
            return
        path = self.folder / f"{name}.png"
        draw_figure(title, draw, size).savefig(path, dpi=150)
        self.console.print(f"plot: {path}", soft_wrap=True, highlight=False, markup=False)

    def _print(self, content: Any) -> None:
        self.console.print(content, highlight=False, markup=False)


def format_cell(cell: str | float) -> str:
    """Format a cell of a table: numbers with four significant digits."""
    return cell if isinstance(cell, str) else f"{cell:.4g}"


def draw_figure(title: str, draw: Callable[[Figure], None], size: tuple[float, float]) -> Figure:
    """Return a figure of `size` inches with a title above what `draw` draws."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    draw(figure)
    return figure
