"""Prompts for reinforcement learning: texts to continue or messages to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...errors import ScratchError
from ..corpora import stories
from .conversations import MESSAGES, conversation_key, conversation_of, messages_of
from .corpus import Corpus, Origin, check_built_in_size
from .examples import example_hint
from .files import read_lines
from .finding import find_files
from .formats import BadRowError
from .tables import ReadOptions, cell, find_column, open_table, refuse_csv_options, text_cell

Prompt = str | list[dict[str, Any]]
COLUMNS = ("prompt", "text", "instruction", *MESSAGES)
INSTRUCTION = ("instruction", "output", "input")  # the columns of such a row
REPEATED, EMPTY = "a repeated prompt", "an empty line"


def open_prompts(
    dataset: str,
    options: ReadOptions | None = None,
    *,
    prompt_column: str | None = None,
    num_prompts: int = 2000,
    seed: int = 0,
) -> Corpus[Prompt]:
    """Open a prompt dataset. Repeated prompts are skipped and counted.

    Args:
        dataset: "stories" (first sentences of built-in stories that are not used for pre-training); a text file with
            one prompt per line, or a folder of such files; tables or the id of a Hub dataset, with a column `prompt`
            (text or a list of messages), `text`, `instruction`, `messages` or `conversations` (without the final
            assistant messages).
        options: how to read it.
        prompt_column: another column, or a nested field given by a dotted path.
        num_prompts, seed: size and seed of the built-in data.

    Raises:
        ScratchError: the dataset does not exist or has no prompts.
    """
    options = options or ReadOptions()
    if dataset == "stories":
        return _open_stories(num_prompts, seed, options)
    files = find_files(dataset, options.split, options.config, tables_only=prompt_column is not None)
    if files is not None and files.kind == "text":
        refuse_csv_options(options, files.name)
        origin = Origin.of_files(files, options.max_rows)
        return _without_repeats(origin, lambda: _lines(files.paths), lambda line: line, options)
    table = open_table(dataset, options, [prompt_column or "prompt"], "prompts")
    column = find_column(table, prompt_column, COLUMNS, "--prompt_column")
    if column is None:
        raise ScratchError(
            f"{table.name} has the columns {table.described()}, want one of {', '.join(map(repr, COLUMNS))}; or choose "
            f"one with --prompt_column; {example_hint('prompts')}"
        )
    origin = Origin.of_table(table, {"prompt": column}, options)
    read = INSTRUCTION if column == "instruction" else (column,)
    return _without_repeats(origin, table.reader(read), lambda row: _prompt_of(row, column), options)


def _open_stories(count: int, seed: int, options: ReadOptions) -> Corpus[Prompt]:
    check_built_in_size("num_prompts", count)
    fingerprint = f"prompts-{count}-{seed}-{options.max_rows}"
    origin = Origin("stories", lambda: fingerprint, built_in=True)
    return Corpus(origin, lambda: _first_sentences(count, seed), options=options)


def _without_repeats(
    origin: Origin, rows: Callable[[], Iterator[Any]], convert: Callable[[Any], Prompt], options: ReadOptions
) -> Corpus[Prompt]:
    """Return a corpus in which repeated prompts are skipped."""
    seen: set[str] = set()

    def read() -> Iterator[Any]:
        seen.clear()
        yield from rows()

    def convert_new(row: Any) -> Prompt:
        prompt = convert(row)
        key = prompt if isinstance(prompt, str) else conversation_key(prompt)
        if key in seen:
            raise BadRowError(REPEATED)
        seen.add(key)
        return prompt

    corpus: Corpus[Prompt] = Corpus(origin, read, convert_new, options)
    corpus.harmless = {REPEATED, EMPTY}
    return corpus


def _lines(paths: list[Any]) -> Iterator[Any]:
    for path in paths:
        for line in read_lines(path):
            yield line.strip() or BadRowError(EMPTY)


def _first_sentences(count: int, seed: int) -> Iterator[Prompt]:
    """Return up to `count` different first sentences of stories from a separate random stream."""
    found: dict[Prompt, None] = {}
    stream = f"prompts-{seed}"
    for index in range(20 * count):
        found[stories.sentences(stories.story(stream, index))[0]] = None
        if len(found) == count:
            break
    return iter(found)


def _prompt_of(row: dict[str, Any], column: str) -> Prompt:
    value = cell(row, column)
    if column == "instruction":
        return conversation_of(row, INSTRUCTION, with_answer=False)
    if column in MESSAGES or isinstance(value, list):
        return conversation_of({column: messages_of(value, column)}, (column,), with_answer=False)
    return text_cell(row, column)
