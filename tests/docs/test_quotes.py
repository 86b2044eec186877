"""Code that the documentation quotes is in the files that it names.

A block whose fence has `title="PATH"` is a quotation of that file: its lines stand there one after the other, with the
same indentation relative to each other. A line `...` stands for lines that are left out. Python that is quoted is not
run, and the line before its fence says so.
"""

import re
import textwrap

import pytest
from helpers.processes import PROJECT

PAGES = sorted((PROJECT / "docs").rglob("*.md"))
BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.M | re.S)
QUOTES = [(page, path, code) for page in PAGES for path, code in BLOCK.findall(page.read_text(encoding="utf-8"))]
REASON = "<!-- not run: quoted from the file that is named, which a test compares -->"


def missing_lines(code: str, source: str) -> str | None:
    """The first part of quoted code that is not in a source, or that stands before the part quoted before it; None if
    all of it is there."""
    lines, start = source.splitlines(), 0
    for part in re.split(r"^[ \t]*\.\.\.\n", code, flags=re.M):
        quoted = textwrap.dedent(part).strip("\n").splitlines()
        for first in range(start, len(lines) - len(quoted) + 1):
            found = textwrap.dedent("\n".join(lines[first : first + len(quoted)])).splitlines()
            if found == quoted:
                start = first + len(quoted)
                break
        else:
            return part
    return None


@pytest.mark.parametrize(("page", "path", "code"), QUOTES, ids=[f"{page.stem}-{path}" for page, path, _ in QUOTES])
def test_quoted_code_is_in_its_file(page, path, code):
    assert len(code.splitlines()) <= 30, "quote the few lines that matter"
    assert missing_lines(code, (PROJECT / path).read_text(encoding="utf-8")) is None, f"not in {path}"


@pytest.mark.parametrize("page", sorted({page for page, _, _ in QUOTES}), ids=lambda page: page.stem)
def test_quotations_say_that_they_are_not_run(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    quoted = [i for i, line in enumerate(lines) if line.startswith('```python title="')]
    assert [i - 1 for i in quoted] == [i for i, line in enumerate(lines) if line == REASON]


def test_there_are_quotations():
    assert len(QUOTES) > 20


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("a = 1\nif a:\n    b = 2\n", True),
        ("if a:\n    b = 2\n", True),
        ("b = 2\n", True),  # indented in the source
        ("a = 1\n...\nb = 2\n", True),
        ("b = 2\n...\na = 1\n", False),
        ("if a:\nb = 2\n", False),
        ("a = 1\nb = 2\n", False),
        ("a = 2\n", False),
    ],
)
def test_a_quotation_is_compared_line_by_line(code, found):
    assert (missing_lines(code, "a = 1\nif a:\n    b = 2\nc = 3\n") is None) == found
