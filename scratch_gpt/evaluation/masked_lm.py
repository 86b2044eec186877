"""Guess masked words: what an encoder that was trained on text alone can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.table import Table
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, pipeline

from ..errors import ScratchError
from ..terminal import SafeConsole

Guess = tuple[str, float]  # a token and its probability


def guess_masked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, top_k: int = 5
) -> list[list[Guess]]:
    """The likeliest tokens for each mask of a text, best first; computed on the model's device.

    Raises:
        ScratchError: the text has no mask.
    """
    mask = str(tokenizer.mask_token)
    if mask not in text:
        raise ScratchError(f"{text!r} has no {mask}: write {mask} where a word is to be guessed")
    options: dict[str, Any] = {"device": model.device, "top_k": top_k}
    fill: Any = pipeline("fill-mask", model=model, tokenizer=tokenizer, trust_remote_code=False, **options)
    found = fill(text)
    places = found if isinstance(found[0], list) else [found]
    return [[(guess["token_str"].strip(), guess["score"]) for guess in place] for place in places]


def print_guesses(console: SafeConsole, text: str, places: list[list[Guess]]) -> None:
    """The guesses with their probabilities as bars."""
    console.print(text, style="italic")
    for number, place in enumerate(places):
        console.print(probability_bars(place, f"mask {number + 1}" if len(places) > 1 else None))


def probability_bars(guesses: list[Guess], title: str | None = None) -> Table:
    """Names and their probabilities, drawn to scale."""
    table = Table(show_header=False, box=None, title=title)
    for name, probability in guesses:
        table.add_row(name, Bar(1.0, 0.0, probability, width=40), f"{probability:.1%}")
    return table


def report_guesses(folder: Path, text: str, trust_remote_code: bool) -> None:
    """Load `folder` through the Auto classes and let it guess the masked word of a held-out text."""
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=trust_remote_code).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    console = SafeConsole()
    console.print(f"\nReloaded from {folder} and asked to guess:\n")
    print_guesses(console, text, guess_masked(model, tokenizer, text))
