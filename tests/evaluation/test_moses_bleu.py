"""BLEU of Moses tokens by hand."""

import pytest

from scratch_gpt.evaluation.translation import moses_bleu


def test_bleu_of_moses_tokens_is_the_formula():
    """Seven tokens, "the dog 's ball is red .", of which one is another: 6 of 7, 4 of 6, 3 of 5 and 2 of 4 n-grams."""
    expected = 100 * (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25
    assert moses_bleu(["The dog's ball is red."], ["the DOG's ball is blue."], "en") == pytest.approx(expected)
