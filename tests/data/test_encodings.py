"""Text files are opened with an explicit encoding, independent of the platform's default."""

import ast

import pytest
from helpers.processes import PROJECT


def calls_without_encoding(tree):
    """Iterate over calls that open a text file with the platform's default encoding."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function, keywords = call.func, {keyword.arg: keyword.value for keyword in call.keywords}
        owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
        name = function.attr if owner else getattr(function, "id", "")
        if "encoding" in keywords or None in keywords:
            continue
        if name in ("read_text", "write_text"):
            if len(call.args) < (1 if name == "read_text" else 2):
                yield call
        elif name == "open" and owner not in ("os", "tarfile", "webbrowser", "zipfile"):
            packed = owner in ("bz2", "gzip", "lzma")  # the default mode is binary, and the first argument is a path
            place = 1 if packed or owner in ("", "io") else 0
            mode = keywords.get("mode", call.args[place] if len(call.args) > place else None)
            written = ast.unparse(mode) if mode else "b" if packed else "r"
            if "b" not in written:
                yield call


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open(path)", 1),
        ("path.open('a')", 1),
        ("path.read_text()", 1),
        ("path.write_text(text)", 1),
        ("gzip.open(path, 'rt')", 1),
        ("open(path, mode='w')", 1),
        ("open(path, 'rb')", 0),
        ("path.open('rb')", 0),
        ("path.open(encoding='utf-8')", 0),
        ("path.write_text(text, 'utf-8')", 0),
        ("gzip.open(path)", 0),
    ],
)
def test_calls_without_encoding_are_detected(code, found):
    assert len(list(calls_without_encoding(ast.parse(code)))) == found


def test_all_text_files_are_opened_with_an_encoding():
    """Other platforms than Linux may have another default."""
    found = []
    for path in sorted((PROJECT / "scratch_gpt").rglob("*.py")):
        calls = calls_without_encoding(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{path.relative_to(PROJECT)}:{call.lineno}: {ast.unparse(call)}" for call in calls]
    assert not found, "\n".join(found)
