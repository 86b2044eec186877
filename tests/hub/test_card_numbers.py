"""Formatting of numbers on the card, and of other values in their place."""

import pytest

from scratch_gpt.hub.card import _number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1234567, "1,234,567"),
        (-5, "-5"),
        (1.5, "1.5000"),
        (12345.678912, "12,345.6789"),
        ("12 |\n## x", "12 \\| \\#\\# x"),
        (None, "None"),
        ([1, "<b>"], "\\[1, '\\<b\\>'\\]"),
    ],
)
def test_numbers_have_thousands_separators_and_other_values_are_escaped(value, expected):
    assert _number(value) == expected
