"""The page in a real Chromium: it asks for nothing, everything of a checkpoint stays text, and no input breaks it."""

import copy
import random

import pytest
from helpers.browser import opened
from helpers.pages import Shown, shown
from tokenizers import AddedToken

from scratch_gpt.hub.loading import Tokenizers

pytestmark = pytest.mark.slow
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "</title></style><img/src=x/onerror=alert(2)>",
    "<!--<script>",
    "--><svg onload=alert(1)>",
    "${alert(1)}`'\"",
    "\u2028\u2029\u0000\u202e",
    "javascript:alert(1)",
    "{{payload}}\\u003c",
]
NAME = "".join(HOSTILE) + "\ud800"
# Elements that a page may have of these kinds: what would load or run something is only what the page itself is.
RUNNING = "script, img, iframe, object, embed, video, audio, link, base, form, meta[http-equiv]"
COUNT_RUNNING = f"[...document.querySelectorAll({RUNNING!r})].map((node) => node.id || node.tagName).sort()"
KEYS = (
    "Tab",
    "Shift+Tab",
    "Enter",
    "Space",
    "Escape",
    "ArrowLeft",
    "ArrowRight",
    "ArrowUp",
    "ArrowDown",
    "Home",
    "End",
)
KEYS += (*"123456789/?dx", "Backspace", "Delete", "PageDown")


def hostile(kind: str):
    """A model whose tokens, labels and config have hostile texts."""
    model, tokenizers = shown(kind, spare=len(HOSTILE))
    tokenizer = copy.deepcopy(tokenizers.source)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in HOSTILE])
    model.config.id2label = dict(enumerate(HOSTILE[: model.config.num_labels]))
    return Shown(model, Tokenizers(tokenizer, tokenizer))


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "masked", "classifier"])
def test_texts_of_a_checkpoint_stay_text(kind, browser, write):
    found = hostile(kind)
    with opened(browser, write(shown(kind), text="One day")) as page:
        expected = page.call(COUNT_RUNNING)
    path = write(found, text="".join(HOSTILE), name=NAME, note={text: HOSTILE for text in HOSTILE})
    with opened(browser, path) as page:
        views = page.call("[...document.querySelectorAll('[role=tab]')].map((tab) => tab.id)")
        for view in views:
            page.page.click(f"#{view}")
            assert page.call(COUNT_RUNNING) == expected, view
        assert page.call("model.encode(argument)", HOSTILE[0]) == found.tokenizers.source(HOSTILE[0])["input_ids"]
        assert page.call("document.getElementById('name').textContent") == NAME
        assert HOSTILE[0] in page.page.title()
        assert page.requests == []
        assert page.problems == []


def test_an_address_stays_text(browser, write):
    text = HOSTILE[0].replace(" ", "%20")
    with opened(browser, write(shown("causal")), hash=f"#view={text}&text={text}&written=1.-1.x.99999999.5") as page:
        assert page.call("document.getElementById('text').value") == HOSTILE[0]
        assert page.call("document.querySelectorAll('[role=tab][aria-selected=true]').length") == 1
        assert page.requests == []
        assert page.problems == []


def test_the_policy_of_the_page_stops_what_a_mistake_would_let_through(browser, write):
    """Markup can't be made from text; a script, a style or an image that is added nevertheless has no effect."""
    with opened(browser, write(shown("bigram"))) as page:
        assert "TrustedHTML" in page.call(
            "(() => { try { document.body.innerHTML = '<b>x</b>'; } catch (error) { return error.message; } })()"
        )
        page.call(
            """(() => {
                for (const [tag, attributes] of argument) {
                    const node = document.createElement(tag);
                    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
                    document.body.append(node);
                }
            })()""",
            [
                ["img", {"src": "https://example.org/x.png"}],
                ["link", {"rel": "stylesheet", "href": "https://example.org/x.css"}],
                ["iframe", {"src": "https://example.org/"}],
                ["form", {"action": "https://example.org/"}],
            ],
        )
        assert page.call("fetch('https://example.org/').then(() => 'sent', () => 'refused')") == "refused"
        page.page.wait_for_timeout(100)
        assert all("Content Security Policy" in problem or "TrustedHTML" in problem for problem in page.problems)
        assert len(page.problems) >= 4


# Scrolls to a random control, and returns a random point of it.
CHOOSE = """(() => {
    const selector = "button, input, select, textarea, a[href], [tabindex]";
    const controls = [...document.querySelectorAll(selector)].filter((node) => node.checkVisibility());
    const control = controls[Math.floor(argument[0] * controls.length)];
    control.scrollIntoView({ block: "nearest" });
    const box = control.getBoundingClientRect();
    return [box.x + argument[1] * box.width, box.y + argument[2] * box.height];
})()"""


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "masked", "classifier", "encoder"])
def test_200_random_clicks_and_keys_do_no_harm(kind, browser, write):
    chance, views = random.Random(0), set()
    with opened(browser, write(shown(kind)), viewport={"width": 900, "height": 700}) as page:
        for _ in range(200):
            views.add(page.call("document.querySelector('[role=tabpanel]:not([hidden])').id"))
            if chance.random() < 0.5:
                page.page.keyboard.press(chance.choice(KEYS))
                continue
            page.page.mouse.click(*page.call(CHOOSE, [chance.random() for _ in range(3)]))
        page.page.wait_for_timeout(100)
        assert page.problems == []
        assert page.requests == []
        assert len(views) >= page.page.get_by_role("tab").count() / 2
        assert page.call("model.encode(argument)", "One day") == shown(kind).tokenizers.source("One day")["input_ids"]
        assert page.call("document.querySelector('[role=tabpanel]:not([hidden])').textContent.length > 50")
