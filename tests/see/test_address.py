"""The state in the address of a page: a link restores the state that it was made from, and untrusted links are safe."""

from urllib.parse import quote

import pytest
from helpers.browser import opened
from helpers.page_engine import needs_node
from helpers.page_views import view_caller
from helpers.pages import shown

LIMITS = {
    **{"vocabulary": 500, "positions": 128, "layers": 3, "heads": 4},
    **{"models": 2, "frames": 7, "labels": 3},
}
# What is linked beside the text, none of it the default.
LINKED = {
    **{
        "view": "what-if",
        "chat": True,
        "written": [5, 499],
        "temperature": 0.65,
        "topK": 40,
        "topP": 0.85,
        "seed": 999_999,
    },
    **{"position": 3, "key": 0, "layer": 2, "head": 3, "attention": "cross", "lensRow": 3, "label": 2, "beams": 4},
    **{"frame": 0, "model": 1},
}
EDITS = {
    **{"heads": ["0.1", "2.3"], "crossHeads": ["1.0"], "attentions": [0], "crossAttentions": [1], "mlps": [0, 2]},
    **{"blocks": [1], "hiddenTokens": [0, 127], "hiddenSource": [4]},
}
HOSTILE = {
    "layer": ["99", "-1", "NaN", "1e1", "0x1", " 1", "1.5", "", "3", "01", "9" * 400, "\u0661", "<b>"],
    "head": ["4", "-1", "Infinity"],
    "position": ["128", "null", "[]"],
    "key": ["128"],
    "lensRow": ["4"],
    "label": ["3"],
    "frame": ["7"],
    "model": ["2", "-0"],
    "beams": ["0", "17"],
    "topK": ["101", "-5"],
    "topP": ["0", "1.01", "0.04", "NaN"],
    "temperature": ["2.01", "-1", "1e400", "0,5"],
    "seed": ["1000000", "-1"],
    "attention": ["none", "__proto__"],
    "heads": ["3.0", "0.4", "0", "0.1.2", "a.b"],
    "blocks": ["3", "-1", "x"],
    "hiddenTokens": ["128"],
    "written": ["500", "-1.x"],
    "__proto__": ["1"],
}


@pytest.fixture(scope="module")
def call_views():
    with view_caller() as call:
        yield call


def state_of(call_views, **changes):
    (state,) = call_views(("state", "initialState"))
    return {**state, **changes}


@needs_node
def test_a_link_brings_back_what_it_was_made_from(call_views):
    edits = {name: {"set": parts} for name, parts in EDITS.items()}
    for text in ("", "One day & 100% #1 + ü\n\t<b>=?", "\U0001f600" * 1000):
        state = state_of(call_views, text=text, edits=edits, **LINKED)
        (hash_,) = call_views(("address", "toHash", state))
        (found,) = call_views(("address", "fromHash", hash_, LIMITS))
        assert found == {"text": text, "edits": edits, **LINKED}
        (without,) = call_views(("address", "toHash", state_of(call_views, text=text, view="lens")))
        assert without.count("&") == 1  # the defaults are not in it
        (found,) = call_views(("address", "fromHash", without, LIMITS))
        assert state_of(call_views, view="lens", text=text) == {**state_of(call_views), **found}
    assert call_views(("address", "fromHash", "#view=lens", LIMITS)) == [{"view": "lens"}]


@needs_node
def test_what_a_page_does_not_have_is_ignored(call_views):
    (default,) = call_views(("address", "fromHash", "#text=a", LIMITS))
    for name, values in HOSTILE.items():
        for value in values:
            hashes = [f"#text=a&{name}={quote(value)}", f"#{name}={quote(value)}"]
            found = call_views(*(("address", "fromHash", each, LIMITS) for each in hashes))
            assert found == [default, {}], (name, value)
    long = f"#view=lens&text={'a' * 100_001}"
    assert call_views(("address", "fromHash", long, LIMITS)) == [{"view": "lens"}]
    (hash_,) = call_views(("address", "toHash", state_of(call_views, text="a" * 100_001, view="lens")))
    assert hash_ == "#view=lens"
    assert call_views(("address", "fromHash", "#text=a%&layer=%zz&head=%E0%A4%A", LIMITS))[0] == {
        **default,
        "text": "a%",
    }


@needs_node
def test_positions_beyond_the_text_are_left_out(call_views):
    edits = {**state_of(call_views)["edits"], "hiddenTokens": {"set": [0, 5, 6]}, "hiddenSource": {"set": [1, 2]}}
    state = state_of(call_views, position=6, key=5, edits=edits)
    (found,) = call_views(("address", "withinText", state, 6, 2))
    kept = {**edits, "hiddenTokens": {"set": [0, 5]}, "hiddenSource": {"set": [1]}}
    assert found == {"position": None, "key": 5, "edits": kept}


PROBABILITIES = (
    "[...document.querySelectorAll('[role=tabpanel]:not([hidden]) td.right')].map((cell) => cell.textContent)"
)


@pytest.mark.slow
def test_an_opened_link_shows_what_it_was_made_from(browser, write):
    """Also in a page that is open; and each view is shown for an address of nonsense."""
    path = write(shown("causal"))
    hash_ = "#view=what-if&text=One+day%2C+Anna+found&blocks=1&heads=0.1&position=2"
    with opened(browser, path, hash=hash_) as page:
        changed = page.call(PROBABILITIES)
        page.page.evaluate("location.hash = '#view=what-if&text=One+day%2C+Anna+found&position=2'")
        page.page.wait_for_timeout(600)
        assert page.call(PROBABILITIES) != changed
        page.page.evaluate("(hash) => { location.hash = hash }", hash_)
        page.page.wait_for_timeout(600)
        assert page.call(PROBABILITIES) == changed
        page.page.wait_for_timeout(400)
        assert "blocks=1" in page.call("location.hash")
        views = page.call("[...document.querySelectorAll('#tabs [role=tab]')].map((tab) => tab.id.slice(4))")
        rest = "&position=120&key=127&layer=99&head=-1&hiddenTokens=100_3&heads=1.9&temperature=NaN&text=a%E0%A4"
        for view in views:
            page.page.evaluate("(hash) => { location.hash = hash }", f"#view={view}{rest}")
            page.page.wait_for_timeout(600)
            shown_panel = page.call("document.querySelector('[role=tabpanel]:not([hidden])').id")
            assert shown_panel == f"panel-{view}"
        assert page.problems == []
