"""Excerpts of the source: each is where it says, and names that are gone are errors."""

import ast

import pytest

from scratch_gpt.see.sources import PACKAGE, PLACES, Place, excerpt, excerpts


@pytest.mark.parametrize("concept", PLACES)
def test_an_excerpt_is_the_code_at_its_lines(concept):
    found = excerpt(PLACES[concept])
    lines = (PACKAGE / found["file"]).read_text(encoding="utf-8").splitlines()
    code = found["code"].splitlines()
    assert 2 <= len(code) <= 70
    there = lines[found["first_line"] - 1 : found["first_line"] - 1 + len(code)]
    assert [line.strip() for line in there] == [line.strip() for line in code]
    ast.parse(found["code"])
    assert found["paper"] is None or found["paper"]["url"].startswith("https://arxiv.org/abs/")


def test_excerpts_are_of_all_concepts():
    assert list(excerpts()) == list(PLACES)
    assert "scores.softmax(dim=-1" in excerpts()["attention"]["code"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place("attention.py", "lazy_attention"), "attention.py has no lazy_attention"),
        (Place("block.py", "TransformerBlock.backward"), "block.py has no TransformerBlock.backward"),
        (Place("block.py", "TransformerBlock.forward", first="nonsense ="), "has 0 statements 'nonsense ='"),
        (Place("block.py", "TransformerBlock.forward", first="hidden_states = "), "has 2 statements"),
    ],
)
def test_a_name_that_is_gone_is_an_error(place, message):
    with pytest.raises(LookupError, match=message):
        excerpt(place)
