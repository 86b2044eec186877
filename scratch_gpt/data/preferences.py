"""Pairs to learn from: after the same prompt, what is preferred and what is not.

A row is one of

    {"prompt": "…", "chosen": "…", "rejected": "…"}                         texts to go on with
    {"prompt": [messages], "chosen": [messages], "rejected": [messages]}    answers in a conversation
    {"chosen": [messages], "rejected": [messages]}                          the same, begun by the same messages, which
                                                                            may stand in "prompt" too
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

from ..errors import ScratchError
from .conversations import conversation_of
from .prompts import Prompt
from .sources import open_rows, rows_of


class Preference(NamedTuple):
    """A prompt, and two ways to go on: texts, or messages after messages."""

    prompt: Prompt
    chosen: Prompt
    rejected: Prompt


def open_preferences(
    dataset: str, *, config: str | None = None, split: str = "train", max_rows: int | None = None
) -> tuple[str, list[Preference]]:
    """The name of a set of pairs, and the pairs.

    Args:
        dataset: a .json, .jsonl, .csv, .tsv or .parquet file, a folder of such files, or the id of a Hub dataset.
        config, split: of a Hub dataset or, the latter, of a folder.
        max_rows: read only so many.

    Raises:
        ScratchError: nothing of that name, or no pairs in it.
    """
    name, rows = open_rows(dataset, config, split, "pairs")
    first = next(iter(rows))
    if not {"chosen", "rejected"} <= set(first):
        raise ScratchError(f"{name} has the columns {', '.join(map(repr, first))}, want 'prompt', 'chosen', 'rejected'")
    pairs = []
    for number, row in enumerate(islice(rows_of(rows, name), max_rows)):
        try:
            pairs.append(preference_of(row))
        except ValueError as error:
            raise ScratchError(f"{name}: row {number} {error}: mend or remove it") from error
    return name, pairs


def preference_of(row: dict[str, Any]) -> Preference:
    """The pair of a row of any known shape.

    Raises:
        ValueError: it holds no pair, and why.
    """
    prompt = row.get("prompt")
    if all(isinstance(row[side], list) for side in ("chosen", "rejected")):
        chosen, rejected = (conversation_of({"messages": row[side]}) for side in ("chosen", "rejected"))
        same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
        if isinstance(prompt, list) and chosen[: len(prompt)] != prompt:
            asked = conversation_of({"messages": prompt}, answered=False)
        elif isinstance(prompt, str) and not same:
            asked = [{"role": "user", "content": prompt}]
        else:
            asked, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
        if not asked or not chosen or not rejected or chosen == rejected:
            raise ValueError("has no prompt, or no difference between 'chosen' and 'rejected'")
        return Preference(asked, chosen, rejected)
    for column in ("prompt", "chosen", "rejected"):
        value = row.get(column)
        if not isinstance(value, str) or (column == "prompt" and not value.strip()):  # what follows may be nothing
            raise ValueError(f"has {type(value).__name__} {value!r:.40} as {column!r}, want text")
    if row["chosen"] == row["rejected"]:
        raise ValueError("has the same text as 'chosen' and 'rejected'")
    return Preference(row["prompt"], row["chosen"], row["rejected"])
