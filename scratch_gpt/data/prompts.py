"""Beginnings to go on with, or messages to answer: what a policy is asked while it learns from rewards."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ScratchError
from . import stories
from .conversations import conversation_of
from .sources import TABLES, kind_of, open_rows, open_text, rows_of

Prompt = str | list[dict[str, str]]
COLUMNS = ("prompt", "text", "instruction", "messages")


def open_prompts(
    dataset: str,
    *,
    config: str | None = None,
    split: str = "train",
    max_rows: int | None = None,
    num_prompts: int = 2000,
    seed: int = 0,
) -> tuple[str, list[Prompt]]:
    """The name of a set of prompts and the prompts, none of them twice.

    Args:
        dataset: "stories", first sentences of built-in stories, of a stream of their own; a text file with a prompt a
            line; a table (.json, .jsonl, .csv, .tsv, .parquet), a folder of tables, or the id of a Hub dataset, with a
            column `prompt` (a text, or a list of messages), `text`, `instruction` or `messages` (up to the last answer
            of the assistant).
        config, split: of a Hub dataset or, the latter, of a folder.
        max_rows: read only so many.
        num_prompts, seed: of the built-in ones.

    Raises:
        ScratchError: nothing of that name, or no prompts in it.
    """
    path, prompts = Path(dataset), list[Prompt]()
    if dataset == "stories":
        if num_prompts < 1:
            raise ScratchError(f"num_prompts is {num_prompts}, want at least 1")
        name, prompts = dataset, _beginnings(num_prompts, seed)[:max_rows]
    elif path.is_file() and kind_of(path) not in TABLES:
        with open_text(path) as file:
            name, prompts = path.name, list(islice((line.strip() for line in file if line.strip()), max_rows))
    else:
        name, rows = open_rows(dataset, config, split, "prompts")
        prompts = [_prompt_of(row, number, name) for number, row in enumerate(islice(rows_of(rows, name), max_rows))]
    unique = list({str(prompt): prompt for prompt in prompts}.values())
    if not unique:
        raise ScratchError(f"{name} holds no prompts")
    return name, unique


def _beginnings(count: int, seed: int) -> list[Prompt]:
    """First sentences of stories, from a stream of their own; so many different ones."""
    found: dict[Prompt, None] = {}
    stream = f"prompts-{seed}"
    for index in range(20 * count):
        found[stories.sentences(stories.story(stream, index))[0]] = None
        if len(found) == count:
            break
    return list(found)


def _prompt_of(row: dict[str, Any], number: int, name: str) -> Prompt:
    column = next((column for column in COLUMNS if column in row), None)
    if column is None:
        there, wanted = (", ".join(map(repr, names)) for names in (row, COLUMNS))
        raise ScratchError(f"{name} has the columns {there}, want one of {wanted}")
    value = row[column]
    if column == "instruction" or isinstance(value, list):
        try:
            talk = conversation_of(row if column == "instruction" else {"messages": value}, answered=False)
        except ValueError as error:
            raise ScratchError(f"{name}: row {number} {error}: mend or remove it") from error
        return talk
    if not isinstance(value, str) or not value.strip():
        raise ScratchError(f"{name}: row {number} of column {column!r} holds {value!r:.40}, want text or messages")
    return value
