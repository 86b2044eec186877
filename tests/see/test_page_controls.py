"""The page in a real Chromium: writing token by token, tabs and keys, the address, light and dark, accessibility."""

import pytest
import torch
from helpers.browser import opened
from helpers.pages import shown

pytestmark = pytest.mark.slow
PAUSE = 300  # milliseconds, as in navigation.js
TOKENS = "[...document.querySelectorAll('#panel-next .token')].map((node) => node.querySelector('.text').textContent)"
ROWS = (
    "[...document.querySelectorAll('.candidate')].map((row) => [row.querySelector('.text').textContent,"
    " row.querySelector('.value').textContent])"
)
EXCLUDED = "[...document.querySelectorAll('.candidate')].map((row) => row.dataset.excluded)"
SHOWN = "document.querySelector('[role=tabpanel]:not([hidden])').id"


def set_slider(page, name: str, value: float) -> None:
    page.call(
        "(() => { const slider = document.getElementById(argument[0]); slider.value = argument[1];"
        " slider.dispatchEvent(new Event('input')); })()",
        [name, value],
    )
    settle(page)


def settle(page) -> None:
    """Wait until the page has shown the last change."""
    page.call("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def click(page, text: str) -> None:
    page.page.get_by_role("button", name=text, exact=True).click()
    settle(page)


@pytest.fixture
def next_token(browser, write):
    """The view of the next token of a tiny language model."""
    with opened(browser, write(shown("causal"), "float32"), hash="#view=next&text=One%20day") as page:
        yield page
        assert page.problems == []


def test_the_bars_are_the_probabilities_of_torch(next_token):
    model, (tokenizer, _) = shown("causal")
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("One day")["input_ids"]])).logits[0, -1]
    for temperature in (1.0, 0.5):
        set_slider(next_token, "temperature", temperature)
        expected = (logits / temperature).softmax(-1).topk(12)
        rows = next_token.call(ROWS)
        for (text, shown_probability), token, probability in zip(rows, *map(list, expected[::-1]), strict=True):
            if "\\x" not in text:  # a byte of a character
                assert text.replace("␣", " ").replace("⏎", "\n") == tokenizer.decode([token])
            assert float(shown_probability.strip("<%")) == pytest.approx(100 * probability.item(), rel=0.06)


def test_sliders_act_at_once(next_token):
    set_slider(next_token, "topK", 3)
    assert next_token.call(EXCLUDED) == ["false"] * 3 + ["true"] * 9
    set_slider(next_token, "temperature", 0)
    assert [row[-1] for row in next_token.call(ROWS)] == ["100%"] + ["0%"] * 11
    set_slider(next_token, "topK", 0)
    set_slider(next_token, "temperature", 0.2)
    own = [float(row[-1].strip("<%")) for row in next_token.call(ROWS)]
    set_slider(next_token, "topP", 0.05)
    kept = next_token.call(EXCLUDED).count("false")
    assert sum(own[: kept - 1]) < 5 <= sum(own[:kept])
    probabilities = [float(row[-1].strip("<%")) for row in next_token.call(ROWS)]
    assert probabilities[:kept] == pytest.approx([100 * value / sum(own[:kept]) for value in own[:kept]], abs=1.5)


def test_writing_stepping_back_and_choosing_another_token(next_token):
    model, (tokenizer, _) = shown("causal")
    set_slider(next_token, "temperature", 0)
    start = next_token.call(TOKENS)
    for _ in range(6):
        click(next_token, "Write a token")
    written = next_token.call(TOKENS)
    ids = tokenizer("One day")["input_ids"]
    greedy = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0].tolist()
    assert next_token.call("model.generate(argument, 6)", ids) == greedy[len(ids) :]
    assert len(written) == len(start) + 6
    click(next_token, "Step back")
    assert next_token.call(TOKENS) == written[:-1]
    click(next_token, "Write a token")
    assert next_token.call(TOKENS) == written
    # Another token in place of the second one that was written, and on from there
    next_token.page.click(f"#panel-next .token:nth-child({len(start) + 2})")
    settle(next_token)
    assert next_token.page.inner_text("#panel-next h3") == f"Instead of token {len(start) + 1}"
    other = next_token.call(ROWS)[3][0]
    next_token.page.click(".candidates li:nth-child(4) button")
    settle(next_token)
    assert next_token.call(TOKENS) == [*written[: len(start) + 1], other]
    click(next_token, "Write a token")
    assert len(next_token.call(TOKENS)) == len(start) + 3
    click(next_token, "Clear")
    assert next_token.call(TOKENS) == start


def test_sampling_depends_on_the_seed_only(next_token):
    def sample(seed: int) -> list[str]:
        next_token.page.fill("#text", "One")
        next_token.page.fill("#text", "One day")
        next_token.page.fill("#seed", str(seed))
        next_token.page.press("#seed", "Tab")
        for _ in range(8):
            click(next_token, "Write a token")
        return next_token.call(TOKENS)

    assert sample(1) == sample(1) != sample(2)


def test_writing_on_ends_at_the_last_position(next_token):
    for _ in range(30):  # it also ends after an end of text
        click(next_token, "Write on")
        next_token.page.locator("#panel-next .row button:nth-child(2)", has_text="Write on").wait_for()
        if next_token.page.locator("#panel-next .primary").is_disabled():
            break
    assert len(next_token.call(TOKENS)) == 128
    assert "has 128 positions" in next_token.page.inner_text("#panel-next")
    click(next_token, "Step back")
    assert len(next_token.call(TOKENS)) == 127
    assert len(next_token.call(ROWS)) == 12


def test_tabs_and_keys_open_views(browser, write):
    with opened(browser, write(shown("causal"))) as page:
        tabs = page.call("[...document.querySelectorAll('[role=tab]')].map((tab) => tab.id.replace('tab-', 'panel-'))")
        keyboard = page.page.keyboard
        page.page.focus("[role=tab][aria-selected=true]")
        start = tabs.index(page.call(SHOWN))
        for key, step in (
            ("ArrowRight", 1),
            ("ArrowLeft", 0),
            ("Home", -start),
            ("End", -start - 1),
            ("ArrowRight", -start),
        ):
            keyboard.press(key)
            settle(page)
            assert page.call(SHOWN) == tabs[(start + step) % len(tabs)], key
            assert page.call("document.activeElement.getAttribute('aria-controls')") == page.call(SHOWN)
        for index in range(min(9, len(tabs))):
            keyboard.press(str(index + 1))
            settle(page)
            assert page.call(SHOWN) == tabs[index]
        keyboard.press("/")
        keyboard.type("12")  # into the text, and not to other views
        assert page.call("document.getElementById('text').value").endswith("12")
        keyboard.press("Escape")
        keyboard.press("?")
        assert page.page.get_by_role("dialog").is_visible()
        keyboard.press("Escape")
        assert not page.page.get_by_role("dialog").is_visible()
        assert page.problems == []


def test_the_address_carries_text_view_and_what_was_written(browser, write):
    path = write(shown("causal"))
    with opened(browser, path) as page:
        page.page.fill("#text", "Größe & 1+1 = #2\nA")
        click(page, "Write a token")
        page.page.click("#tab-tokens")
        page.page.wait_for_timeout(400)
        address, tokens = page.page.url, page.call("document.querySelector('#panel-tokens .strip').textContent")
    with opened(browser, path, hash=address.removeprefix(path.as_uri())) as page:
        assert page.call(SHOWN) == "panel-tokens"
        assert page.call("document.getElementById('text').value") == "Größe & 1+1 = #2\nA"
        assert page.call("document.querySelector('#panel-tokens .strip').textContent") == tokens


SLOWER = """(() => {
  window.passes = 0;
  const forward = model.forward;
  model.forward = function (...given) {
    window.passes += 1;
    for (const start = performance.now(); performance.now() - start < argument; );
    return forward.apply(this, given);
  };
})()"""


@pytest.mark.parametrize(("delay", "waits"), [(200, True), (0, False)])
def test_slow_passes_wait_for_a_pause_of_the_typing(delay, waits, browser, write):
    """A model that takes as long as a large one computes once, and the page says so, after six keys."""
    with opened(browser, write(shown("causal")), hash="#view=next&text=One+day") as page:
        page.call(SLOWER, delay)
        page.page.focus("#text")
        page.page.keyboard.press("End")
        page.page.keyboard.type("s")
        page.page.wait_for_timeout(delay + 200)
        page.call("window.passes = 0")
        for key in ", Anna":
            page.page.keyboard.type(key)
            page.page.wait_for_timeout(40)
        assert page.page.input_value("#text") == "One days, Anna"
        if waits:
            assert page.call("window.passes") == 0
            assert page.page.inner_text("#computing") == "Computing…"
            page.page.wait_for_timeout(PAUSE + delay + 300)
            assert page.call("window.passes") == 1
        else:
            assert page.call("window.passes") > 3
        assert page.page.inner_text("#computing") == ""
        assert "".join(page.call(TOKENS)).replace("␣", " ").endswith("One days, Anna")
        page.page.click("#tab-tokens")
        settle(page)
        assert page.call(SHOWN) == "panel-tokens"
        assert page.problems == []


def test_tokens_have_ids_and_bytes(browser, write):
    tokenizer = shown("causal").tokenizers.source
    text = "Größe of 3 €\n"
    with opened(browser, write(shown("causal"), text=text), hash="#view=tokens") as page:
        ids = page.call(
            "[...document.querySelectorAll('#panel-tokens .below')].map((node) => Number(node.textContent))"
        )
        assert ids == tokenizer(text)["input_ids"]
        found = b""
        for position in range(2, len(ids) + 1):  # after <bos>
            page.page.click(f"#panel-tokens .token:nth-child({position})")
            settle(page)
            rows = page.page.locator("#panel-tokens dd").all_inner_texts()
            assert int(rows[1]) == ids[position - 1]
            found += bytes.fromhex(rows[4])
        assert found.decode() == text


def test_a_text_beyond_the_positions_is_shortened_and_said(browser, write):
    with opened(browser, write(shown("causal"), text="One day " * 400)) as page:
        count = page.call("document.querySelectorAll('.token').length")
        assert count == 128
        ignored = page.call("model.encode(document.getElementById('text').value).length") - 128
        assert page.page.inner_text("#text-note").endswith(f"128 positions: the last {ignored} tokens are ignored.")
        assert page.problems == []


def test_light_and_dark_follow_the_system_and_the_switch(browser, write):
    background = "getComputedStyle(document.body).backgroundColor"
    path = write(shown("bigram"))
    with opened(browser, path, color_scheme="light") as light, opened(browser, path, color_scheme="dark") as dark:
        colours = [page.call(background) for page in (light, dark)]
        assert colours[0] != colours[1]
        for page in (light, dark):
            page.page.click("#theme")
        assert [page.call(background) for page in (light, dark)] == colours[::-1]
        dark.page.emulate_media(media="print")
        assert dark.page.locator("nav").is_hidden()


def test_narrow_screens_do_not_scroll_sideways(browser, write):
    with opened(browser, write(shown("causal"), text="a" * 300), viewport={"width": 360, "height": 700}) as page:
        for tab in page.page.get_by_role("tab").all():
            tab.click()
            settle(page)
            assert page.call("document.documentElement.scrollWidth <= innerWidth"), tab.inner_text()
        for key in (1, page.page.get_by_role("tab").count(), 1):
            page.page.keyboard.press(str(key))
            settle(page)
            box = page.page.get_by_role("tab", selected=True).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("causal", "light"), ("causal", "dark"), ("seq2seq", "light"), ("classifier", "light"), ("masked", "dark")],
)
def test_axe_finds_nothing_serious(kind, scheme, browser, write):
    """axe-core, the checker of accessibility, in each view."""
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    with opened(browser, write(shown(kind)), color_scheme=scheme, reduced_motion="reduce") as page:
        for tab in page.page.get_by_role("tab").all():
            tab.click()
            settle(page)
            found = axe.run(page.page).response["violations"]
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            assert not serious, [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious]
