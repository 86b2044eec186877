"""The tables of explanation/at-scale.md are what its commands print; its other sizes are those of the formulas."""

import re
import shlex

import pytest
import torch
from helpers.documentation import commands_of, page_blocks, text_of
from helpers.processes import run_here

from scratch_gpt.train.cost_estimate.this_machine import optimizer_bytes
from scratch_gpt.train.engine.parsing import parse_arguments
from scratch_gpt.train.tasks.language_modeling.arguments import ARGUMENTS
from scratch_gpt.train.tasks.language_modeling.build import build_config, build_model

PAGE = "docs/explanation/at-scale.md"
BLOCKS = [commands_of(block) for block in page_blocks(PAGE)]


def tables() -> list[list[list[str]]]:
    """The tables whose rows are those of a command, without headings, as lists of cells."""
    found = re.findall(r"^\| row of the command.*\n\|[-|]+\n((?:\|.*\n)+)", text_of(PAGE), re.M)
    return [[[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()] for table in found]


def rows_of(command: str) -> dict[str, str]:
    """What `scratch-gpt plan` prints: values by the names of the rows, without how much of a part is meant."""
    printed = run_here(*shlex.split(command)).stdout
    rows = re.findall(r"^│ (.+?) +│ (.+?) +│$", printed, re.M)
    return {name.split(",")[0]: value for name, value in rows}


def compare(number: int, column: int) -> None:
    """Compare a column of a table, from 1, with its command; a dash stands for a row that is not printed."""
    printed = rows_of(BLOCKS[number][column - 1])
    expected = {cells[0]: cells[column] for cells in tables()[number]}
    assert len(expected) > 8
    found = {name: re.split(r"[;:(]| at |, ", printed.get(name, "-"))[0].strip() for name in expected}
    assert found == expected


COLUMNS = [pytest.param(i, marks=pytest.mark.slow if i in (1, 4) else pytest.mark.release) for i in range(1, 5)]


@pytest.mark.parametrize("column", COLUMNS)
def test_table_of_a_billion_parameters(column):
    compare(0, column)


@pytest.mark.release
@pytest.mark.parametrize("column", [1, 2, 3])
def test_table_of_larger_models(column):
    compare(1, column)


def test_checkpoints_have_the_sizes_that_the_page_says():
    words = shlex.split(BLOCKS[0][0])[2:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    names = ("--hidden_size", "--num_hidden_layers", "--num_attention_heads")
    _, model_args, _ = parse_arguments(ARGUMENTS, "", [part for name in names for part in (name, options[name])])
    with torch.device("meta"):
        model = build_model(build_config(model_args, int(options["--vocab_size"]), 2048, {}))
    weights = 4 * model.num_parameters()
    muon, adamw = (weights + optimizer_bytes(model, name) for name in ("muon", "adamw"))
    text = " ".join(text_of(PAGE).split())
    assert f"bytes with Muon, {muon / 1e9:.2f} GB here" in text
    assert f"parameters 12 P, {adamw / 1e9:.2f} GB" in text
    assert f"a moving average adds 4 P, {weights / 1e9:.2f} GB" in text
