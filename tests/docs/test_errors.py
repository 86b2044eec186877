"""The index of errors quotes messages that the package prints, and names flags that exist."""

import ast
import json
import re
from functools import cache

import pytest
from helpers.processes import PROJECT

PAGE = re.sub(r"\n +", " ", (PROJECT / "docs" / "how-to" / "errors.md").read_text(encoding="utf-8"))
QUOTES = re.findall(r"^- `([^`]+)`", PAGE, re.MULTILINE)
VALUE = "\0"  # stands for a formatted value in a message of the source
OTHERS = {"CUDA out of memory"}  # of PyTorch
OTHER_FLAGS = {"--use_fsdp"}  # of `accelerate launch`


def message(node: ast.AST) -> str | None:
    """The text of a string in the source, with `VALUE` for what is formatted into it; None for other nodes."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(message(part) or VALUE for part in node.values)
    return None


@cache
def messages() -> list[str]:
    """All strings of the package that could be messages: those with a space."""
    found = set()
    for path in sorted((PROJECT / "scratch_gpt").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = message(node)
            if text and " " in text:
                found.add(text)
    return sorted(found)


def is_printed(quote: str) -> bool:
    """Whether the parts of a quote between its ellipses stand in this order in one message of the source."""
    parts = [re.escape(part.strip()) for part in quote.split("…")]
    pattern = re.compile(".*?".join(parts))  # a message is one line, unlike a docstring
    return any(pattern.search(text) for text in messages())


def test_a_message_that_is_not_printed_is_found():
    assert is_printed("output_dir … contains another run (…): choose another, or --resume it")
    assert not is_printed("output_dir … contains another model")
    assert not is_printed("contains another run … output_dir")


@pytest.mark.parametrize("quote", [quote for quote in QUOTES if quote not in OTHERS])
def test_quoted_messages_are_in_the_source(quote):
    assert len(re.findall(r"\w", quote)) >= 12, "too short to tell messages apart"
    assert is_printed(quote)


def test_every_item_quotes_a_message_once():
    assert len(QUOTES) == len(re.findall(r"^- ", PAGE, re.MULTILINE)) == len(set(QUOTES)) >= 70


def test_named_flags_exist():
    arguments = json.loads((PROJECT / "tests" / "defaults.json").read_text(encoding="utf-8"))
    known = json.dumps(arguments) + "".join(
        path.read_text(encoding="utf-8") for path in (PROJECT / "scratch_gpt" / "cli").glob("*.py")
    )
    flags = set(re.findall(r"(?<![\w-])--\w+", PAGE)) - OTHER_FLAGS
    assert len(flags) > 20
    assert [flag for flag in sorted(flags) if not re.search(rf"\b{flag[2:].removeprefix('no-')}\b", known)] == []
