"""Options of commands and arguments of training runs, as a definition list that can be read on a narrow screen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        flags: how it is written, such as ("--seed",) or ("--page", "--no-page").
        kind: its type or its values in words.
        help: what it does, in Markdown.
        default: its default, or "" if `help` says it or there is none.
        notes: what else is to be known of it, in words.
    """

    flags: tuple[str, ...]
    kind: str
    help: str
    default: str = ""
    notes: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """The fragment that links to the option, its name without dashes."""
        return self.flags[0].lstrip("-")


def definition_list(options: Iterable[Option], prefix: str = "") -> str:
    """The Markdown of a list of options, each with an anchor of its name.

    Args:
        options: the options, in order.
        prefix: what the anchors start with, for pages with several lists.
    """
    lines = ['<dl class="options" markdown>', ""]
    for option in options:
        flags = " ".join(f"<code>{escape(flag)}</code>" for flag in option.flags)
        facts = [fact for fact in (escape(option.kind), _default(option.default), *map(escape, option.notes)) if fact]
        head = f' <span class="facts">{" · ".join(facts)}</span>' if facts else ""
        name = escape(prefix + option.anchor)
        lines.append(f'<dt id="{name}"><a href="#{name}">{flags}</a>{head}</dt>')
        lines += ["<dd markdown>", "", _in_html(option.help), "", "</dd>"]
    return "\n".join([*lines, "</dl>", ""])


def _default(default: str) -> str:
    return f"default <code>{escape(default)}</code>" if default else ""


def _in_html(text: str) -> str:
    """A help text as Markdown in an element of HTML; only its code spans are markup.

    A help text can have several lines: a sentence, and then values with their descriptions, one per line.
    """
    parts = text.split("`")  # every second one is code
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    first, *rest = "`".join(parts).splitlines() or [""]
    items = [f"- {line.strip().removeprefix('- ')}" for line in rest if line.strip()]
    return "\n".join([first, "", *items]) if items else first
