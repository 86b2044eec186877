"""Print untrusted text: control characters and markup in it have no effect on the terminal."""

from __future__ import annotations

import re
import sys
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

# Control characters except tab and line feed, surrogates, and characters that change the text direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape the control characters of a text, such as those of ANSI sequences: `\\x1b` for character 27."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def printable_at_terminal(text: str, file: IO[str] | None = None) -> str:
    """Escape the control characters of a text if `file`, standard output by default, is a terminal."""
    return printable(text) if (file or sys.stdout).isatty() else text


class SafeConsole(Console):
    """A rich console that does not interpret markup in texts and escapes their control characters. Where the output
    is no terminal, a line of text is one line, however long, so that it can be searched; tables are 80 columns wide.

    Pass styles as `style=` or `rich.text.Text`, not as markup."""

    def __init__(self, stderr: bool = False, **options: Any):
        super().__init__(stderr=stderr, **{"highlight": False, "markup": False, "emoji": False, **options})

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects, as rich does; texts are wrapped at a terminal only."""
        if not self.is_terminal and all(isinstance(each, str | Text) for each in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a text; rich calls this for every text that it prints."""
        return super().render_str(printable(text), **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Show a spinner with a status text, in which rich itself would interpret markup."""
        return super().status(Text(printable(status)) if isinstance(status, str) else status, **options)
