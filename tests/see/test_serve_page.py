"""The page of `scratch-gpt see --serve` in a real Chromium: what it computes, what it asks for, and errors."""

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers.browser import RecordedPage
from helpers.models import randomise
from helpers.pages import shown
from helpers.serving import TEXT, serving

from scratch_gpt.see import serve

pytestmark = pytest.mark.slow
KINDS = (
    "causal",
    "bigram",
    "gpt_classifier",
    "seq2seq",
    "two_vocabularies",
    "masked",
    "classifier",
    "fasttext",
    "encoder",
)


@contextmanager
def browsed(browser: Any, server: Any, hash: str = ""):
    """The served page in a browser; all that it asks for must be from this server."""
    url = f"http://127.0.0.1:{server.server_port}/"
    context = browser.new_context()
    try:
        recorded = RecordedPage(context.new_page(), url)
        recorded.page.goto(url + hash)
        recorded.call("1")
        yield recorded
        assert recorded.requests
        assert set(recorded.requests) == {f"{url}compute"}
    finally:
        context.close()


def greedy(found: Any, ids: list[int], count: int) -> list[int]:
    """What torch generates, without the prompt or the start of a translation."""
    model = found.model
    written = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, num_beams=1)[0].tolist()
    return written[1 if model.config.is_encoder_decoder else len(ids) :]


@pytest.mark.parametrize("kind", KINDS)
def test_the_served_page_computes_and_shows_what_torch_does(kind, browser):
    found = shown(kind)
    model, (tokenizer, _) = found
    ids = tokenizer(TEXT)["input_ids"]
    # Before the page asks for passes with parts switched off, whose hooks are on the same model
    expected = greedy(found, ids, 24) if model.can_generate() else None
    arguments, inputs = [ids], {"input_ids": torch.tensor([ids])}
    if model.config.is_encoder_decoder:
        arguments.append([model.config.decoder_start_token_id, 5, 9])
        inputs["decoder_input_ids"] = torch.tensor(arguments[1:])
    with torch.no_grad():
        logits = None if kind == "encoder" else model(**inputs).logits[0]
    with serving(found) as server, browsed(browser, server) as page:
        assert page.call("model.encode(argument)", TEXT) == ids
        if expected is not None:
            assert page.call("model.generate(argument, 24)", ids) == expected
        if logits is not None:
            measured = torch.tensor(page.call("[...model.logits(...argument)]", arguments))
            torch.testing.assert_close(measured, logits if logits.ndim == 1 else logits[-1], atol=1e-4, rtol=0)
        tabs = page.page.locator("#tabs button").all()
        assert len(tabs) >= 3
        for tab in tabs:
            tab.click()
            panel = tab.get_attribute("aria-controls")
            page.page.wait_for_selector(f"#{panel}:visible .view > * >> nth=0", state="attached")
        assert "by torch in scratch-gpt see --serve" in page.page.inner_text("footer")
        assert page.problems == []


def test_two_models_are_served(browser):
    first, second = shown("causal"), shown("causal")
    randomise(second.model, seed=1)
    ids = first.tokenizers.source(TEXT)["input_ids"]
    expected = [greedy(found, ids, 12) for found in (first, second)]
    assert expected[0] != expected[1]
    with serving(first, second) as server, browsed(browser, server) as page:
        assert page.call("window.models.map((each) => each.generate(argument, 12))", ids) == expected
        page.page.click("#tab-compare")
        page.page.wait_for_selector("p:has-text('Mean loss')")
        assert page.problems == []


def test_beams_with_a_cache_on_the_server(browser):
    found = shown("seq2seq")
    ids = found.tokenizers.source(TEXT)["input_ids"]
    ids_of = found.model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, num_beams=3)[0].tolist()
    with serving(found) as server, browsed(browser, server) as page:
        assert page.call("model.generate(argument, 16, {numBeams: 3})", ids) == ids_of[1:]


def test_errors_are_shown_in_the_page(browser):
    """Ids that do not exist are a RangeError as in a page from a file; a server that has ended is said."""
    found = shown("causal")
    with serving(found) as server, browsed(browser, server) as page:
        message = "(() => { try { model.logits(argument) } catch (error) { return String(error) } })()"
        assert page.call(message, [500]) == "RangeError: there is no token 500: want an integer from 0 to 499"
        assert page.call(message, []) == "RangeError: there is no token: give at least one"
        page.page.wait_for_selector("#server-error", state="hidden")
        server.token = "another"  # as if the server had been started again at this port
        page.page.fill("#text", "Another text")
        page.page.wait_for_selector("#server-error:visible")
        assert page.page.inner_text("#server-error") == "this server answers only its own page: load it again"
        page.page.context.set_offline(True)
        page.page.fill("#text", "One more text")
        page.page.wait_for_selector("#server-error:has-text('The server does not answer')")


def test_a_page_starts_with_a_text_that_is_too_long(browser, monkeypatch):
    """What is too long is said, and a shorter text is shown."""
    monkeypatch.setattr(serve, "MAX_ANSWER", 60_000)
    with serving(shown("causal")) as server, browsed(browser, server, "#view=attention") as page:
        page.page.wait_for_selector("#server-error:has-text('shorten the text')")
        page.page.fill("#text", "One")
        page.page.wait_for_selector("#server-error", state="hidden")
        page.page.wait_for_selector("#panel-attention .view button")
