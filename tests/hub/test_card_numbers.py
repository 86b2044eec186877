"""Numbers on the card, and what a record may have in their place."""

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
def test_a_number_has_its_thousands_apart_and_anything_else_is_text(value, expected):
    assert _number(value) == expected
