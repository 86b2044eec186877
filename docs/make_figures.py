"""Make the screenshots of docs/how-to/see.md: a page of each of three models, and each of its views in Chromium.

    pip install -e ".[dev]" && apt-get install chromium
    scratch-gpt train language_modeling --film
    scratch-gpt train sft --init_from runs/gpt
    scratch-gpt train masked_lm --output_dir runs/masked_lm
    scratch-gpt train translation --config german_grammar
    scratch-gpt train classification --dataset shared/data/sst2/train.tsv --output_dir runs/sentiment \
        --label_names negative positive
    python docs/make_figures.py [--runs runs] [--output docs/images/see] [--only stories_film ...]

A model without a directory under `--runs` is named and left out, with its screenshots.

The model that runs in the documentation, `docs/live`, is trained anew, in minutes on one core, by

    python docs/make_figures.py --live
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from transformers.utils import logging

from scratch_gpt.auto import register
from scratch_gpt.see.page import build_page, write_page
from scratch_gpt.train import train

ROOT = Path(__file__).resolve().parent.parent
VIEWPORT = {"width": 1060, "height": 800}
STORY = "One day, Sara has a kite behind the castle. She offers her kite to a"
WRITTEN = 30_000  # milliseconds that a model may take to write a text
# What a page needs of a model: not the code, which is the package's, and nothing of the run.
LIVE_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class ShownModel:
    """A page: the directory of its model, the text that it shows, and a second model or a film."""

    run: str
    text: str
    against: str | None = None
    film: bool = False


@dataclass(frozen=True)
class Screenshot:
    """A view of a page, after `prepare` has used its controls; `whole` for the page and not just the window."""

    model: str
    view: str
    prepare: Callable[[Page], None] = lambda page: None
    whole: bool = True


MODELS = {
    "stories": ShownModel("gpt", STORY),
    "film": ShownModel("gpt", STORY, film=True),
    "two_models": ShownModel("gpt", STORY, against="sft"),
    "translator": ShownModel("german", "Weil der Mann gestern die Tür aufgemacht hat, lacht das Kind."),
    "sentiment": ShownModel("sentiment", "a funny and moving film with a dull ending"),
    "masked": ShownModel("masked_lm", "One day, Sara <mask> a kite behind the castle."),
}


def click(selector: str) -> Callable[[Page], None]:
    """Select a control."""
    return lambda page: page.locator(selector).first.click()


def measure_parts(page: Page) -> None:
    """Let the view measure what each part of the model does."""
    page.click("#what-if-measure")
    page.wait_for_selector("#what-if-measure:not([disabled])", timeout=WRITTEN)


def explain_a_weight(page: Page) -> None:
    """Show the formula of an attention weight."""
    page.click("#attention-layer-1")
    page.locator("table.weights button.number").first.click()


def show_a_step(page: Page) -> None:
    """Move the film to two thirds of its frames, and wait until both texts are written."""
    slider = page.locator("#film-frame")
    slider.fill(str(int(slider.get_attribute("max") or 0) * 2 // 3))
    page.wait_for_selector(".film-chart circle", state="attached")
    page.wait_for_selector("#film-greedy[aria-busy=false]", timeout=WRITTEN)


SCREENSHOTS = {
    "stories_tokens": Screenshot("stories", "tokens"),
    "stories_next": Screenshot("stories", "next"),
    "stories_flow": Screenshot("stories", "flow"),
    "stories_attention": Screenshot("stories", "attention", click("#attention-layer-1")),
    "stories_explain": Screenshot("stories", "attention", explain_a_weight, whole=False),
    "stories_lens": Screenshot("stories", "lens"),
    "stories_loss": Screenshot("stories", "loss"),
    "stories_what_if": Screenshot("stories", "what-if", measure_parts),
    "stories_film": Screenshot("film", "film", show_a_step),
    "two_models": Screenshot("two_models", "compare", click("#compare-write")),
    "translator_translate": Screenshot("translator", "translate"),
    "translator_attention": Screenshot("translator", "attention"),
    "sentiment": Screenshot("sentiment", "classify"),
    "masked": Screenshot("masked", "masked"),
}


def write_pages(runs: Path, folder: Path, console: Console) -> dict[str, Path]:
    """Write the page of each model that stands under `runs`; return their paths by name."""
    register()
    logging.disable_progress_bar()
    pages = {}
    for name, shown in MODELS.items():
        directories = [runs / run for run in (shown.run, shown.against) if run is not None]
        if missing := [str(path) for path in directories if not (path / "config.json").exists()]:
            console.print(f"no screenshots of {name}: there is no model in {', '.join(missing)}")
            continue
        film = str(directories[0]) if shown.film else None
        page = build_page(list(map(str, directories)), text=shown.text, film=film, report=console.print)
        pages[name] = folder / f"{name}.html"
        write_page(pages[name], page)
    return pages


def take(browser: Browser, path: Path, screenshot: Screenshot) -> Image.Image:
    """Open a page, go to a view, use its controls, and return the image without the page's header and footer."""
    page = browser.new_page(viewport=VIEWPORT, color_scheme="light")
    page.goto(path.as_uri())
    page.evaluate("window.ready.then(() => true)")
    page.click(f"#tab-{screenshot.view}")
    page.wait_for_timeout(700)
    screenshot.prepare(page)
    page.wait_for_timeout(1500)  # the transitions of the style
    page.evaluate("document.querySelector('nav').style.setProperty('position', 'static')")
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    image = Image.open(io.BytesIO(page.screenshot(full_page=screenshot.whole))).convert("RGB")
    if screenshot.whole:
        footer = page.evaluate("document.querySelector('footer').getBoundingClientRect().top + scrollY")
        image = image.crop((20, 0, VIEWPORT["width"] - 20, int(footer) - 30))
    page.close()
    return image.quantize(200, dither=Image.Dither.NONE)


def train_live_model(folder: Path) -> None:
    """Train the small model whose page is part of the documentation, docs/generate/live_page.py.

    Args:
        folder: where its files are written, without those of the run.
    """
    with tempfile.TemporaryDirectory() as run:
        train(
            "language_modeling",
            hidden_size=64,
            num_hidden_layers=4,
            tie_word_embeddings=True,
            epochs=2,
            compile="off",
            num_threads=1,
            save_dtype="float16",
            model_name="stories",
            output_dir=f"{run}/live",
        )
        folder.mkdir(parents=True, exist_ok=True)
        for name in LIVE_FILES:
            shutil.copyfile(Path(run, "live", name), folder / name)


def main() -> None:
    """Make the screenshots, or the live model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="directory of the trained models")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "see", help="directory of the images")
    parser.add_argument("--only", nargs="+", choices=SCREENSHOTS, default=list(SCREENSHOTS), help="screenshots to make")
    parser.add_argument("--live", action="store_true", help="train docs/live anew, and make no screenshots")
    arguments, console = parser.parse_args(), Console()
    if arguments.live:
        train_live_model(ROOT / "docs" / "live")
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        pages = write_pages(arguments.runs, Path(folder), console)
        for name in arguments.only:
            screenshot = SCREENSHOTS[name]
            if screenshot.model not in pages:
                continue
            image = take(browser, pages[screenshot.model], screenshot)
            path = arguments.output / f"{name}.png"
            image.save(path, optimize=True)
            console.print(f"{path}: {image.width} × {image.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
