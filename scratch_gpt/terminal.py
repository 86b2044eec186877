"""Print what may come from elsewhere: no control character and no markup in it has an effect on the terminal."""

from __future__ import annotations

import re
import sys
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

# Control characters but for tab and line feed, surrogates, and those that turn the direction of a text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text with control characters, such as those of ANSI sequences, as escapes: `\\x1b` for the character 27."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def printable_at_terminal(text: str, file: IO[str] | None = None) -> str:
    """A text as it may be written to `file`, standard output by default: as it is, but `printable` at a terminal."""
    return printable(text) if (file or sys.stdout).isatty() else text


class SafeConsole(Console):
    """A rich console that reads no markup in texts and prints their control characters as escapes.

    Style comes with `style=` or as `rich.text.Text`, never inside of a text."""

    def __init__(self, stderr: bool = False, **options: Any):
        super().__init__(stderr=stderr, **{"highlight": False, "markup": False, "emoji": False, **options})

    # Every text to print passes here.
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A line with a spinner; rich itself would read markup in it."""
        return super().status(Text(printable(status)) if isinstance(status, str) else status, **options)
