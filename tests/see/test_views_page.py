"""The views in a real Chromium: a number that each shows is the engine's, which test_engine.py compares with torch."""

from copy import deepcopy
from urllib.parse import urlencode

import pytest
import torch
from helpers.browser import opened
from helpers.models import randomise
from helpers.pages import Shown, shown

from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.see.page import check_comparable, page_html, write_page
from scratch_gpt.see.payload import payload_of
from scratch_gpt.tokenization.chat import add_chat_template

pytestmark = pytest.mark.slow
TEXT = "One day, Anna found an old lamp."


def address(view: str, text: str = TEXT) -> str:
    """The hash of a link to a view."""
    return "#" + urlencode({"view": view, "text": text})


def share(text: str) -> float:
    """A percentage as a number: 0.12 for 12%."""
    return float(text.strip().removeprefix("<").removesuffix("%")) / 100


def number(text: str) -> float:
    """A number as the views write it, such as −1.5 or 9.1 · 10^−5."""
    digits, _, power = text.replace("−", "-").partition(" · 10^")
    return float(digits.split()[0]) * 10.0 ** float(power.split()[0] if power else 0)


def softmax(logits: list[float]) -> torch.Tensor:
    return torch.tensor(logits).softmax(-1)


@pytest.fixture
def open_view(browser, write):
    """Open a view of a page of a kind of model; the page must have had no problem at the end."""
    contexts = []

    def open_view(kind, view, text=TEXT):
        context = opened(browser, write(shown(kind), text=text), address(view, text))
        contexts.append(context)
        page = context.__enter__()
        contexts.append(page)
        page.call("1")
        page.page.wait_for_selector(f"#tab-{view}[aria-selected=true]")
        return page

    yield open_view
    for page, context in zip(contexts[1::2], contexts[::2], strict=True):
        problems = page.problems
        context.__exit__(None, None, None)
        assert problems == []


@pytest.mark.parametrize("kind", ["causal", "masked", "gpt_classifier"])
def test_attention_shows_the_weights_of_the_engine(kind, open_view):
    page = open_view(kind, "attention")
    weights = torch.tensor(
        page.call("[...model.forward(model.encode(argument), {record: true}).layers[1].attention]", TEXT)
    )
    page.page.click("#attention-layer-1")
    page.page.click("#attention-head-2")
    page.page.wait_for_selector("h3:text('Layer 2, head 3')")
    tokens = page.page.locator("#attention-arcs .token-row button").count()
    row = weights.view(-1, tokens, tokens)[2, -1]
    for key in row.topk(3).indices.tolist():
        assert share(page.page.inner_text(f"#weight-{key}")) == pytest.approx(float(row[key]), rel=0.06, abs=1e-4)


def test_an_attention_weight_is_explained(open_view):
    page = open_view("causal", "attention")
    button = page.page.locator("table.weights button.number").first
    weight = share(button.inner_text())
    button.click()
    formula = page.page.inner_text(".explain .formula")
    assert share(formula.split("%")[0].rsplit("= ", 1)[1]) == pytest.approx(weight, rel=1e-3)
    assert "attention.py" in page.page.inner_text(".explain")
    assert page.page.evaluate("document.activeElement.id") == "explain-title"
    page.page.keyboard.press("Escape")
    page.page.wait_for_selector(".explain", state="hidden")
    assert page.page.evaluate("document.activeElement.textContent") == button.inner_text()


@pytest.mark.parametrize("kind", ["causal", "bigram", "seq2seq"])
def test_a_probability_is_explained(kind, open_view):
    page = open_view(kind, "next")
    probability = share(page.page.locator(".candidate .value").first.inner_text())
    page.page.locator(".candidate .value").first.click()
    formula = page.page.inner_text(".explain .formula")
    assert share(formula.split("%")[0].rsplit("= ", 1)[1]) == pytest.approx(probability, rel=1e-3)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_last_row_of_the_lens_is_the_answer_of_the_model(kind, open_view):
    page = open_view(kind, "lens")
    probabilities = softmax(page.call("[...model.logits(model.encode(argument))]", TEXT))
    cells = page.page.locator(".lens tbody tr").last.locator("button")
    label = cells.last.get_attribute("aria-label")
    assert f"{100 * float(probabilities.max()):.1f}"[:2] in label
    entropy = float(-(probabilities * probabilities.log2()).sum())
    assert f"entropy {entropy:.1f} bits" in label
    cells.first.click()
    page.page.keyboard.press("ArrowUp")
    assert page.page.evaluate("document.activeElement.id") == "lens-1-0"


def test_what_if_shows_the_loss_without_a_head(open_view):
    page = open_view("causal", "what-if")
    page.page.click("[id='part-heads-0.1']")
    page.page.wait_for_selector("[id='part-heads-0.1'][aria-pressed=true]")
    script = """(() => {
      const ids = model.encode(argument);
      const {logits} = model.forward(ids, {edits: {heads: new Set(["0.1"])}});
      return {ids, logits: [...logits]};
    })()"""
    found = page.call(script, TEXT)
    ids = torch.tensor(found["ids"])
    loss = torch.nn.functional.cross_entropy(torch.tensor(found["logits"]).view(len(ids), -1)[:-1], ids[1:])
    after = page.page.inner_text("#what-if-loss").split(" after")[0].rsplit(" ", 1)[1]
    assert float(after) == pytest.approx(float(loss), rel=0.01)
    page.page.click("#what-if-reset")
    page.page.wait_for_selector("text=Everything is on.")


def test_what_if_measures_every_part(open_view):
    """Here for the answer after the second token."""
    page = open_view("causal", "what-if", "One day")
    page.page.select_option("#what-if-position", "1")
    page.page.click("#what-if-measure")
    page.page.wait_for_selector("#what-if-measure:enabled")
    script = """(() => {
      const ids = model.encode(argument);
      const last = (edits) => [...model.forward(ids.slice(0, 2), {edits, lastLogits: true}).logits];
      return [last({}), last({mlps: new Set([1])})];
    })()"""
    before, after = map(softmax, page.call(script, "One day"))
    divergence = float((before * (before / after).log()).sum())
    assert page.page.inner_text("#part-mlps-1 small") == ("<0.001" if divergence < 0.001 else f"{divergence:.3g}")


def test_the_architecture_shows_the_length_of_the_residual_stream(open_view):
    page = open_view("causal", "flow")
    output = page.call("[...model.forward(model.encode(argument), {record: true}).layers[1].output]", TEXT)
    hidden_size = page.call("model.config.hidden_size")
    length = torch.tensor(output).view(-1, hidden_size)[-1].norm()
    assert number(page.page.text_content("#flow-main-length-2 text")) == pytest.approx(float(length), rel=0.01)
    page.page.focus(".flow-box.norm")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector(".explain .formula")


def test_the_loss_is_that_of_torch(open_view):
    page = open_view("causal", "loss")
    model, (tokenizer, _) = shown("causal")
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    assert number(page.page.inner_text("#metric-mean-loss")) == pytest.approx(loss, rel=0.01)
    bits = loss * (ids.shape[1] - 1) / torch.log(torch.tensor(2.0)) / len(TEXT.encode())
    assert number(page.page.inner_text("#metric-bits-per-byte")) == pytest.approx(float(bits), rel=0.01)


@pytest.mark.parametrize("kind", ["seq2seq", "two_vocabularies"])
@pytest.mark.parametrize("target", ["The man opened the door.", "Zoë <eos> x"])
def test_the_loss_of_a_written_translation_is_that_of_torch(kind, target, open_view):
    """Given the source, and with the token that ends it; another source empties the field."""
    page = open_view(kind, "loss")
    model, (source, second) = shown(kind)
    page.page.fill("#target-text", target)
    page.page.wait_for_selector("#metric-mean-loss")
    labels = torch.tensor([second(target)["input_ids"]])
    assert labels[0, -1] == second.eos_token_id
    with torch.no_grad():
        loss = model(torch.tensor([source(TEXT)["input_ids"]]), labels=labels).loss
    assert number(page.page.inner_text("#metric-mean-loss")) == pytest.approx(float(loss), rel=0.01)
    assert f"over {labels.shape[1]} tokens" in page.page.inner_text("#panel-loss .metrics")
    page.page.fill("#text", "Another text.")
    page.page.wait_for_timeout(1000)
    assert page.page.input_value("#target-text") == ""


@pytest.mark.parametrize("kind", ["classifier", "fasttext"])
def test_the_share_of_a_token_is_what_hiding_it_changes(kind, open_view):
    page = open_view(kind, "classify")
    page.page.wait_for_selector("text=speaks for the class")
    script = """(() => {
      const ids = model.encode(argument);
      const scores = (edits) => [...model.forward(ids, {edits}).scores];
      return [scores({}), scores({hiddenTokens: new Set([2])})];
    })()"""
    whole, without = map(softmax, page.call(script, TEXT))
    label = int(whole.argmax())
    assert share(page.page.inner_text(f"#class-{label}")) == pytest.approx(float(whole[label]), abs=0.006)
    shown_share = page.page.locator(".loss-strip .below").nth(2).inner_text()
    difference = 100 * float(whole[label] - without[label])
    assert number(shown_share) == pytest.approx(difference, abs=0.51 if abs(difference) >= 9.95 else 0.06)


def test_guesses_at_a_mask_are_those_of_the_engine(open_view):
    text = TEXT.replace("found", "<mask>")
    page = open_view("masked", "masked", text)
    script = "(() => {const ids = model.encode(argument); return [ids, [...model.forward(ids).logits]]})()"
    ids, logits = page.call(script, text)
    mask = shown("masked").tokenizers[0].mask_token_id
    probabilities = torch.tensor(logits).view(len(ids), -1).softmax(-1)
    best = int(probabilities[ids.index(mask)].argmax())
    value = share(page.page.inner_text(f"#guess-0-{best}"))
    assert value == pytest.approx(float(probabilities[ids.index(mask), best]), rel=0.06)
    page.page.click(f"#fill-0-{best}")
    page.page.wait_for_selector("text=There is no mask yet")
    page.page.click("#mask-3")
    page.page.wait_for_selector("text=Mask 1, token 4")


@pytest.mark.parametrize("kind", ["seq2seq", "two_vocabularies"])
def test_a_translation_is_that_of_the_engine(kind, open_view):
    page = open_view(kind, "translate")
    page.page.wait_for_selector("#translation:not(:empty)")
    greedy, best = page.call(
        "[model.decode(model.generate(model.encode(argument), 64)),"
        " model.decode(model.beamSearch(model.encode(argument), 64, {numBeams: 3}).ids)]",
        TEXT,
    )
    page.page.click("#beams-1")
    page.page.wait_for_selector("dt:text('with 3 beams')")
    assert page.page.inner_text("#translation").split() == greedy.split()
    assert page.page.inner_text("#beam-translation").split() == best.split()


@pytest.mark.parametrize("added", [None, "first", "second"])
def test_two_models_are_compared(added, browser, tmp_path):
    """Also if one of them has tokens of conversations that the other lacks: over the tokens of both."""
    models = {"first": shown("causal"), "second": shown("causal")}
    randomise(models["second"].model, seed=1)
    size = models["first"].model.config.vocab_size
    if added:
        model, (tokenizer, _) = models[added]
        add_chat_template(longer := deepcopy(tokenizer))  # others share it
        model.resize_token_embeddings(len(longer), mean_resizing=False)
        models[added] = Shown(model, Tokenizers(longer, longer))
    payloads = [payload_of(*found, name, "float32") for name, found in models.items()]
    check_comparable("first", payloads[0], "second", payloads[1])
    path = tmp_path / "see.html"
    write_page(path, page_html(payloads, TEXT))
    ids = torch.tensor([models["first"].tokenizers.source(TEXT)["input_ids"]])
    with torch.no_grad():
        logits = [found.model(ids).logits[0, :, :size].log_softmax(-1) for found in models.values()]
    losses = [-each[:-1].gather(-1, ids[0, 1:, None]).mean().item() for each in logits]
    with opened(browser, path, address("compare")) as page:
        page.call("1")
        note = page.page.inner_text("p:has-text('divergence')")
        divergence = float((logits[0][-1].exp() * (logits[0][-1] - logits[1][-1])).sum())
        assert number(note.rsplit(": ", 1)[1]) == pytest.approx(divergence, rel=0.02)
        means = page.page.inner_text("p:has-text('Mean loss')").split()
        assert [float(means[2]), float(means[7])] == pytest.approx(losses, rel=0.01)
        page.page.click("#compare-write")
        page.page.wait_for_selector(".written-text >> nth=1")
        assert page.page.locator(f"#compare-shared:has-text('6 more tokens'):has-text('{size}')").count() == bool(added)
        if added == "first":
            page.page.fill("#text", f"{TEXT}<|user|>")
            page.page.wait_for_selector("#compare-unknown:has-text('<|user|>')")
        assert page.problems == []


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "masked", "classifier", "bigram", "encoder", "fasttext"])
def test_the_tour_goes_through_views(kind, open_view):
    page = open_view(kind, "tokens")
    page.page.click("#tour-start")
    page.page.wait_for_selector(".tour .note:text('Step 1 of')")
    count = int(page.page.inner_text(".tour .note").rsplit(" ", 1)[1])
    for step in range(1, count + 1):
        assert page.page.inner_text(".tour .note") == f"Step {step} of {count}"
        assert page.page.locator("[role=tabpanel]:visible").count() == 1
        if step < count:
            page.page.click("#tour-next")
            page.page.wait_for_selector(f".tour .note:text('Step {step + 1} of')")
    page.page.click("#tour-end")
    page.page.wait_for_selector(".tour", state="hidden")


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "masked", "classifier"])
def test_no_view_is_wider_than_a_phone(kind, browser, write):
    with opened(browser, write(shown(kind), text=TEXT), viewport={"width": 390, "height": 800}) as page:
        page.call("1")
        for tab in page.page.locator("#tabs button").all():
            tab.click()
            page.page.wait_for_timeout(60)
            widths = page.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert widths[0] <= widths[1], tab.inner_text()
        assert page.problems == []
