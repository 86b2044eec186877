"""Judge generated stories by the grammar that the training text came from."""

from __future__ import annotations

from typing import NamedTuple

from ..data.corpora import stories


class Verdict(NamedTuple):
    """Shares of the sentences of generated stories, each from 0 to 1."""

    sentences: int
    parsed: float
    new: float


def judge_stories(texts: list[str], training_text: str) -> Verdict:
    """How many sentences of `texts` the grammar derives, and how many do not stand in `training_text`."""
    found = [sentence for text in texts for sentence in stories.sentences(text)]
    if not found:
        return Verdict(0, 0.0, 0.0)
    parsed = sum(stories.parses(sentence) for sentence in found) / len(found)
    return Verdict(len(found), parsed, sum(sentence not in training_text for sentence in found) / len(found))
