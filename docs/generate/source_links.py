"""Links to source code: `[text](source:path.py#Class.method)` leads to a page of that file, at the line of the symbol.

Only files that a page links to have a page of their source. Symbols are found by parsing the file: functions, classes,
their members, and names that are assigned at the top of a module or class.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
IN_MARKDOWN = re.compile(r"\]\(source:([^)\s]+)\)")
IN_HTML = re.compile(r'href="source:([^"]+)"')
IN_JAVASCRIPT = re.compile(r"(?:export )?(?:async )?(?:function\*?|class|const|let) (\w+)")
LANGUAGES = {
    ".py": "python", ".js": "javascript", ".mjs": "javascript", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml",
    ".css": "css", ".html": "html", ".md": "markdown", ".json": "json", "": "bash",
}  # fmt: skip
# Longer than any fence in a source file, so that a fence in a docstring does not end the block.
FENCE = "~" * 12


class UnknownSourceError(Exception):
    """A link names a file or symbol that does not exist."""


def page_of(path: str) -> str:
    """The URI of the page of a source file."""
    return f"source/{path}.md"


def line_of(target: str) -> tuple[str, int | None]:
    """The file and line that a link leads to.

    Args:
        target: what follows `source:`, a path relative to the repository's root, and possibly `#` and a symbol.

    Returns:
        The path, and the number of the first line of the symbol, or None for the whole file.

    Raises:
        UnknownSourceError: there is no such file or symbol.
    """
    path, _, symbol = target.partition("#")
    if not (ROOT / path).is_file():
        raise UnknownSourceError(f"source:{target}: there is no file {path}")
    if not symbol:
        return path, None
    lines = _symbols(path)
    if symbol not in lines:
        raise UnknownSourceError(f"source:{target}: {path} does not define {symbol}")
    return path, lines[symbol]


def source_page(path: str) -> str:
    """The Markdown of the page of a source file."""
    text = (ROOT / path).read_text("utf-8").rstrip()
    language = LANGUAGES.get(Path(path).suffix, "text")
    head = f"---\ntitle: {path}\nhide: [navigation, toc]\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n"
    return f'{head}{FENCE}{{ .{language} linenums="1" }}\n{text}\n{FENCE}\n'


def anchor(line: int | None) -> str:
    """The fragment of an address that leads to a line of a source page."""
    return "" if line is None else f"#__codelineno-0-{line}"


@cache
def _symbols(path: str) -> dict[str, int]:
    """The first line of every symbol of a file in Python, decorators included, or JavaScript."""
    text = (ROOT / path).read_text("utf-8")
    found: dict[str, int] = {}
    if path.endswith(".py"):
        _collect(ast.parse(text).body, "", found)
    elif path.endswith(".js"):
        for number, line in enumerate(text.splitlines(), 1):
            if (match := IN_JAVASCRIPT.match(line)) is not None:
                found.setdefault(match[1], number)
    return found


def _collect(body: list[ast.stmt], prefix: str, found: dict[str, int]) -> None:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = prefix + node.name
            found.setdefault(name, min([node.lineno, *(each.lineno for each in node.decorator_list)]))
            _collect(node.body, f"{name}.", found)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                for each in ast.walk(target):
                    if isinstance(each, ast.Name):
                        found.setdefault(prefix + each.id, node.lineno)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.setdefault(prefix + node.target.id, node.lineno)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            _collect([*node.body, *getattr(node, "orelse", [])], prefix, found)
