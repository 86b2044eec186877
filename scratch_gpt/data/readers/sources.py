"""Text sources for language modelling: a file, a folder, a column of a table, a Hub dataset, or the built-in stories.

Documents are streamed in pieces, so that a file can be larger than memory; the last piece of each document is marked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..corpora import stories
from .corpus import MAX_STORIES, Corpus, Origin, ReadCount, check_built_in_size
from .files import open_text
from .finding import Files, find_files
from .formats import BadRowError
from .tables import ReadOptions, Table, cell, check_text, find_text_column, open_hub, refuse_csv_options, table_of

BLOCK_CHARACTERS, MAX_BLOCKS = 1 << 16, 4
EMPTY = "an empty document"


class Piece(NamedTuple):
    """A part of a document. Documents are split before white space, or after many characters without white space."""

    text: str
    ends_document: bool


class Source(ABC):
    """Documents, in a fixed order.

    Attributes:
        origin: where they come from.
        max_bad_rows: largest fraction of rows that may be skipped because they can't be used.
    """

    origin: Origin
    max_bad_rows: float = 0.1

    @property
    def name(self) -> str:
        """Display name of the dataset."""
        return self.origin.name

    @property
    @abstractmethod
    def count(self) -> ReadCount:
        """Number of documents read and skipped in the last pass."""

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """Iterate over the pieces of all documents, from the beginning."""

    def has_one_document(self) -> bool:
        """Whether there is exactly one document, as far as that is known without reading."""
        return False

    def fingerprint(self) -> str:
        """Return a hash that changes whenever the texts change."""
        return self.origin.fingerprint()

    def expected_characters(self) -> float | None:
        """Estimate the number of characters, for a progress bar; None if it is unknown."""
        return None

    def documents(self) -> Iterator[str]:
        """Iterate over the texts to train a tokenizer on; long documents are split into pieces."""
        return (piece.text for piece in self.pieces() if piece.text)


class StorySource(Source):
    """The built-in stories, one document per story."""

    def __init__(self, count: int, seed: int):
        check_built_in_size("num_stories", count, minimum=2, maximum=MAX_STORIES)
        self.number, self.seed = count, seed
        fingerprint = f"stories-{count}-{seed}-{stories.entropy_per_story()}"
        self.origin = Origin("stories", lambda: fingerprint, built_in=True)

    @property
    def count(self) -> ReadCount:
        """Number of documents read and skipped in the last pass."""
        return ReadCount(self.number)

    def pieces(self) -> Iterator[Piece]:
        """Iterate over the pieces of all documents, from the beginning."""
        return (Piece(text, True) for text in stories.stories(self.seed, self.number))

    def documents(self) -> Iterator[str]:
        """Iterate over the first 5,000 stories, which are enough to train a tokenizer."""
        return stories.stories(self.seed, min(self.number, 5_000))

    def expected_characters(self) -> float | None:
        """Estimate the number of characters, for a progress bar."""
        return self.number * stories.characters_per_story()


class FileSource(Source):
    """Text files, plain or compressed, one document per file."""

    def __init__(self, files: Files, options: ReadOptions):
        self.paths = files.paths[: options.max_rows]
        rest = {str(path): "after max_documents" for path in files.paths[len(self.paths) :]}
        self.origin = Origin.of_files(replace(files, paths=self.paths, ignored=files.ignored | rest))

    @property
    def count(self) -> ReadCount:
        """Number of documents read and skipped in the last pass."""
        return ReadCount(len(self.paths))

    def has_one_document(self) -> bool:
        """Whether there is exactly one file."""
        return len(self.paths) == 1

    def pieces(self) -> Iterator[Piece]:
        """Iterate over the pieces of all documents, from the beginning."""
        for path in self.paths:
            yield from _read_pieces(path)

    def expected_characters(self) -> float | None:
        """Estimate the number of characters, for a progress bar."""
        plain = [path.stat().st_size for path in self.paths if path.suffix.lower() in (".txt", ".md", ".text", "")]
        return float(sum(plain)) or None


class TableSource(Source):
    """A text column of a table or Hub dataset, one document per row. Empty documents are skipped and counted."""

    def __init__(self, table: Table, column: str | None, options: ReadOptions):
        self.column = find_text_column(table, column)
        self.origin = Origin.of_table(table, {"text": self.column}, options)
        self.max_bad_rows = options.max_bad_rows
        self.corpus = Corpus(self.origin, table.reader([self.column]), self._document, options)
        self.corpus.harmless = {EMPTY}

    def _document(self, row: dict) -> str:
        text = check_text(cell(row, self.column), self.column)
        if not text:
            raise BadRowError(EMPTY)
        return text

    @property
    def count(self) -> ReadCount:
        """Number of documents read and skipped in the last pass."""
        return self.corpus.count

    def pieces(self) -> Iterator[Piece]:
        """Iterate over the pieces of all documents, from the beginning."""
        return (Piece(text, True) for text in self.corpus.read())


def open_source(
    dataset: str,
    options: ReadOptions | None = None,
    *,
    text_column: str | None = None,
    num_stories: int = 20_000,
    seed: int = 0,
) -> Source:
    """Open a text dataset.

    Args:
        dataset: "stories"; a text file, plain or compressed; a table (.jsonl, .json, .csv, .tsv, .parquet, .arrow); a
            folder or a glob pattern of such files; or the id of a Hub dataset.
        options: how to read it.
        text_column: the column of a table that contains the text, or a nested field such as "meta.body"; by default
            "text", "sentence", or the only text column.
        num_stories, seed: size and seed of the built-in stories.

    Raises:
        ScratchError: the dataset or the column does not exist, or the dataset is empty.
    """
    options = options or ReadOptions()
    if dataset == "stories":
        return StorySource(min(num_stories, options.max_rows or num_stories), seed)
    files = find_files(dataset, options.split, options.config, tables_only=text_column is not None)
    if files is not None and files.kind == "text":
        refuse_csv_options(options, files.name)
        return FileSource(files, options)
    names = [text_column] if text_column else []
    table = open_hub(dataset, options, names) if files is None else table_of(files, options, names)
    return TableSource(table, text_column, options)


def _read_pieces(path: Path) -> Iterator[Piece]:
    """Iterate over the pieces of a file. A piece ends before white space, or after `MAX_BLOCKS` blocks without any."""
    pending: list[str] = []
    with open_text(path) as file:
        while block := file.read(BLOCK_CHARACTERS):
            cut = max(block.rfind(" "), block.rfind("\n"))
            if cut > 0 or (cut == 0 and pending):
                yield Piece("".join([*pending, block[:cut]]), False)
                pending = [block[cut:]]
            else:
                pending.append(block)
                if len(pending) == MAX_BLOCKS:
                    yield Piece("".join(pending), False)
                    pending = []
    yield Piece("".join(pending), True)
