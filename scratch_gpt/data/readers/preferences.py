"""Preference pairs: a chosen and a rejected completion of the same prompt.

A row has one of these formats:

    {"prompt": "…", "chosen": "…", "rejected": "…"}                         text completions
    {"prompt": [messages], "chosen": [messages], "rejected": [messages]}    conversational
    {"chosen": [messages], "rejected": [messages]}                          the prompt is the common prefix, and
                                                                            may be repeated in "prompt"
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...errors import ScratchError
from .conversations import Conversation, conversation_of, message_text, messages_of
from .corpus import Corpus, Origin
from .examples import example_hint
from .formats import BadRowError
from .prompts import Prompt
from .tables import ReadOptions, check_text, open_table

COLUMNS = ("prompt", "chosen", "rejected")


class Preference(NamedTuple):
    """A prompt and two completions; all three are texts or lists of messages."""

    prompt: Prompt
    chosen: Prompt
    rejected: Prompt


def open_preferences(dataset: str, options: ReadOptions | None = None) -> Corpus[Preference]:
    """Open a preference dataset.

    Args:
        dataset: a table, a folder or a glob pattern of tables, or the id of a Hub dataset.
        options: how to read it.

    Raises:
        ScratchError: the dataset does not exist, or has no columns "chosen" and "rejected".
    """
    options = options or ReadOptions()
    table = open_table(dataset, options, COLUMNS, "preferences")
    if not all(map(table.has, ("chosen", "rejected"))):
        raise ScratchError(
            f"{table.name} has the columns {table.described()}, want 'prompt', 'chosen', 'rejected'; "
            f"{example_hint('preferences')}"
        )
    columns = {name: name for name in COLUMNS if table.has(name)}
    return Corpus(Origin.of_table(table, columns, options), table.reader(columns), preference_of, options)


def preference_of(row: dict[str, Any]) -> Preference:
    """Convert a row to a preference pair.

    Raises:
        BadRowError: the row is not a valid pair.
    """
    prompt = row.get("prompt")
    if all(_is_messages(row.get(side)) for side in ("chosen", "rejected")):
        return _of_messages(prompt, *(conversation_of(row, (side,)) for side in ("chosen", "rejected")))
    text = message_text(prompt, "prompt")
    chosen, rejected = (check_text(row.get(side), side) for side in ("chosen", "rejected"))  # may be empty
    if chosen == rejected:
        raise BadRowError("'chosen' and 'rejected' are the same")
    return Preference(text, chosen, rejected)


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith('[{"'))


def _of_messages(prompt: Any, chosen: Conversation, rejected: Conversation) -> Preference:
    shared: Conversation
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    given = messages_of(prompt, "prompt") if isinstance(prompt, list) and prompt else None
    if given is not None and chosen[: len(given)] != given:
        shared = conversation_of({"prompt": given}, ("prompt",), with_answer=False)
    elif isinstance(prompt, str) and prompt.strip() and not same:
        shared = [{"role": "user", "content": prompt}]
    else:
        shared, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    if not shared or not chosen or not rejected or chosen == rejected:
        raise BadRowError("there is no prompt, or no difference between 'chosen' and 'rejected'")
    return Preference(shared, chosen, rejected)
