"""The training film in a real Chromium: each frame shows what torch computes with its weights."""

import pytest
import torch
from helpers.browser import opened
from helpers.models import randomise
from helpers.pages import rounded_to_float16, shown

from scratch_gpt.see.film import read_film
from scratch_gpt.see.page import page_html, write_page
from scratch_gpt.see.payload import payload_of
from scratch_gpt.train.engine.film import as_frame, write_frame

pytestmark = pytest.mark.slow
STEPS = (0, 1, 2, 26)
TEXTS = {"masked": "One day, Anna <mask> an old lamp."}


def film_model(kind: str, step: int):
    """The model of a frame: random weights, one seed per step."""
    return rounded_to_float16(randomise(shown(kind).model, std=0.3, seed=step))


def show(page, index: int) -> None:
    page.page.locator("#film-frame").fill(str(index))
    page.page.wait_for_selector(f"#film-step:text-is('Step {STEPS[index]}')")
    page.call("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.page.wait_for_selector("#panel-film [aria-busy=true]", state="detached")


@pytest.fixture
def open_film(browser, tmp_path):
    def open_film(kind, **options):
        for step in STEPS:
            write_frame(tmp_path, step, as_frame(film_model(kind, step).state_dict(keep_vars=True)))
        payload = payload_of(*shown(kind), "runs/tiny", "float32")
        path = tmp_path / "see.html"
        write_page(path, page_html([payload], TEXTS.get(kind, "One day, Anna"), read_film(tmp_path, payload)))
        return opened(browser, path, "#view=film", **options)

    return open_film


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_frame_shows_its_own_text(kind, open_film):
    source, target = shown(kind).tokenizers
    ids = torch.tensor([source("One day, Anna")["input_ids"]])
    found = set()
    with open_film(kind) as page:
        assert page.call("document.getElementById('film-step').textContent") == "Step 26"
        for index, step in enumerate(STEPS):
            show(page, index)
            model = film_model(kind, step)
            written = model.generate(ids, max_new_tokens=40, do_sample=False, num_beams=1)[0]
            start = 1 if kind == "seq2seq" else ids.shape[1]
            expected = target.decode(written[start:], skip_special_tokens=True)
            text = page.call("document.getElementById('film-greedy').textContent")
            assert text == (expected or "(nothing: the text ends here)"), step
            assert page.page.locator("#film-sampled").count() == 1
            found.add(text)
        assert len(found) > 2
        assert page.problems == []
        assert page.requests == []


def test_a_frame_shows_its_own_probabilities_and_loss(open_film):
    tokenizer = shown("causal").tokenizers.source
    ids = torch.tensor([tokenizer("One day, Anna")["input_ids"]])
    with open_film("causal") as page:
        for index, step in enumerate(STEPS):
            show(page, index)
            with torch.no_grad():
                output = film_model("causal", step)(ids, labels=ids)
            assert float(page.page.inner_text("#film-loss").split()[0]) == pytest.approx(float(output.loss), rel=0.01)
            expected = output.logits[0, -1].softmax(-1).topk(8).values
            rows = page.page.locator("#film-answers td.right").all_inner_texts()
            assert [float(row.strip("<%")) for row in rows] == pytest.approx((100 * expected).tolist(), rel=0.06)
        page.page.wait_for_selector(f".film-chart circle:nth-of-type({len(STEPS)})", state="attached")
        sampled = page.call("document.getElementById('film-sampled').textContent")
        show(page, 0)
        assert page.call("document.getElementById('film-sampled').textContent") != sampled
        show(page, len(STEPS) - 1)
        assert page.call("document.getElementById('film-sampled').textContent") == sampled  # the same seed
        assert page.problems == []


@pytest.mark.parametrize("kind", ["masked", "gpt_classifier"])
def test_other_kinds_of_models_have_a_film(kind, open_film):
    with open_film(kind) as page:
        answers = []
        for index in range(len(STEPS)):
            show(page, index)
            answers.append(page.page.inner_text("#film-answers"))
        assert len(set(answers)) == len(STEPS)
        assert page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_plays_by_keyboard_and_axe_finds_nothing_serious(scheme, open_film):
    from axe_playwright_python.sync_playwright import Axe

    with open_film("causal", color_scheme=scheme, reduced_motion="reduce") as page:
        page.page.focus("#film-frame")
        page.page.keyboard.press("Home")
        page.page.wait_for_selector("#film-step:text-is('Step 0')")
        assert page.call("document.getElementById('film-frame').getAttribute('aria-valuetext')") == "Step 0 of 26"
        page.page.focus("#film-play")
        page.page.keyboard.press("Space")
        assert page.page.inner_text("#film-play") == "Pause"
        page.page.wait_for_selector("#film-step:text-is('Step 26')")
        page.page.wait_for_selector("#film-play:text-is('Play')")
        assert page.call("document.activeElement.id") == "film-play"
        found = Axe().run(page.page).response["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert not serious, [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious]
        assert page.problems == []
