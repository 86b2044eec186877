"""How a station speaks: in parts of at most a screen, with tables, and with pictures where there is a folder for
them."""

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


class Lesson:
    """Prints what a station has to say, and waits for the reader between its parts.

    Args:
        console: what to print on.
        folder: where pictures go, each as `NAME.png`; None draws none.

    Raises:
        ScratchError: there can be no such folder.
    """

    def __init__(self, console: Console, folder: Path | None = None):
        self.console, self.folder = console, folder
        self.parts = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ScratchError(f"{folder} can't be made a folder for pictures: {error.strerror}") from error

    def part(self, title: str, text: str) -> None:
        """Begin a part. Where somebody sits before a terminal, wait until the one before has been read."""
        if self.parts and self.console.is_terminal and sys.stdin.isatty():
            with suppress(EOFError):
                self.console.input("[dim]Enter goes on[/dim] ")
        self.parts += 1
        self.console.print(f"\n[bold]{self.parts}. {title}[/bold]")
        self.say(text)

    def say(self, text: str) -> None:
        self.console.print(" ".join(text.split()), highlight=False, markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A table; numbers are put with four digits."""
        table = Table(*columns)
        for row in rows:
            table.add_row(*(cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row))
        self.console.print(table)

    def picture(self, name: str, draw: Callable[[Figure], None], size: tuple[float, float] = (8, 4.5)) -> None:
        """Have `draw` fill a figure of `size` inches, and save it."""
        if self.folder is None:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        path = self.folder / f"{name}.png"
        figure.savefig(path, dpi=150)
        self.console.print(f"picture: {path}", soft_wrap=True, highlight=False, markup=False)
