"""One way to name a text: a file, a folder, a table with a column, a Hub dataset, or the built-in stories.

A source is read as pieces, so that a file larger than memory passes through; the last piece of a document says so.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import ScratchError
from . import stories

TABLES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
PIECE_CHARACTERS, MOST_BLOCKS = 1 << 16, 4
VALIDATION_NAMES = ("validation", "valid", "val", "dev")  # of splits, as folders have them


class Piece(NamedTuple):
    """A stretch of text; documents are cut at white space, or after many characters without any."""

    text: str
    ends_document: bool


class Source(ABC):
    """Texts, in an order that never changes."""

    name: str

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """The texts from the beginning, piece by piece."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the texts do."""

    def expected_characters(self) -> float | None:
        """About how much text there is, for a progress bar; None where nobody knows before the end."""
        return None

    def documents(self) -> Iterator[str]:
        """The texts, cut where a document is too long to be held comfortably: what a tokenizer is trained on."""
        return (piece.text for piece in self.pieces() if piece.text)


class StorySource(Source):
    """The built-in stories, a document each."""

    def __init__(self, count: int, seed: int):
        if count < 2:
            raise ScratchError(f"num_stories is {count}: ask for at least 2")
        self.name, self.count, self.seed = "stories", count, seed

    def pieces(self) -> Iterator[Piece]:
        return (Piece(text, True) for text in stories.stories(self.seed, self.count))

    def documents(self) -> Iterator[str]:
        return stories.stories(self.seed, min(self.count, 5_000))  # more of them teach a tokenizer nothing

    def fingerprint(self) -> str:
        return f"stories-{self.count}-{self.seed}-{stories.entropy_per_story()}"

    def expected_characters(self) -> float | None:
        return self.count * stories.characters_per_story()


class FileSource(Source):
    """Text files, plain or gzipped, a document each."""

    def __init__(self, paths: list[Path], name: str):
        self.paths, self.name = paths, name

    def pieces(self) -> Iterator[Piece]:
        for path in self.paths:
            yield from _read_pieces(path)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def expected_characters(self) -> float | None:
        return float(sum(path.stat().st_size for path in self.paths if path.suffix != ".gz")) or None


class TableSource(Source):
    """A column of a table: JSONL, JSON, CSV, TSV or Parquet files, or a dataset of the Hub; a document each row.
    Empty rows are passed over."""

    def __init__(self, dataset, column: str | None, name: str, fingerprint: str, limit: int | None = None):
        self.dataset, self.name, self._fingerprint, self.limit = dataset, name, fingerprint, limit
        self.column = pick_text_column(dataset, column, name)

    def pieces(self) -> Iterator[Piece]:
        for number, row in enumerate(islice(rows_of(self.dataset, self.name), self.limit)):
            text = row[self.column]
            if not isinstance(text, str):
                raise ScratchError(
                    f"{self.name}: row {number} of column {self.column!r} holds {type(text).__name__}, want text: "
                    "choose another --text_column or clean the row"
                )
            if text:
                yield Piece(text, True)

    def fingerprint(self) -> str:
        return f"{self._fingerprint}-{self.column}-{self.limit}"


def open_source(
    dataset: str,
    *,
    text_column: str | None = None,
    config: str | None = None,
    split: str = "train",
    streaming: bool = False,
    max_documents: int | None = None,
    num_stories: int = 20_000,
    seed: int = 0,
) -> Source:
    """Open what `dataset` names.

    Args:
        dataset: "stories"; a text file (also .gz); a folder of .txt files or of tables; a .jsonl, .json, .csv, .tsv
            or .parquet file; or the id of a dataset on the Hub.
        text_column: the column of a table that holds the text; by default "text", or the only one with text.
        config, split, streaming: of a Hub dataset. A streamed one is read as it comes, and never stored.
        max_documents: read only so many rows of a table or a Hub dataset.
        num_stories, seed: of the built-in stories.

    Raises:
        ScratchError: nothing of that name, nothing in it, or no such column.
    """
    if dataset == "stories":
        return StorySource(num_stories, seed)
    path = Path(dataset)
    if path.is_dir():
        return _open_folder(path, text_column, max_documents)
    if path.is_file():
        _check_filled(path)
        if kind_of(path) in TABLES:
            return _open_table([path], text_column, max_documents)
        return FileSource([path], path.name)
    if kind_of(path) in (".txt", *TABLES) or path.is_absolute() or dataset.startswith(".") or dataset.count("/") > 1:
        raise ScratchError(f"no such file or folder: {dataset}")
    rows, revision = load_hub(dataset, config, split, streaming)
    return TableSource(rows, text_column, dataset, f"{dataset}-{config}-{split}-{revision}", max_documents)


def kind_of(path: Path) -> str:
    """The suffix that tells what a file holds, compressed or not."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _open_folder(folder: Path, text_column: str | None, limit: int | None) -> Source:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    texts = [p for p in files if p.name.endswith((".txt", ".txt.gz")) and p.stat().st_size]
    if texts:
        return FileSource(texts, folder.name)
    for suffix in TABLES:
        tables = [p for p in files if kind_of(p) == suffix and p.stat().st_size]
        if tables:
            return _open_table(tables, text_column, limit)
    raise ScratchError(f"{folder} holds no .txt, .txt.gz, {', '.join(TABLES)} file with text in it")


def rows_of(dataset: Any, name: str) -> Iterator[dict]:
    """The rows of a table.

    Raises:
        ScratchError: it can't be read to the end.
    """
    try:
        yield from dataset
    except Exception as error:  # datasets raises whatever its readers raise
        raise ScratchError(f"{name} can't be read to the end: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return next(iter(str(cause).splitlines()), type(cause).__name__)


def tables_of(folder: Path, split: str) -> list[Path]:
    """The tables of a folder that hold a split, such as `train.csv` or `train.0.jsonl`."""
    return [p for p in sorted(folder.iterdir()) if kind_of(p) in TABLES and p.name.split(".")[0] == split]


def open_rows(dataset: str, config: str | None, split: str, kind: str) -> tuple[str, Any]:
    """The name and the rows of a table, of the tables of a folder that hold a split, or of a Hub dataset.

    Args:
        kind: what the rows are, for errors, such as "conversations".

    Raises:
        ScratchError: there is no such thing, or no row in it.
    """
    path = Path(dataset)
    if path.is_dir():
        if not (tables := tables_of(path, split)):
            there = ", ".join(sorted(p.name for p in path.iterdir())[:12]) or "no files"
            raise ScratchError(f"{path} holds no table of the split {split!r}, such as {split}.jsonl: it has {there}")
        rows, name = load_table(tables), path.name
    elif path.is_file():
        if kind_of(path) not in TABLES:
            raise ScratchError(f"{path} is no table: {kind} stand in a {', '.join(TABLES)} file")
        rows, name = load_table([path]), path.name
    elif kind_of(path) in (".txt", *TABLES) or path.is_absolute() or dataset.startswith("."):
        raise ScratchError(f"no such file or folder: {dataset}")
    else:
        rows, name = load_hub(dataset, config, split)[0], dataset
    if next(iter(rows), None) is None:
        raise ScratchError(f"{name} holds no rows")
    return name, rows


def load_table(paths: list[Path]) -> Any:
    """The rows of JSONL, JSON, CSV, TSV or Parquet files of one kind, read as they come.

    A CSV or TSV file whose first line has a number in it has no line of names; its columns are "column_1" and so on.

    Raises:
        ScratchError: they are malformed, or one of them is empty.
    """
    import datasets

    for path in paths:
        _check_filled(path)
    kind = kind_of(paths[0])
    try:
        options = _csv_options(paths[0], kind) if TABLES[kind] == "csv" else {}
        dataset = datasets.load_dataset(
            TABLES[kind], data_files=[str(p) for p in paths], split="train", streaming=True, **options
        )
        next(iter(dataset), None)  # a malformed file fails here, not in the middle
    except Exception as error:
        raise ScratchError(f"{paths[0]} can't be read as {kind[1:]}: {_first_line(error)}") from error
    return dataset


def _check_filled(path: Path) -> None:
    if path.stat().st_size == 0:
        raise ScratchError(f"{path} is empty: give a file with text in it")


def _csv_options(path: Path, kind: str) -> dict[str, Any]:
    """How pandas is to read a CSV or TSV file: "null" and "NA" are words here."""
    delimiter = "\t" if kind == ".tsv" else ","
    with open_text(path, newline="") as file:
        first = next(csv.reader(file, delimiter=delimiter), [])
    names = [f"column_{i + 1}" for i in range(len(first))] if any(map(_is_number, first)) else None
    return {"delimiter": delimiter, "keep_default_na": False, "column_names": names}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def load_hub(name: str, config: str | None, split: str, streaming: bool = False) -> tuple[Any, str]:
    """The rows of a split of a Hub dataset, and what tells its version from others.

    Raises:
        ScratchError: it can't be opened.
    """
    import datasets
    from huggingface_hub import HfApi

    try:
        dataset = datasets.load_dataset(name, config, split=split, streaming=streaming)
        revision = HfApi().dataset_info(name).sha if streaming else dataset._fingerprint
    except Exception as error:
        raise ScratchError(
            f"{name!r} is no file or folder here, and the Hub dataset can't be opened: {_first_line(error)}"
        ) from error
    return dataset, str(revision)


def _open_table(paths: list[Path], text_column: str | None, limit: int | None) -> Source:
    fingerprint = FileSource(paths, "").fingerprint()
    return TableSource(load_table(paths), text_column, paths[0].name, fingerprint, limit)


def pick_text_column(dataset: Any, column: str | None, name: str) -> str:
    """The column that was asked for, or else "text", "sentence", or the only one with text.

    Raises:
        ScratchError: there is no such column, or no row.
    """
    first = next(iter(dataset), None)
    if first is None:
        raise ScratchError(f"{name} holds no rows")
    if column is not None:
        if column not in first:
            raise ScratchError(f"{name} has no column {column!r}: it has {', '.join(map(repr, first))}")
        return column
    texts = [key for key, value in first.items() if isinstance(value, str)]
    usual = [key for key in ("text", "sentence") if key in texts]
    if usual or len(texts) == 1:
        return (usual or texts)[0]
    raise ScratchError(f"{name} has the columns {', '.join(map(repr, first))}: choose one with --text_column")


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """A text file, plain or gzipped, open for reading, with line ends as Python's `open` has them.

    Raises:
        ScratchError: while it is read, it turns out to be no UTF-8 text, or broken.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise ScratchError(
            f"{path} is not UTF-8 text: {error.reason} (byte {error.object[error.start]:#x}); convert it first, for "
            "example with iconv"
        ) from error
    except (OSError, EOFError) as error:
        raise ScratchError(f"{path} can't be read: {error}") from error


def _read_pieces(path: Path) -> Iterator[Piece]:
    """A file in stretches that end before white space or, where there is none, when they are long; the last one is
    marked."""
    held: list[str] = []
    with open_text(path) as file:
        while block := file.read(PIECE_CHARACTERS):
            cut = max(block.rfind(" "), block.rfind("\n"))
            if cut > 0 or (cut == 0 and held):
                yield Piece("".join([*held, block[:cut]]), False)
                held = [block[cut:]]
            else:
                held.append(block)
                if len(held) == MOST_BLOCKS:
                    yield Piece("".join(held), False)
                    held = []
    yield Piece("".join(held), True)
