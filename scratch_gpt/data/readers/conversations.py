"""Conversations for supervised fine-tuning, from tables or the Hub, in the common formats.

A row has one of these formats:

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}     ShareGPT
    {"prompt": "…", "completion": "…"}                     each a text, or a list of messages
    {"question": "…", "answer": "…"}                       another name of the same
    {"instruction": "…", "input": "…", "output": "…"}      the input is optional and may be empty

Case and surrounding spaces of the names of columns do not matter. Messages may have the role "tool", and assistant
messages may have "tool_calls", as in the OpenAI API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...errors import ScratchError
from ..corpora import story_questions
from .corpus import Corpus, Origin, check_built_in_size
from .examples import example_hint
from .formats import BadRowError
from .tables import ReadOptions, Table, cell, check_text, check_unicode, find_column, open_table

ROLES = ("system", "user", "assistant", "tool")
ROLE_SYNONYMS = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
ROLE_SYNONYMS |= {"developer": "system", "observation": "tool", "function": "tool", "function_response": "tool"}
MESSAGES = ("messages", "conversations", "conversation")
COLUMN_PAIRS = (("prompt", "completion"), ("instruction", "output"), ("question", "answer"))

Message = dict[str, Any]  # "role", "content" (text) and, for tool calls of the assistant, "tool_calls"
Conversation = list[Message]


def open_conversations(
    dataset: str,
    options: ReadOptions | None = None,
    *,
    messages_column: str | None = None,
    num_questions: int = 40_000,
    seed: int = 0,
) -> Corpus[Conversation]:
    """Open a conversation dataset.

    Args:
        dataset: "questions" (built in, with the splits "train", "validation" and "test"); a table; a folder or a glob
            pattern of tables; or the id of a Hub dataset.
        options: how to read it.
        messages_column: the column with the list of messages, or a nested field such as "data.messages"; by default
            "messages" or "conversations".
        num_questions, seed: size and seed of the built-in data.

    Raises:
        ScratchError: the dataset does not exist or has no conversation columns.
    """
    options = options or ReadOptions()
    if dataset == "questions":
        return _open_questions(num_questions, seed, options)
    names = [messages_column] if messages_column else []
    table = open_table(dataset, options, names, "conversations")
    columns = find_conversation_columns(table, messages_column)
    origin = Origin.of_table(table, {name: name for name in columns}, options)
    return Corpus(origin, table.reader(columns), lambda row: conversation_of(row, columns), options)


def find_conversation_columns(table: Table, messages_column: str | None) -> tuple[str, ...]:
    """Return the columns that contain the conversations, by their names in the table: that of the messages; or those of
    the request, of the answer and, if there is one, of the input.

    Raises:
        ScratchError: there are no such columns.
    """
    if (column := find_column(table, messages_column, MESSAGES, "--messages_column")) is not None:
        return (column,)
    if (column := next(filter(None, (_spelling(table, name) for name in MESSAGES)), None)) is not None:
        return (column,)
    for pair in COLUMN_PAIRS:
        request, answer = (_spelling(table, name) for name in pair)
        if request is not None and answer is not None:
            extra = _spelling(table, "input") if pair[0] == "instruction" else None
            return (request, answer) if extra is None else (request, answer, extra)
    expected = "; or ".join(
        " and ".join(map(repr, names)) for names in [*((name,) for name in MESSAGES), *COLUMN_PAIRS]
    )
    hint = f"{example_hint('conversations')}; or rename the columns to prompt,completion"
    raise ScratchError(f"{table.name} has the columns {table.described()}, want {expected}; {hint}")


def _spelling(table: Table, name: str) -> str | None:
    """The column of this name, as the table spells it: as it is, or with other case or spaces around it; or None."""
    if table.has(name):
        return name
    return next((column for column in table.columns() if column.strip().lower() == name), None)


def _open_questions(count: int, seed: int, options: ReadOptions) -> Corpus[Conversation]:
    split = options.split
    if split not in story_questions.SPLITS:
        raise ScratchError(f"the built-in questions have the splits {', '.join(story_questions.SPLITS)}, not {split!r}")
    check_built_in_size("num_questions", count)

    def read() -> Iterator[Conversation]:
        for conversation in story_questions.questions(seed, count, split):
            messages: Conversation = []
            for question in conversation:
                context = f"{question.told} " if question.told and not messages else ""
                messages.append({"role": "user", "content": context + question.text})
                messages.append({"role": "assistant", "content": question.answer})
            yield messages

    origin = Origin("questions", lambda: f"questions-{split}-{count}-{seed}-{options.max_rows}", built_in=True)
    origin.split, origin.validation_split = split, "validation" if split != "validation" else None
    return Corpus(origin, read, options=options)


def conversation_of(
    row: dict[str, Any], columns: tuple[str, ...] | None = None, with_answer: bool = True
) -> Conversation:
    """Convert a row to messages.

    Args:
        row: the row.
        columns: the columns to read, as returned by `find_conversation_columns`; by default inferred from the row.
        with_answer: whether to keep assistant messages at the end; if False, they are removed.

    Raises:
        BadRowError: the row is not a valid conversation.
    """
    if columns is None:
        formats = [*((name,) for name in MESSAGES), *COLUMN_PAIRS]
        columns = next((names for names in formats if names[0] in row), (MESSAGES[0],))
        columns = (*columns, "input") if columns[0] == "instruction" else columns
    if len(columns) == 1:
        messages = messages_of(cell(row, columns[0]), columns[0])
    else:
        messages = _side(row.get(columns[0]), columns[0], "user")
        for name in columns[2:]:  # the input of an instruction
            if isinstance(extra := row.get(name), str) and extra.strip():
                messages[-1]["content"] += f"\n\n{check_text(extra, name)}"
        if with_answer:
            messages += _side(row.get(columns[1]), columns[1], "assistant")
    if not with_answer:
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages:
            raise BadRowError("the conversation has only assistant messages")
        return messages
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRowError("the conversation has no assistant message to train on")
    return messages


def messages_of(value: Any, column: str) -> Conversation:
    """Convert a value to messages: a list of messages, JSON text, or an object with lists of roles and contents.

    Raises:
        BadRowError: the value is not a valid list of messages.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRowError(f"{column!r} is text that is not a JSON list of messages") from None
    if isinstance(value, dict) and value and all(isinstance(part, list) for part in value.values()):
        value = [dict(zip(value, parts, strict=False)) for parts in zip(*value.values(), strict=False)]
    if not isinstance(value, list) or not value:
        raise BadRowError(f"{column!r} is {_type_name(value)}, want a list of messages")
    return [_message(message) for message in value]


def _message(message: Any) -> Message:
    if not isinstance(message, dict):
        raise BadRowError(f"a message is {_type_name(message)}, want an object with 'role' and 'content'")
    role = message.get("role") or message.get("from")
    content = message.get("content") if message.get("content") is not None else message.get("value")
    if role == "function_call":  # ShareGPT format
        return {"role": "assistant", "content": "", "tool_calls": _tool_calls(_parsed(content))}
    role = ROLE_SYNONYMS.get(role.lower(), role.lower()) if isinstance(role, str) else role
    if role not in ROLES:
        raise BadRowError(f"a message has the role {role!r:.40}, want one of {', '.join(ROLES)}")
    if isinstance(content, list):
        content = _joined(content)
    if role == "tool":  # the result of a tool may be empty, or an object
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        check_unicode(text, "content")
        return {"role": role, "content": text}
    if role == "assistant" and message.get("tool_calls"):
        calls = _tool_calls(message["tool_calls"])
        return {"role": role, "content": message_text(content, "content") if content else "", "tool_calls": calls}
    return {"role": role, "content": message_text(content, "content")}


def _joined(parts: list[Any]) -> str:
    """Join content that is a list of text parts."""
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise BadRowError("a message has parts that are not text, such as images")
    return "".join(texts)


def _tool_calls(value: Any) -> list[Message]:
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = (call.get("function") or call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRowError("a tool call has no name")
        arguments = function.get("arguments")
        if not isinstance(arguments, str):  # columnar formats store missing arguments as null
            arguments = {name: v for name, v in (arguments or {}).items() if v is not None}
        check_unicode(json.dumps([function["name"], arguments], ensure_ascii=False), "tool_calls")
        calls.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return calls


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise BadRowError("a tool call is not JSON") from None


def _side(value: Any, column: str, role: str) -> Conversation:
    if isinstance(value, list):
        return messages_of(value, column)
    return [{"role": role, "content": message_text(value, column)}]


def message_text(value: Any, column: str) -> str:
    """Return the text of a message.

    Raises:
        BadRowError: the value is not text, or is empty.
    """
    if value == [] or (isinstance(value, str) and not value.strip()):
        raise BadRowError(f"{column!r} is empty, want text")
    return check_text(value, column)


def _type_name(value: Any) -> str:
    if isinstance(value, str):
        return "text" if value.strip() else "empty"
    return "null" if value is None else "empty" if value == [] else type(value).__name__


def conversation_key(messages: Conversation) -> str:
    """Serialise a conversation to text; equal conversations have equal texts."""
    return json.dumps(messages, sort_keys=True, ensure_ascii=False)
