"""Stream the rows of tables: CSV, TSV, JSON, JSON Lines, Parquet and Arrow files, and Hub datasets.

Text is never converted to other types: "007", "1998-05-03" and "NA" remain strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import ScratchError
from ...not_found import why_not_found
from .delimited import Dialect, Quoting, find_dialect, is_number
from .examples import example_hint
from .finding import Files, find_files
from .formats import BadRowError, arrow_rows, delimited_rows, fingerprint_of_files, json_rows, read_columns, schema_of
from .split_files import canonical_split

SAMPLE_ROWS = 1000  # maximum number of rows that are inspected to find the columns
SAMPLE_CHARACTERS = 1 << 22  # approximate maximum number of characters in them
TEXT_COLUMNS = ("text", "sentence")


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a dataset, shared by all tasks.

    Attributes:
        split: split of a folder or a Hub dataset.
        config: configuration of a Hub dataset, or of a local clone of one.
        max_rows: maximum number of rows to read; None reads all.
        streaming: stream a Hub dataset instead of downloading it first.
        delimiter, header, quoting: format of CSV and TSV files; None detects it.
        max_bad_rows: largest fraction of rows that may be skipped because they can't be used.
    """

    split: str = "train"
    config: str | None = None
    max_rows: int | None = None
    streaming: bool = False
    delimiter: str | None = None
    header: bool | None = None
    quoting: Quoting | None = None
    max_bad_rows: float = 0.1


class Table:
    """The rows of one split, as dictionaries. A row that can't be read is yielded as a `BadRowError`.

    Attributes:
        name: display name of the dataset.
        split: the split; None if the files have no split names.
        files: paths of the files, or the id of a Hub dataset.
        ignored: reason by path, for the files of the same folder that are not read.
        validation_split: name of the validation split of the same dataset, if there is one.
        dialect: format of CSV and TSV files; None for other formats.
        named_by_row: whether each row has its own column names, as in JSON, so that later rows may have other columns.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Collection[str] | None], Iterator[Any]],
        fingerprint: Callable[[], str],
        files: list[str],
        split: str | None = None,
        ignored: dict[str, str] | None = None,
        validation_split: str | None = None,
        dialect: Dialect | None = None,
        features: Any = None,
        named_by_row: bool = False,
    ):
        self.name, self.split, self.files, self.ignored = name, split, files, ignored or {}
        self.validation_split, self.dialect, self.named_by_row = validation_split, dialect, named_by_row
        self._read, self._fingerprint, self._features = read, fingerprint, features or {}
        self._sample: list[dict[str, Any]] | None = None
        self._names: set[str] | None = None

    def rows(self, columns: Collection[str] | None = None) -> Iterator[dict[str, Any] | BadRowError]:
        """Iterate over all rows.

        Columns of images, audio and the like are never decoded, because decoding opens the paths and URLs in their
        cells: each cell is `formats.UNDECODED`.

        Args:
            columns: names of columns, or of nested fields, to read; columnar formats then yield no others. None reads
                all.

        Raises:
            ScratchError: reading fails before the end.
        """
        if columns is not None:
            columns = {part for name in columns for part in (name, name.split(".")[0])}
        try:
            yield from self._read(columns)
        except (ScratchError, GeneratorExit):
            raise
        except Exception as error:  # pyarrow and datasets raise various classes
            raise ScratchError(f"{self.name} can't be read completely: {_first_line(error)}") from error

    def reader(self, columns: Iterable[str]) -> Callable[[], Iterator[dict[str, Any] | BadRowError]]:
        """Return a function that iterates over all rows, with at least these columns; see `rows`."""
        names = list(columns)
        return lambda: self.rows(names)

    def fingerprint(self) -> str:
        """Return a hash that changes whenever the rows change."""
        return self._fingerprint()

    def sample(self) -> list[dict[str, Any]]:
        """Return the readable rows among the first ones, at most `SAMPLE_ROWS`.

        Raises:
            ScratchError: none of them can be read.
        """
        if self._sample is None:
            rows, characters = [], 0
            for row in islice(self.rows(), SAMPLE_ROWS):
                rows.append(row)
                if isinstance(row, dict):
                    characters += sum(len(value) for value in row.values() if isinstance(value, str))
                if characters > SAMPLE_CHARACTERS:  # the sample is kept in memory
                    break
            self._sample = [row for row in rows if not isinstance(row, BadRowError)]
            if not self._sample:
                raise ScratchError(f"{self.name} has no rows" + (f" that can be read: {rows[0]}" if rows else ""))
        return self._sample

    def columns(self) -> list[str]:
        """Return the column names of the sample, in order."""
        return list(dict.fromkeys(name for row in self.sample() for name in row))

    def has(self, name: str) -> bool:
        """Whether any row has this column, or nested field given by a dotted path. Rows after the sample are searched
        only if each row has its own column names."""
        if any(_has_field(row, name) for row in self.sample()):
            return True
        if not self.named_by_row:
            return False
        if self._names is None:
            self._names = {key for row in self.rows() if not isinstance(row, BadRowError) for key in row}
        if name in self._names or name.split(".")[0] not in self._names:
            return name in self._names
        return any(not isinstance(row, BadRowError) and _has_field(row, name) for row in self.rows())

    def text_columns(self) -> list[str]:
        """Return the columns whose values in the sample are strings and not all numeric."""
        found = []
        for name in self.columns():
            values = [value for row in self.sample() if (value := row.get(name)) not in (None, "")]
            texts = [value for value in values if isinstance(value, str)]
            if values and len(texts) == len(values) and not all(map(is_number, texts)):
                found.append(name)
        return found

    def class_names(self, column: str) -> list[str] | None:
        """Return the class names of a `datasets.ClassLabel` column, in order; None for other columns."""
        names = getattr(self._features.get(column), "names", None)
        return list(names) if names else None

    def described(self) -> str:
        """Return the column names as text, for error messages."""
        return ", ".join(map(repr, self.columns()))


def cell(row: dict[str, Any], name: str, default: Any = None) -> Any:
    """Return the value of a column, or of a nested field given by a dotted path such as "meta.body"; `default` if there
    is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value


def check_text(value: Any, name: str) -> str:
    """Return a value that is text, which may be empty.

    Raises:
        BadRowError: the value is not text, or has a lone surrogate.
    """
    if not isinstance(value, str):
        raise BadRowError(f"{name!r} is {'null' if value is None else type(value).__name__}, want text")
    check_unicode(value, name)
    return value


def text_cell(row: dict[str, Any], name: str) -> str:
    """Return the text of a column or nested field.

    Raises:
        BadRowError: the value is not text, is empty, or has a lone surrogate.
    """
    text = check_text(cell(row, name), name)
    if not text.strip():
        raise BadRowError(f"{name!r} is empty")
    return text


def find_column(table: Table, requested: str | None, defaults: Sequence[str], flag: str) -> str | None:
    """Return the requested column, or the first of the default columns that exists; None if none exists.

    Args:
        table: the table to search.
        requested: the requested column; None searches for the default columns.
        defaults: default column names, in order of preference.
        flag: command-line option that sets the column, for the error message.

    Raises:
        ScratchError: the requested column does not exist.
    """
    if requested is not None:
        if not table.has(requested):
            raise ScratchError(
                f"{table.name} has no column {requested!r}: it has {table.described()}; choose one with {flag}"
            )
        return requested
    return next((name for name in defaults if name in table.columns()), None) or next(filter(table.has, defaults), None)


def find_text_column(table: Table, requested: str | None, label_column: str | None = None) -> str:
    """Return the text column: the requested one, else "text" or "sentence", else the only text column other than the
    label, which a task without labels calls None. In CSV files without a header, it has the most different values.

    Raises:
        ScratchError: the requested column does not exist, or the choice is ambiguous.
    """
    if (found := find_column(table, requested, TEXT_COLUMNS, "--text_column")) is not None:
        return found
    texts = [name for name in table.text_columns() if name != (label_column or "label")]
    if len(texts) == 1:
        return texts[0]
    if texts and table.dialect is not None and not table.dialect.header:
        values = {name: [row.get(name) or "" for row in table.sample()] for name in texts}
        return max(texts, key=lambda name: (len(set(values[name])), sum(map(len, values[name]))))
    advice = "choose one with" if texts else "none has text, a field inside one is named by"
    hint = f"{advice} --text_column; {example_hint('labelled' if label_column else 'text')}"
    raise ScratchError(f"{table.name} has the columns {table.described()}: {hint}")


def check_unicode(text: str, name: str) -> None:
    """Raise BadRowError if a text has a lone surrogate, which can't be encoded as UTF-8."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRowError(f"{name!r} is broken Unicode (a lone surrogate)") from None


def open_table(dataset: str, options: ReadOptions, known_names: Iterable[str] = (), kind: str = "rows") -> Table:
    """Open a dataset as one table.

    Args:
        dataset: a file, a glob pattern, a folder, or the id of a Hub dataset.
        options: how to read it.
        known_names: requested columns, used to detect the header of CSV and TSV files.
        kind: what the rows contain, for error messages.

    Raises:
        ScratchError: the dataset does not exist, can't be read, or has no rows.
    """
    files = find_files(dataset, options.split, options.config, tables_only=True)
    table = open_hub(dataset, options, known_names) if files is None else table_of(files, options, known_names)
    try:
        table.sample()
    except ScratchError as error:
        raise ScratchError(f"{error} (want {kind})") from error
    return table


def refuse_csv_options(options: ReadOptions, name: str) -> None:
    """Raise ScratchError if options for CSV and TSV files are set; called for data in other formats."""
    if given := [n for n in ("delimiter", "header", "quoting") if getattr(options, n) is not None]:
        raise ScratchError(f"{', '.join(given)} can't be used with {name}, which is not a CSV or TSV file")


def table_of(files: Files, options: ReadOptions, known_names: Iterable[str] = ()) -> Table:
    """Open local files as one table; see `open_table`.

    Raises:
        ScratchError: the files can't be read, or CSV options are given for files of another format.
    """
    if files.kind != "csv":
        refuse_csv_options(options, files.name)
    dialects: dict[Path, Dialect] = {}
    if files.kind == "csv":
        format_options = options.delimiter, options.header, options.quoting
        for path in files.paths:
            dialects[path] = find_dialect(path, known_names, *format_options)
            # All files have the header, or none, as the first one does.
            format_options = options.delimiter, dialects[path].header, options.quoting

    try:
        features = schema_of(files.paths[0])[1] if files.kind in ("parquet", "arrow") else None
    except Exception as error:  # pyarrow raises various classes
        raise ScratchError(f"{files.paths[0]} can't be read as {files.kind}: {_first_line(error)}") from error

    def read(columns: Collection[str] | None) -> Iterator[Any]:
        for path in files.paths:
            if files.kind == "csv":
                yield from delimited_rows(path, dialects[path])
            elif files.kind == "json":
                yield from json_rows(path)
            else:
                yield from arrow_rows(path, columns)

    return Table(
        files.name,
        read,
        lambda: fingerprint_of_files(files.paths),
        [str(path) for path in files.paths],
        files.split,
        files.ignored,
        files.validation_split,
        next(iter(dialects.values()), None),
        features,
        named_by_row=files.kind == "json",
    )


def open_hub(name: str, options: ReadOptions, known_names: Iterable[str] = ()) -> Table:
    """Open one split of a Hub dataset.

    CSV and JSON files are read like local files, so that text is not converted, unless the dataset declares its
    features or is streamed.

    Args:
        name: id of the dataset.
        options: how to read it.
        known_names: requested columns, used to detect the header of CSV and TSV files.

    Raises:
        ScratchError: the dataset can't be opened.
    """
    import datasets
    from huggingface_hub import HfApi

    try:
        builder = datasets.load_dataset_builder(name, options.config)
        splits = datasets.get_dataset_split_names(name, options.config)
        validation = next((s for s in splits if canonical_split(s) == "validation" and s != options.split), None)
        kind = {"CsvConfig": "csv", "JsonConfig": "json"}.get(type(builder.config).__name__)
        declared: Any = builder.config.features if kind else None
        if kind and declared is None and builder.info.features is None and not options.streaming:
            if options.split not in builder.config.data_files:
                raise ScratchError(f"there is no split {options.split!r}: it has {', '.join(map(repr, splits))}")
            paths = [_download(str(url)) for url in builder.config.data_files[options.split]]
            files = Files(name, kind, paths, options.split, validation_split=validation)
            table = table_of(files, options, known_names)
            table.files = [name]  # the dataset id, not the paths in the local cache
            return table
        refuse_csv_options(options, name)
        rows = datasets.load_dataset(name, options.config, split=options.split, streaming=options.streaming)
        revision = HfApi().dataset_info(name).sha if options.streaming else rows._fingerprint
    except ScratchError:
        raise
    except Exception as error:
        reason = why_not_found(name, "dataset", error) or f"the Hub dataset can't be opened: {_first_line(error)}"
        raise ScratchError(f"no dataset can be opened from {name!r}: {reason}") from error
    fingerprint = f"{name}-{options.config}-{options.split}-{revision}"
    return Table(
        name,
        lambda columns: read_columns(rows.column_names, rows.features, columns, partial(_selected, rows)),
        lambda: fingerprint,
        [name],
        options.split,
        validation_split=validation,
        features=rows.features,
    )


def _selected(rows: Any, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    return iter(rows if columns is None else rows.select_columns(columns))


def _download(url: str) -> Path:
    """Download a file, given as `hf://datasets/USER/NAME@REVISION/PATH`, and return its local path."""
    from huggingface_hub import hf_hub_download

    if (found := re.fullmatch(r"hf://datasets/([^@]+)@([^/]+)/(.+)", url)) is None:
        return Path(url)
    repository, revision, path = found.groups()
    return Path(hf_hub_download(repository, path, repo_type="dataset", revision=revision.replace("%2F", "/")))


def _has_field(row: dict[str, Any], name: str) -> bool:
    return cell(row, name, default=...) is not ...


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return next(iter(str(cause).splitlines()), type(cause).__name__)
