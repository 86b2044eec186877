"""Score generated stories by the grammar that generated the training text."""

from __future__ import annotations

from typing import NamedTuple

from ..data.corpora import stories


class StoryScores(NamedTuple):
    """Scores of the sentences of generated stories.

    Attributes:
        sentences: number of sentences.
        parsed: fraction of them that the grammar derives.
        new: fraction of them that are not in the training text.
    """

    sentences: int
    parsed: float
    new: float


def score_stories(texts: list[str], training_text: str) -> StoryScores:
    """Score the sentences of `texts`: the fractions that the grammar derives, and that `training_text` lacks."""
    found = [sentence for text in texts for sentence in stories.sentences(text)]
    if not found:
        return StoryScores(0, 0.0, 0.0)
    parsed = sum(stories.parses(sentence) for sentence in found) / len(found)
    return StoryScores(len(found), parsed, sum(sentence not in training_text for sentence in found) / len(found))
