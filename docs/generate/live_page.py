"""The page on which a small model runs, as `scratch-gpt see` writes it today: `docs/live` has the model only."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers.utils import logging as transformers_logging

from scratch_gpt.auto import register
from scratch_gpt.see.page import build_page

MODEL = Path(__file__).resolve().parents[1] / "live"  # made by `python docs/make_figures.py --live`
PAGE = "how-to/live.html"
TEXT = "One day, Sara has a kite behind the castle. She offers her kite to a"
log = logging.getLogger("mkdocs.hooks.generate")  # a warning of this logger fails a strict build


def live_page() -> dict[str, str]:
    """The page by its URI.

    Raises:
        ScratchError: the model can't be opened or shown.
    """
    register()
    transformers_logging.disable_progress_bar()
    return {PAGE: build_page([str(MODEL)], text=TEXT, title="stories", report=log.warning)}
