"""The pages of the documentation, in the order in which a reader meets them, and their fenced code blocks."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from helpers.processes import PROJECT

RUN = ("bash", "python", "console")  # languages of blocks that are run or marked
MISSPELT = ("sh", "shell", "zsh", "py", "python3", "pycon", "Bash", "Python")  # would escape the tests
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>\S.*\S) -->")
MARKER = re.compile(r"<!-- (run|test)-command -->")
CONTAINER = re.compile(r"^( *)(!!!|\?\?\?\+?|===\+?) ")  # an admonition, or a tab, whose content is indented


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: path of the page, relative to the repository.
        line: number of its first line, from 1.
        language: such as "bash", or "" without one.
        code: its content.
        before: the line before its fence.
    """

    page: str
    line: int
    language: str
    code: str
    before: str

    @property
    def reason(self) -> str | None:
        """Why it is not run, or None."""
        found = NOT_RUN.fullmatch(self.before.strip())
        return found["reason"] if found else None


def unfold(text: str) -> str:
    """Return the text with the content of admonitions and tabs no longer indented, and as many lines."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        found = CONTAINER.match(line)
        if not found:
            continue
        indent = len(found[1]) + 4
        lines[i] = ""
        for j in range(i + 1, len(lines)):
            if lines[j].strip() and len(lines[j]) - len(lines[j].lstrip(" ")) < indent:
                break
            lines[j] = lines[j][: len(found[1])] + lines[j][indent:]
    return "\n".join(lines) + "\n"


def blocks_of(text: str, page: str = "page.md") -> list[Block]:
    """The fenced blocks of a page, also those in lists, admonitions and tabs."""
    text = unfold(text)
    lines = text.splitlines()
    blocks = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "fence":
            start = token.map[0]
            language = token.info.split()[0] if token.info.strip() else ""
            blocks.append(Block(page, start + 1, language, token.content, lines[start - 1] if start else ""))
    return blocks


class _Loader(yaml.SafeLoader):
    """YAML with the tags of mkdocs, such as `!!python/name:`, which name functions of no interest here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


@cache
def navigation() -> tuple[str, ...]:
    """Entries of the navigation, in order; one that ends with `/*` stands for other pages of the folder."""
    config = PROJECT / "mkdocs.yml"
    entries: list[str] = []

    def add(node: object) -> None:
        if isinstance(node, str):
            entries.append(node)
        else:
            for child in node.values() if isinstance(node, dict) else node:
                add(child)

    if config.exists():
        add(yaml.load(config.read_text(encoding="utf-8"), _Loader)["nav"])
    return tuple(entries)


def _position(page: Path) -> tuple[int, str]:
    """Sort key of a page of docs/: its place in the navigation, then its path."""
    path, entries = page.relative_to(PROJECT / "docs").as_posix(), navigation()
    for entry in (path, f"{path.rpartition('/')[0]}/*"):
        if entry in entries:
            return entries.index(entry), path
    return len(entries), path


@cache
def page_paths() -> tuple[str, ...]:
    """README.md, CONTRIBUTING.md, and the pages of docs/ in the order of the navigation."""
    pages = sorted((PROJECT / "docs").rglob("*.md"), key=_position)
    return ("README.md", "CONTRIBUTING.md", *(page.relative_to(PROJECT).as_posix() for page in pages))


@cache
def text_of(page: str) -> str:
    """The text of a page, by its path relative to the repository."""
    return (PROJECT / page).read_text(encoding="utf-8")


@cache
def page_blocks(page: str) -> tuple[Block, ...]:
    """The fenced blocks of a page, by its path relative to the repository."""
    return tuple(blocks_of(text_of(page), page))


def commands_of(block: Block) -> list[str]:
    """The commands of a block of bash or of a console: lines joined after a backslash, here-documents whole, without
    comments, and the parts between `&&` apart."""
    lines = block.code.splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    commands, waiting = [], ""
    lines.reverse()
    while lines:
        line = waiting + (lines.pop().strip() if waiting else lines.pop())
        waiting = ""
        if line.endswith("\\"):
            waiting = line[:-1].rstrip() + " "
            continue
        line = re.sub(r"(^|\s+)#( .*|$)", "", line).strip()
        if here := re.search(r"<<-?\s*['\"]?(\w+)['\"]?", line):
            body = []
            while lines and (not body or body[-1].strip() != here[1]):
                body.append(lines.pop())
            commands.append("\n".join([line, *body]))
        elif line:
            commands += [part.strip() for part in re.split(r" && ", line)]
    return commands
