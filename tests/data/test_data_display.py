"""Console output of `scratch-gpt data`."""

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
    samples = [line for line in text.splitlines() if line.startswith(("0. ", "1. ", "2. ", "3. ", "4. ", "5. "))]
    assert [line[0] for line in samples] == ["1", "2", "3", "4"][: len(samples)]
    assert {line[3:] for line in samples} <= {str({"text": t, "label": label}) for t, label in TEXTS}
    assert samples


def test_summary_of_table_without_header(tmp_path):
    text = printed(tmp_path, "", "", ";")
    assert "text 'column_1', label 'column_2', delimiter ';' without a header" in " ".join(text.split())
    rows = rows_of(text)
    assert rows["header"] == "no: the columns are column_1, column_2, …"
    assert rows["columns"] == "text: column_1, label: column_2"


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
