"""Console output of `scratch-gpt data`."""

import json
import re

import pytest
from helpers.data import data_summary
from helpers.processes import run_here

TEXTS = [("a fine film, really", "good"), ("a dull film", "bad"), ("so dull", "bad"), ("lovely", "good")]
OPTIONS = ("--for", "classification", "--validation_fraction", "0.5")


def printed(tmp_path, header: str, quote: str, delimiter: str) -> str:
    lines = [header, *(f"{quote}{text}{quote}{delimiter}{label}" for text, label in TEXTS)]
    (tmp_path / "small.csv").write_text("\n".join(line for line in lines if line) + "\n")
    return run_here("scratch-gpt", "data", "small.csv", *OPTIONS, cwd=tmp_path).stdout


def rows_of(text: str) -> dict[str, str]:
    cells = [line.strip("│").split("│") for line in text.splitlines() if line.count("│") == 3]
    return {name.strip(): value.strip() for name, value in cells}


def test_summary_of_table_with_header(tmp_path):
    text = printed(tmp_path, "text,label", '"', ",")
    assert "columns text 'text', label 'label', delimiter ',' with a header" in " ".join(text.split())
    rows = rows_of(text)
    expected = {"files": "small.csv", "split": "unnamed", "columns": "text: text, label: label"}
    expected |= {"delimiter": "','", "header": "yes", "quoting": "csv", "rows read": "4", "duplicates": "0"}
    expected |= {"train rows": "2", "validation rows": "2", "good": "2, 1 of them for validation"}
    assert {name: rows[name] for name in expected} == expected
    samples = re.findall(r"^(\d)\. text: (.*)\n   label: (.*)$", text, re.M)
    assert [number for number, _, _ in samples] == ["1", "2", "3", "4"]
    assert sorted(sample[1:] for sample in samples) == sorted(TEXTS)


def test_summary_of_table_without_header(tmp_path):
    text = printed(tmp_path, "", "", ";")
    assert "text 'column_1', label 'column_2', delimiter ';' without a header" in " ".join(text.split())
    rows = rows_of(text)
    assert rows["header"] == "no: the columns are column_1, column_2, …"
    assert rows["columns"] == "text: column_1, label: column_2"


def test_conversations_are_shown_as_role_and_content(tmp_path):
    """Regression: they were printed as Python dictionaries, wrapped inside words."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    first = [{"role": "user", "content": "How much?\nAnd why? " + "long " * 30}, call]
    first += [{"role": "tool", "content": "3"}, {"role": "assistant", "content": "Three."}]
    rows = [first, [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hallo!"}]] * 2
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    said = run_here("scratch-gpt", "data", "c.jsonl", "--for", "sft", cwd=tmp_path).stdout
    assert f'. user: How much?\n     And why? {"long " * 30}\n   assistant: \n     tool_calls: [{{"' in said
    assert "   tool: 3\n   assistant: Three.\n" in said
    assert "user: Hello\n   assistant: Hallo!\n" in said
    assert "2 duplicates, kept (equal rows are in one split)\n" in said


def test_preferences_are_shown_by_column(tmp_path):
    run_here("scratch-gpt", "data", "--example", "preferences", cwd=tmp_path)
    said = run_here("scratch-gpt", "data", "preferences.jsonl", "--for", "dpo", cwd=tmp_path).stdout
    assert "1. prompt: The capital of France is\n   chosen:  Paris.\n   rejected:  a city.\n" in said


def test_help_lists_the_tasks_of_each_option():
    said = " ".join(run_here("scratch-gpt", "data", "--help").stdout.replace("│", " ").split())
    assert "(classification) Column with the label" in said
    assert "(language_modeling, masked_lm, distillation) Stream the Hub dataset" in said
    assert re.search(r"--delimiter <str> Delimiter of CSV", said)  # for all tasks


@pytest.mark.parametrize("family", ["language_modeling", "masked_lm"])
def test_lengths_of_plain_text_are_counted_in_tokens(family, tmp_path):
    """Regression: `--tokenizer` failed for plain text."""
    (tmp_path / "t.jsonl").write_text("".join(f'{{"text": "number {i} of many"}}\n' for i in range(20)))
    found = data_summary(tmp_path / "t.jsonl", "--for", family, "--tokenizer", "char", "--context_length", "4")
    assert found["lengths"]["longer_than_context"] == 20
