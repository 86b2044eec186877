"""Presentation of a lesson: sections of at most a screen, with tables, and plots if there is a folder for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..errors import ScratchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, LIGHT, RED, GREEN, GREY = "#1f4e79", "#8fb3d9", "#c0504d", "#4f8a4c", "#888888"


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

    def section(self, title: str, text: str) -> None:
        """Start a section. At an interactive terminal, wait for Enter before all but the first."""
        if self.num_sections and self.console.is_terminal and sys.stdin.isatty():
            with suppress(EOFError):
                self.console.input("[dim]press Enter to continue[/dim] ")
        self.num_sections += 1
        self.console.print(f"\n[bold]{self.num_sections}. {title}[/bold]")
        self.text(text)

    def text(self, text: str) -> None:
        """Print a paragraph; line breaks and indentation in `text` are ignored."""
        self.console.print(" ".join(text.split()), highlight=False, markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """Print a table; numbers are rounded to four significant digits."""
        table = Table(*columns)
        for row in rows:
            table.add_row(*(cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row))
        self.console.print(table)

    def plot(self, name: str, draw: Callable[[Figure], None], size: tuple[float, float] = (8, 4.5)) -> None:
        """Let `draw` fill a figure of `size` (width and height in inches), and save it as `NAME.png`."""
        if self.folder is None:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        path = self.folder / f"{name}.png"
        figure.savefig(path, dpi=150)
        self.console.print(f"plot: {path}", soft_wrap=True, highlight=False, markup=False)
