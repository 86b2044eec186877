"""Conversations to learn from: who says what, from a table, a folder of tables or the Hub, in the usual shapes.

A row is one of

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}                     each a text, or a list of messages
    {"instruction": "…", "input": "…", "output": "…"}      the input may be empty, or left out
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from ..errors import ScratchError
from . import questions
from .sources import open_rows, rows_of

ROLES = ("system", "user", "assistant")
SHAPES = (("messages",), ("prompt", "completion"), ("instruction", "output"))

T = TypeVar("T")
Message = dict[str, str]  # "role" and "content"
Conversation = list[Message]


@dataclass
class ConversationSource:
    """Conversations, in an order that never changes.

    Attributes:
        name: what the corpus is called.
        read: a fresh iterator over all conversations.
    """

    name: str
    read: Callable[[], Iterator[Conversation]]


def open_conversations(
    dataset: str,
    *,
    config: str | None = None,
    split: str = "train",
    max_rows: int | None = None,
    num_questions: int = 40_000,
    seed: int = 0,
) -> ConversationSource:
    """Open what `dataset` names.

    Args:
        dataset: "questions" (the built-in set, whose splits are "train", "validation" and "test"); a .json, .jsonl,
            .csv, .tsv or .parquet file; a folder of such files, named by their split; or the id of a Hub dataset.
        config, split: of a Hub dataset or, the latter, of a folder.
        max_rows: read only so many.
        num_questions, seed: of the built-in set.

    Raises:
        ScratchError: nothing of that name, or no conversations in it.
    """
    if dataset == "questions":
        return _open_questions(num_questions, seed, split)
    name, rows = open_rows(dataset, config, split, "conversations")
    first = next(iter(rows))
    shape = next((shape for shape in SHAPES if all(column in first for column in shape)), None)
    if shape is None:
        wanted = "; or ".join(" and ".join(map(repr, shape)) for shape in SHAPES)
        raise ScratchError(f"{name} has the columns {', '.join(map(repr, first))}, want {wanted}")

    def read() -> Iterator[Conversation]:
        for number, row in enumerate(islice(rows_of(rows, name), max_rows)):
            try:
                yield conversation_of(row)
            except ValueError as error:
                raise ScratchError(f"{name}: row {number} {error}: mend or remove it") from error

    return ConversationSource(name, read)


def _open_questions(count: int, seed: int, split: str) -> ConversationSource:
    if split not in questions.SPLITS:
        raise ScratchError(f"the built-in questions have the splits {', '.join(questions.SPLITS)}, not {split!r}")
    if count < 1:
        raise ScratchError(f"num_questions is {count}, want at least 1")

    def read() -> Iterator[Conversation]:
        for talk in questions.questions(seed, count, split):
            messages: Conversation = []
            for question in talk:
                told = f"{question.told} " if question.told and not messages else ""
                messages.append({"role": "user", "content": told + question.text})
                messages.append({"role": "assistant", "content": question.answer})
            yield messages

    return ConversationSource("questions", read)


def conversation_of(row: dict[str, Any], answered: bool = True) -> Conversation:
    """The messages of a row of any known shape.

    Args:
        answered: whether to take answers with the questions; else the conversation ends before the last answer.

    Raises:
        ValueError: it holds no conversation, and why.
    """
    if "messages" in row:
        messages = _messages(row["messages"], "messages")
    elif "prompt" in row:
        messages = [*_side(row["prompt"], "prompt", "user"), *_side(row["completion"], "completion", "assistant")]
    else:
        more = row.get("input") or ""
        asked = _text(row["instruction"], "instruction") + (f"\n\n{_text(more, 'input')}" if more else "")
        messages = [{"role": "user", "content": asked}]
        if answered:
            messages.append({"role": "assistant", "content": _text(row["output"], "output")})
    if not answered:
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages:
            raise ValueError("asks for nothing")
        return messages
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("has no answer of an assistant, and so nothing to learn")
    return messages


def _messages(value: Any, column: str) -> Conversation:
    if not isinstance(value, list) or not value:
        raise ValueError(f"has {_seen(value)} as {column!r}, want a list of messages")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            raise ValueError(f"has a message of {role!r}, want 'role' to be one of {', '.join(ROLES)}")
        _text(message.get("content"), "content")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _side(value: Any, column: str, role: str) -> Conversation:
    return _messages(value, column) if isinstance(value, list) else [{"role": role, "content": _text(value, column)}]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"has {_seen(value)} as {column!r}, want text")
    return value


def _seen(value: Any) -> str:
    return "nothing" if value is None or value == "" or value == [] else f"{type(value).__name__} {value!r:.40}"


def split_conversations(conversations: list[T], fractions: dict[str, float], seed: int) -> dict[str, list[T]]:
    """Deal conversations, or pairs of answers, out at random: to each name its share, and what is left to "train".

    Args:
        fractions: by name, such as {"validation": 0.05, "test": 0.1}.
        seed: of the order; the same seed gives the same split.
    """
    order = np.random.default_rng((seed, len(conversations))).permutation(len(conversations))
    parts, at = {}, 0
    for name, fraction in fractions.items():
        count = round(fraction * len(conversations))
        parts[name] = [conversations[i] for i in sorted(order[at : at + count])]
        at += count
    return {"train": [conversations[i] for i in sorted(order[at:])], **parts}
