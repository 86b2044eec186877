"""Any number, explained, in a real Chromium: each number of each view is a button whose formula ends in that number."""

import re

import pytest
from helpers.browser import opened
from helpers.models import randomise, tiny_model
from helpers.pages import Shown, shown, tokenizer_of

from scratch_gpt.see.film import read_film
from scratch_gpt.see.page import page_html, write_page
from scratch_gpt.see.payload import payload_of
from scratch_gpt.train.engine.film import as_frame, write_frame

pytestmark = pytest.mark.slow
TEXTS = {"masked": "One day, Anna <mask> an old lamp."}
TEXT = "One day, Anna found an old lamp."
STEPS = (0, 3)
PROBLEMS = {"multi_label": "multi_label_classification", "regression": "regression"}
# Numbers that are not computed from the weights: settings, limits, and what a control that selects shows of a number
# that its details explain.
LABELS = (
    *(
        ".sampling",
        "output",
        "select",
        "#text-note",
        "#facts",
        ".flow-box",
        ".legend",
        "#attention-arcs ~ .note, #attention-links ~ .note",
    ),
    *(
        "button.token",
        ".lens-cell",
        ".part",
        ".written-text",
        ".translations dd",
        ".code",
        ".intro",
        "h3",
        "tbody th",
        ".choose .text",
    ),
    "#panel-classify .note[role=status]",
)
# Text nodes with a percentage, a decimal, a power or a signed number that are in no button that explains.
UNEXPLAINED = """((labels) => {
  const panel = document.querySelector('[role=tabpanel]:not([hidden])');
  const walker = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!/\\d%|\\d\\.\\d|10\\^|[+−]\\d/.test(node.data) || !node.parentElement.checkVisibility()) continue;
    if (!node.parentElement.closest('[data-explain]') && !node.parentElement.closest(labels)) found.push(node.data);
  }
  return found;
})(argument)"""
BUTTONS = (
    "[...document.querySelectorAll('[role=tabpanel]:not([hidden]) [data-explain]')].filter((each) =>"
    " each.checkVisibility()).map((each) => [each.id, each.dataset.explain, each.textContent])"
)
SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))))"


@pytest.fixture
def open_page(browser, tmp_path):
    """Open a page of a kind of model, of some kinds with a film or a second model."""

    def open_page(kind):
        path = tmp_path / "see.html"
        problem = PROBLEMS.get(kind)
        found = experts() if kind == "experts" else shown("classifier" if problem else kind)
        found.model.config.problem_type = problem
        payloads, film = [payload_of(found.model, found.tokenizers, "runs/tiny")], None
        if kind in ("causal", "masked"):
            for step in STEPS:
                write_frame(
                    tmp_path,
                    step,
                    as_frame(randomise(shown(kind).model, std=0.3, seed=step).state_dict(keep_vars=True)),
                )
            film = read_film(tmp_path, payloads[0])
        if kind in ("causal", *PROBLEMS):
            first = payloads[0]
            payloads.append(payload_of(randomise(found.model, seed=1), found.tokenizers, "second"))
            assert first.weights != payloads[1].weights
        write_page(path, page_html(payloads, TEXTS.get(kind, TEXT), film))
        return opened(browser, path)

    return open_page


def experts() -> Shown:
    """A tiny model whose feed-forward networks are experts."""
    tokenizer = tokenizer_of("bpe", "causal", 500)
    model = randomise(tiny_model("mixtral", vocab_size=len(tokenizer), max_position_embeddings=128)).eval()
    return Shown(model, shown("causal").tokenizers)


def explain(page, name: str) -> str:
    """Activate a button by the keyboard, and return the formula that it opens."""
    page.page.focus(f"[id='{name}']")
    page.page.keyboard.press("Enter")
    page.call(SETTLED)
    assert page.page.is_visible(".explain"), name
    assert page.page.evaluate("document.activeElement.id") == "explain-title", name
    formula = page.page.inner_text(".explain .formula")
    assert page.page.locator(".explain .code").count() == 1, name
    page.page.keyboard.press("Escape")
    page.call(SETTLED)
    assert page.page.is_hidden(".explain"), name
    assert page.page.evaluate("document.activeElement.id") == name
    return formula


def numbers_of(text: str) -> set[str]:
    """The numbers of a text, as they are written."""
    return set(re.findall(r"[+−<]?\d[\d.]*(?: · 10\^−?\d+)?", text))


def sample_of(buttons: list[list[str]]) -> list[list[str]]:
    """The first and the last button of each kind."""
    by_kind = {kind: [each for each in buttons if each[1] == kind] for _, kind, _ in buttons}
    return [each for found in by_kind.values() for each in ([found[0], found[-1]] if len(found) > 1 else found)]


@pytest.mark.parametrize(
    "kind", ["causal", "experts", "bigram", "seq2seq", "masked", *PROBLEMS, "gpt_classifier", "fasttext", "encoder"]
)
def test_every_number_is_explained(kind, open_page):
    with open_page(kind) as page:
        page.call("1")
        seen = set()
        for tab in page.page.locator("#tabs button").all():
            tab.click()
            page.call(SETTLED)
            page.page.wait_for_timeout(250)  # a translation, and the texts of a film, are written later
            if tab.get_attribute("id") == "tab-what-if":
                page.page.locator(".part, .hide-tokens .token").last.click()
                page.call(SETTLED)
            if tab.get_attribute("id") == "tab-classify":
                page.page.wait_for_selector("text=speaks for the class")
                page.page.locator("#panel-classify .token").nth(2).click()
                page.call(SETTLED)
            assert page.call(UNEXPLAINED, ", ".join(LABELS)) == [], tab.inner_text()
            buttons = page.call(BUTTONS)
            assert all(name for name, _, _ in buttons), "a button without an id loses the focus"
            for name, of, text in sample_of(buttons):
                seen.add(of)
                formula = explain(page, name)
                if of == "attention" and name == "matrix":
                    continue
                shown_number = re.search(r"[+−<]?\d[\d.]*(?: · 10\^−?\d+)?", text)
                assert shown_number is not None, (tab.inner_text(), name, text)
                assert shown_number[0] in numbers_of(formula), (tab.inner_text(), name, text, formula)
        assert page.problems == []
        wanted = {"causal": {"sampled", "probability", "change", "divergence", "lossChange", "meanLoss", "entropy"}}
        wanted |= {"seq2seq": {"beam", "meanAttention"}, "regression": {"class", "change", "divergence"}}
        assert wanted.get(kind, set()) <= seen
