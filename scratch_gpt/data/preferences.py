"""Pairs to learn from: after the same prompt, what is preferred and what is not.

A row is one of

    {"prompt": "…", "chosen": "…", "rejected": "…"}                         texts to go on with
    {"prompt": [messages], "chosen": [messages], "rejected": [messages]}    answers in a conversation
    {"chosen": [messages], "rejected": [messages]}                          the same, begun by the same messages, which
                                                                            may stand in "prompt" too
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import ScratchError
from .conversations import Conversation, conversation_of, messages_of
from .corpus import Corpus, Origin
from .formats import BadRowError
from .prompts import Prompt
from .tables import ReadOptions, check_unicode, open_table

COLUMNS = ("prompt", "chosen", "rejected")


class Preference(NamedTuple):
    """A prompt, and two ways to go on: texts, or messages after messages."""

    prompt: Prompt
    chosen: Prompt
    rejected: Prompt


def open_preferences(dataset: str, options: ReadOptions | None = None) -> Corpus[Preference]:
    """Open what `dataset` names.

    Args:
        dataset: a table, a folder or a pattern of tables, or the id of a Hub dataset.
        options: how to read it.

    Raises:
        ScratchError: nothing of that name, or no pairs in it.
    """
    options = options or ReadOptions()
    table = open_table(dataset, options, COLUMNS, "preferences")
    if not all(map(table.has, ("chosen", "rejected"))):
        raise ScratchError(f"{table.name} has the columns {table.described()}, want 'prompt', 'chosen', 'rejected'")
    columns = {name: name for name in COLUMNS if table.has(name)}
    return Corpus(Origin.of_table(table, columns, options), table.rows, preference_of, options)


def preference_of(row: dict[str, Any]) -> Preference:
    """The pair of a row of any known form.

    Raises:
        BadRowError: it holds no pair, and why.
    """
    prompt = row.get("prompt")
    if all(_is_messages(row.get(side)) for side in ("chosen", "rejected")):
        return _of_messages(prompt, *(conversation_of(row, (side,)) for side in ("chosen", "rejected")))
    for column in COLUMNS:
        value = row.get(column)
        if not isinstance(value, str) or (column == "prompt" and not value.strip()):  # what follows may be nothing
            seen = "null" if value is None else "empty" if isinstance(value, str) else type(value).__name__
            raise BadRowError(f"{column!r} is {seen}, want text")
        check_unicode(value, column)
    if row["chosen"] == row["rejected"]:
        raise BadRowError("'chosen' and 'rejected' are the same")
    return Preference(row["prompt"], row["chosen"], row["rejected"])


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith('[{"'))


def _of_messages(prompt: Any, chosen: Conversation, rejected: Conversation) -> Preference:
    asked: Conversation
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    given = messages_of(prompt, "prompt") if isinstance(prompt, list) and prompt else None
    if given is not None and chosen[: len(given)] != given:
        asked = conversation_of({"prompt": given}, ("prompt",), answered=False)
    elif isinstance(prompt, str) and prompt.strip() and not same:
        asked = [{"role": "user", "content": prompt}]
    else:
        asked, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    if not asked or not chosen or not rejected or chosen == rejected:
        raise BadRowError("there is no prompt, or no difference between 'chosen' and 'rejected'")
    return Preference(asked, chosen, rejected)
