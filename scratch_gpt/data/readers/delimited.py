"""Read CSV and TSV files as text, and detect their dialect (delimiter, quoting, header).

Quoting is ambiguous: in some files `"` opens a cell that may contain delimiters and line breaks, in others it is an
ordinary character. A file is parsed as quoted if every quoted cell is closed correctly and all rows have the same
number of cells; otherwise every line is a row.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from ...errors import ScratchError
from .files import open_text, plain_suffix

Quoting = Literal["csv", "backslash", "none"]
DELIMITERS = (",", ";", "\t", "|")
SAMPLE_CHARACTERS, SAMPLE_ROWS = 1 << 18, 200
MAX_RAGGED = 0.1  # largest fraction of rows whose number of cells differs from the first row
MAX_CELL_LINES = 3  # if a longer quoted cell looks like rows of the file, quotes are ordinary characters
NAMES = {"text", "sentence", "content", "document", "body", "title", "label", "labels", "class", "target", "source"}
NAMES |= {"id", "idx", "index", "prompt", "completion", "response", "instruction", "input", "output", "question"}
NAMES |= {"answer", "messages", "conversations", "chosen", "rejected", "review", "category", "sentiment", "name"}
MAX_NAME_CHARACTERS, MAX_NAME_WORDS = 64, 4
MAX_CELL_CHARACTERS = min(sys.maxsize, 2**31 - 1)
MAX_VALUES = 10_000  # distinct values of a column, or rows of several lines, that are compared
ESCAPED = re.compile(r'\\[\\"]')


@dataclass(frozen=True)
class Dialect:
    """Format of a delimited file.

    Attributes:
        delimiter: the character between cells.
        quoting: "csv" (a quote in a quoted cell is doubled), "backslash" (it is escaped with a backslash), or "none"
            (quotes are ordinary characters, and every line is a row).
        header: whether the first row contains the column names.
        names: column names; "column_1", "column_2", ... without a header.
    """

    delimiter: str
    quoting: Quoting
    header: bool
    names: tuple[str, ...]


def read_delimited(path: Path, dialect: Dialect) -> Iterator[list[str]]:
    """Iterate over the rows of a file, without the header and blank lines."""
    with _lines(path) as file:
        rows = (row for row in _parse(file, dialect.delimiter, dialect.quoting) if row)
        yield from islice(rows, int(dialect.header), None)


def find_dialect(
    path: Path,
    known_names: Iterable[str] = (),
    delimiter: str | None = None,
    header: bool | None = None,
    quoting: Quoting | None = None,
) -> Dialect:
    """Detect the dialect of a file.

    Args:
        path: the file.
        known_names: requested columns; a first row that contains one of them is a header.
        delimiter, header, quoting: known properties; None detects them.

    Raises:
        ScratchError: the file has no rows, or no way of quoting gives rows with a consistent number of cells.
    """
    with _lines(path) as file:
        sample = file.read(SAMPLE_CHARACTERS)
        whole = not file.read(1)
    if not whole:
        sample = sample[: sample.rfind("\n") + 1] or sample
    delimiter = delimiter or _declared_delimiter(path) or _find_delimiter(path, sample, quoting)
    quoting = quoting or _find_quoting(path, delimiter)
    with _lines(path) as file:
        rows = list(islice((row for row in _parse(file, delimiter, quoting) if row), SAMPLE_ROWS))
    if not rows:
        raise ScratchError(f"{path} has no rows")
    header = _has_header(rows, set(known_names)) if header is None else header
    names = _unique(rows[0]) if header else tuple(f"column_{i + 1}" for i in range(len(rows[0])))
    return Dialect(delimiter, quoting, header, names)


def _declared_delimiter(path: Path) -> str | None:
    """The delimiter in a first line that declares it for spreadsheets (`sep=;`); None without such a line."""
    with open_text(path, newline="") as file:
        declared = re.fullmatch(r"sep=(.)\r?\n", file.readline(len("sep=,\r\n")))
    return declared[1] if declared else None


@contextmanager
def _lines(path: Path) -> Iterator[IO[str]]:
    """A file, open after the line that declares its delimiter, if there is one."""
    declared = _declared_delimiter(path)
    with open_text(path, newline="") as file:
        if declared is not None:
            file.readline()
        yield file


def _parse(lines: Iterable[str], delimiter: str, quoting: Quoting, strict: bool = False) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_CELL_CHARACTERS)  # process-wide: a cell may be a whole document; the default is 128 KiB
    rules: dict[str, Any] = {"delimiter": delimiter, "strict": strict}
    if quoting == "none":
        rules["quoting"] = csv.QUOTE_NONE
    elif quoting == "backslash":
        rules |= {"doublequote": False, "escapechar": "\\"}
    return csv.reader(lines, **rules)


def _find_delimiter(path: Path, sample: str, quoting: Quoting | None) -> str:
    """Return the delimiter that the suffix implies, unless another one gives more consistent row lengths. Delimiters
    that are mostly followed by a space score lower, because they are probably punctuation in prose."""
    own = "," if plain_suffix(path) == ".csv" else "\t"
    found: dict[str, float] = {}
    for delimiter in (own, *(other for other in DELIMITERS if other != own)):
        for kind in ("csv", "none") if quoting is None else (quoting,):
            rows = list(
                islice((row for row in _parse(io.StringIO(sample, newline=""), delimiter, kind) if row), SAMPLE_ROWS)
            )
            width = len(rows[0]) if rows else 0
            even = sum(len(row) == width for row in rows) / max(1, len(rows)) if width > 1 else 0.0
            found[delimiter] = max(found.get(delimiter, 0.0), even)
        if sample.count(delimiter + " ") > sample.count(delimiter) / 2:
            found[delimiter] -= MAX_RAGGED / 2
        if found[delimiter] == 1:
            return delimiter
    best = max(found, key=found.__getitem__)
    return best if found[best] >= 1 - MAX_RAGGED else own


@dataclass
class _Fit:
    """Result of parsing a whole file with one quoting style."""

    rows: int = 0
    ragged: int = 0
    merged_rows: bool = False
    error: str | None = None

    @property
    def fits(self) -> bool:
        return self.error is None and self.ragged <= MAX_RAGGED * self.rows


def _find_quoting(path: Path, delimiter: str) -> Quoting:
    with open_text(path, newline="") as file:
        if not any('"' in block for block in iter(lambda: file.read(1 << 20), "")):
            return "csv"
    quoted = _fit(path, delimiter, "csv")
    if quoted.error is None and not quoted.ragged and not quoted.merged_rows:
        return "csv"
    escaped = replace(quoted, error="no backslash") if quoted.error is None else _fit(path, delimiter, "backslash")
    if escaped.error is None and not escaped.ragged and not escaped.merged_rows:
        return "backslash"
    plain = _fit(path, delimiter, "none")
    fits: list[tuple[Quoting, _Fit]] = [("csv", quoted), ("backslash", escaped), ("none", plain)]
    if quoted.merged_rows and not plain.ragged:
        return "none"
    if not (fitting := [(fit.ragged / fit.rows, kind) for kind, fit in fits if fit.rows and fit.fits]):
        raise ScratchError(
            f"{path}: {quoted.error or f'{quoted.ragged:,} of {quoted.rows:,} rows have another length'}, and read "
            f"line by line {plain.ragged:,} of {plain.rows:,} rows have another number of cells than the first: "
            "correct the file, or set --delimiter and --quoting"
        )
    return min(fitting, key=lambda pair: pair[0])[1]


def _fit(path: Path, delimiter: str, quoting: Quoting) -> _Fit:
    """Parse a whole file in strict mode and count its rows and errors."""
    fit, width = _Fit(), 0
    seen: list[set[str]] = []  # the distinct values of each column in rows of one line
    multiline: list[tuple[list[str], int]] = []  # rows of several lines, and their number of lines
    with _lines(path) as file:
        lines = (ESCAPED.sub("__", line) for line in file) if quoting == "backslash" else file
        reader: Any = _parse(lines, delimiter, "csv" if quoting == "backslash" else quoting, strict=True)
        try:
            line = 0
            for row in reader:
                if row:
                    width = width or len(row)
                    seen = seen or [set() for _ in row]
                    fit.rows += 1
                    fit.ragged += len(row) != width
                    if reader.line_num - line > 1:
                        multiline += [(row, reader.line_num - line)] if len(multiline) < MAX_VALUES else []
                    elif len(row) == width and len(seen[-1]) < MAX_VALUES:
                        for values, cell in zip(seen, row, strict=True):
                            values.add(cell)
                line = reader.line_num
        except csv.Error as error:
            fit.error = f"line {reader.line_num}: a cell has invalid quotes ({error})"
    fit.merged_rows = width > 1 and any(_contains_rows(row, lines, delimiter, seen) for row, lines in multiline)
    return fit


def _contains_rows(row: list[str], lines: int, delimiter: str, seen: list[set[str]]) -> bool:
    """Whether a cell of several lines looks like rows of the file, joined by an unmatched quote: its inner lines have
    as many cells as a row, or its first line ends with values that these columns have in other rows."""
    for column, cell in enumerate(row):
        first, *rest = re.split(r"\r\n|\r|\n", cell)
        inner = rest[:-1]
        if lines > MAX_CELL_LINES and inner and all(line.count(delimiter) == len(row) - 1 for line in inner):
            return True
        _, *values = first.split(delimiter)
        known = seen[column + 1 : len(row)]
        if rest and values and len(values) == len(known) and all(map(set.__contains__, known, values)):
            return True
    return False


def _has_header(rows: list[list[str]], known_names: set[str]) -> bool:
    """Whether the first row contains the column names: it has a requested or common name, or all of its cells look
    like names and none of them occurs again below."""
    first, below = [cell.strip() for cell in rows[0]], rows[1:]
    if set(first) & known_names:
        return True
    columns = [{row[i].strip() for row in below if i < len(row)} for i in range(len(first))]
    repeated = [cell in column for cell, column in zip(first, columns, strict=True)]
    if any(cell.lower() in NAMES and not again for cell, again in zip(first, repeated, strict=True)):
        return True
    if len(first) == 1 and not (first[0].isidentifier() and any(" " in cell for cell in columns[0])):
        return False  # text, like the rows below
    looks = all(_looks_like_name(cell) for cell in first) and len(set(first)) == len(first)
    return bool(below) and looks and not any(repeated)


def _looks_like_name(cell: str) -> bool:
    if not cell or len(cell) > MAX_NAME_CHARACTERS or len(cell.split()) > MAX_NAME_WORDS or cell[-1] in ".!?…。":
        return False
    return not is_number(cell)


def is_number(cell: str) -> bool:
    """Whether a cell can be parsed as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _unique(names: list[str]) -> tuple[str, ...]:
    """Strip column names; an empty name becomes "column_N", and a repeated one gets its position as a suffix."""
    found: list[str] = []
    for place, name in enumerate(names, 1):
        name = name.strip() or f"column_{place}"
        found.append(name if name not in found else f"{name}_{place}")
    return tuple(found)
