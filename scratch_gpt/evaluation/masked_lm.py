"""Predict masked tokens with a masked language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.table import Table
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, pipeline

from ..errors import ScratchError
from ..terminal import SafeConsole

Prediction = tuple[str, float]  # a token and its probability


def predict_masked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, top_k: int = 5
) -> list[list[Prediction]]:
    """Predict the most likely tokens for each mask of a text, on the model's device.

    Args:
        model: a masked language model.
        tokenizer: the model's tokenizer.
        text: a text with at least one mask token.
        top_k: number of predictions for each mask.

    Returns:
        For each mask its predictions, most likely first.

    Raises:
        ScratchError: the text has no mask.
    """
    mask = str(tokenizer.mask_token)
    if mask not in text:
        raise ScratchError(f"{text!r} has no {mask}: write {mask} for each word to predict")
    options: dict[str, Any] = {"device": model.device, "top_k": top_k}
    fill: Any = pipeline("fill-mask", model=model, tokenizer=tokenizer, trust_remote_code=False, **options)
    found = fill(text)
    masks = found if isinstance(found[0], list) else [found]
    return [[(prediction["token_str"].strip(), prediction["score"]) for prediction in mask] for mask in masks]


def print_predictions(console: SafeConsole, text: str, masks: list[list[Prediction]]) -> None:
    """Print the predictions for each mask of a text, with their probabilities as bars."""
    console.print(text, style="italic")
    for number, predictions in enumerate(masks, start=1):
        console.print(probability_bars(predictions, f"mask {number}" if len(masks) > 1 else None))


def probability_bars(predictions: list[Prediction], title: str | None = None) -> Table:
    """Return a table of names and their probabilities as bars."""
    table = Table(show_header=False, box=None, title=title)
    for name, probability in predictions:
        table.add_row(name, Bar(1.0, 0.0, probability, width=40), f"{probability:.1%}")
    return table


def report_predictions(folder: Path, text: str, trust_remote_code: bool) -> None:
    """Load `folder` with the Auto classes and print its predictions for the masks of a held-out text."""
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=trust_remote_code).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    console = SafeConsole()
    console.print(f"\nReloaded from {folder}; predictions for a masked word:\n")
    print_predictions(console, text, predict_masked(model, tokenizer, text))
