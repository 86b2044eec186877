"""Untrusted text has no effect on a terminal: control characters are escaped, markup is not interpreted."""

import io
import json
from pathlib import Path

import pytest
from helpers.hub import run_in_terminal
from helpers.models import tiny_model
from helpers.processes import run_here
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from tokenizers import Regex, pre_tokenizers

from scratch_gpt import train_tokenizer
from scratch_gpt.terminal import SafeConsole, printable

CLEAR = "\x1b[2J\x1b[1;1H"  # clears a screen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, ünïcode, 漢字 and 👩‍👩‍👧\n\tstay", "plain, ünïcode, 漢字 and 👩‍👩‍👧\n\tstay"),
        (CLEAR, "\\x1b[2J\\x1b[1;1H"),
        ("\r\x00\x07\x08\x7f\x9b", "\\r\\x00\\x07\\x08\\x7f\\x9b"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_become_escapes(text, expected):
    assert printable(text) == expected


def test_a_console_interprets_no_markup_and_prints_no_control_character():
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, width=200)
    table = Table(f"[red]name{CLEAR}", title="[/x]/y")
    table.add_row(f"[conceal]hidden[/conceal]{CLEAR}")
    table.caption = f"[b]{CLEAR}"
    console.print(table)
    console.print(f"[/x] {CLEAR} :smile:", style="bold")
    with console.status(f"[/z] {CLEAR}"):
        pass
    console.print(Text("styled", style="red"), f"{CLEAR}")
    printed = out.getvalue()
    assert CLEAR not in printed
    assert "\x1b[2J" not in printed
    for kept in ("[red]name", "[/x]/y", "[conceal]hidden[/conceal]", "[b]", "[/x] \\x1b[2J", ":smile:", "[/z]"):
        assert kept in printed


def test_only_a_terminal_wraps_text_and_tables_have_a_width_everywhere():
    """Regression: lines of a log were wrapped at 80 columns, so that grep did not find what stood at their ends."""
    line, table = "step 1  " + "validation 1.2345  " * 9 + "general 6.9429", Table("a", "b")
    table.add_row("x " * 60, "y " * 60)
    printed = {}
    for is_terminal in (False, True):
        console = SafeConsole(file=io.StringIO(), force_terminal=is_terminal, width=80, no_color=True)
        console.print(line)
        console.print(Text(line), line)
        with Progress(console=console, disable=not is_terminal) as progress:
            progress.print(line, style="italic")
        console.print(table)
        printed[is_terminal] = console.file.getvalue().splitlines()
    assert printed[False][:3] == [line, f"{line} {line}", line]
    assert line not in printed[True]
    assert max(map(len, printed[False][3:])) == 80


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A model directory whose vocabulary has control characters, and which generates nothing else."""
    folder = tmp_path_factory.mktemp("terminal") / "model"
    tokenizer = train_tokenizer(["\x1b[2J\x9b"], "char", model_max_length=64)
    tokenizer.save_pretrained(folder)
    model = tiny_model("llama", vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [
        number for token, number in tokenizer.get_vocab().items() if token not in ("\x1b", "\x9b")
    ]
    model.save_pretrained(folder)
    return folder


COMMANDS = {
    "generate": (
        "generate",
        "{0}",
        "--prompt",
        "[2J",
        "--max_new_tokens",
        "5",
        "--temperature",
        "0",
        "--device",
        "cpu",
    ),
    "tokenizer decode": ("tokenizer", "decode", "{0}", "{1}"),
    "tokenizer encode": ("tokenizer", "encode", "{0}", "\x1b[2J"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_vocabulary_with_control_characters_has_no_effect_at_a_terminal(command, directory, tmp_path):
    content = json.loads((directory / "tokenizer.json").read_text())
    escape = str(content["model"]["vocab"]["\x1b"])
    code, printed = run_in_terminal(*(part.format(directory, escape) for part in COMMANDS[command]), cwd=tmp_path)
    assert code == 0, printed
    assert "\\x1b" in printed or "\\x9b" in printed
    assert "\x1b[2J" not in printed
    assert "\x9b" not in printed
    if command != "tokenizer encode":  # it colours the tokens
        assert "\x1b" not in printed


def test_characters_are_not_escaped_in_a_pipe(directory):
    content = json.loads((directory / "tokenizer.json").read_text())
    escape = str(content["model"]["vocab"]["\x1b"])
    assert run_here("scratch-gpt", "tokenizer", "decode", str(directory), escape).stdout == "\x1b\n"


def test_an_error_escapes_the_control_characters_of_a_file_name(tmp_path):
    result = run_here("scratch-gpt", "info", str(tmp_path / f"{CLEAR}none"), check=False)
    assert result.returncode == 2
    assert "\x1b" not in result.stderr
    assert "\\x1b[2J" in result.stderr


def test_a_pattern_with_catastrophic_backtracking_is_an_error_of_one_line(tmp_path):
    """Regression: the engine's limit is a panic, not an `Exception`, and was printed as an unredacted traceback."""
    tokenizer = train_tokenizer(["a b c"], "char", model_max_length=64)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+b"), "isolated")
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_model("llama").save_pretrained(tmp_path / "model")
    result = run_here("scratch-gpt", "generate", str(tmp_path / "model"), "--prompt", "a" * 60 + "c", check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: the tokenizer fails on this text: ")
    assert len(result.stderr.splitlines()) == 1
