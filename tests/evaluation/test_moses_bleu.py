"""BLEU of Moses tokens by hand, and the error without sacremoses."""

import sys

import pytest

from scratch_gpt.errors import ScratchError
from scratch_gpt.evaluation.translation import moses_bleu


def test_bleu_of_moses_tokens_is_the_formula():
    """Seven tokens, "the dog 's ball is red .", of which one differs: 6 of 7, 4 of 6, 3 of 5 and 2 of 4 n-grams."""
    expected = 100 * (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25
    assert moses_bleu(["The dog's ball is red."], ["the DOG's ball is blue."], "en") == pytest.approx(expected)


def test_a_missing_package_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)  # makes the import fail
    with pytest.raises(ScratchError, match=r"^sacremoses is not installed: pip install sacremoses$"):
        moses_bleu(["a"], ["a"], "en")
