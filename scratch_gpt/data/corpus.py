"""What a job learns from: examples made of the rows of a dataset, and the count of those that can't be used.

One rule for every job: a row that can't be used is skipped and counted by its reason; where more than a tenth of all
rows (`max_bad_rows`) is skipped, reading ends with an error.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, Generic, TypeVar

from ..errors import ScratchError
from .formats import BadRowError
from .tables import ReadOptions, Table

T = TypeVar("T")
SHOWN_REASONS = 6


@dataclass
class Origin:
    """Where examples come from.

    Attributes:
        name: what the dataset is called.
        fingerprint: changes whenever the data, or what is taken of it, does.
        built_in: whether it is generated here, from no file.
        files: paths that are read, or the id of a Hub dataset.
        ignored: other files of the folder, each with the reason.
        split: that is read; None where nothing names a split.
        columns: by what they hold ("text", "label", …), those that are read.
        delimiter, header, quoting: of CSV and TSV files.
        validation_split: the split that is there to validate on.
    """

    name: str
    fingerprint: Callable[[], str]
    built_in: bool = False
    files: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    header: bool | None = None
    quoting: str | None = None
    validation_split: str | None = None

    def __post_init__(self) -> None:
        self.fingerprint = cache(self.fingerprint)  # files are hashed once

    @classmethod
    def of_table(cls, table: Table, columns: dict[str, str], options: ReadOptions) -> Origin:
        """That of a table of which some columns are read."""
        form = table.dialect
        taken = sorted(columns.items()), options.config, options.split, options.max_rows, form
        return cls(
            table.name,
            lambda: fingerprint_of(table.fingerprint(), repr(taken)),
            files=table.files,
            ignored=table.ignored,
            split=table.split,
            columns=columns,
            delimiter=form.delimiter if form else None,
            header=form.header if form else None,
            quoting=form.quoting if form else None,
            validation_split=table.validation_split,
        )


@dataclass
class ReadCount:
    """How many rows were read, and how many were skipped for which reason."""

    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)  # the first row that was skipped for a reason
    harmless: set[str] = field(default_factory=set)  # reasons that are no fault, such as an empty document

    def skip(self, reason: str, row: int | None = None, count: int = 1) -> None:
        """Count rows that can't be used."""
        self.skipped[reason] += count
        if row is not None:
            self.first.setdefault(reason, row)

    def __add__(self, other: ReadCount) -> ReadCount:
        first = {**other.first, **self.first}
        return ReadCount(self.read + other.read, self.skipped + other.skipped, first, self.harmless | other.harmless)

    def check(self, name: str, max_bad_rows: float) -> None:
        """Raise ScratchError where more than this share of the rows can't be used, or all of them."""
        bad = sum(count for reason, count in self.skipped.items() if reason not in self.harmless)
        if bad > max_bad_rows * (self.read + bad) or (bad and not self.read):
            raise ScratchError(
                f"{name}: {bad:,} of {self.read + bad:,} rows can't be used ({self.described()}), more than the share "
                f"of {max_bad_rows} that --max_bad_rows allows: clean the data, or choose other columns"
            )

    def described(self) -> str:
        """The reasons with their counts, the most frequent first."""
        places = {r: f", first row {self.first[r]}" if r in self.first else "" for r in self.skipped}
        shown = [f"{reason}: {count:,}{places[reason]}" for reason, count in self.skipped.most_common(SHOWN_REASONS)]
        return "; ".join(shown) + ("; …" if len(self.skipped) > SHOWN_REASONS else "")


class Corpus(Generic[T]):
    """Examples of one split, in an order that never changes.

    Args:
        origin: where they come from.
        rows: a fresh iterator over all rows; a `BadRowError` in the place of one that can't be read.
        convert: makes an example of a row, or raises BadRowError.
        options: how to read; `max_rows` and `max_bad_rows` are used here.
        label_names: names of the labels in order, where the dataset says so.

    Attributes:
        count: what the last reading met.
    """

    def __init__(
        self,
        origin: Origin,
        rows: Callable[[], Iterator[Any]],
        convert: Callable[[Any], T] = lambda row: row,
        options: ReadOptions | None = None,
        label_names: list[str] | None = None,
    ):
        self.origin, self._rows, self._convert = origin, rows, convert
        self.options, self.label_names = options or ReadOptions(), label_names
        self.harmless: set[str] = set()
        self.count = ReadCount()

    @property
    def name(self) -> str:
        return self.origin.name

    def read(self) -> Iterator[T]:
        """The examples from the first; rows that can't be used are skipped and counted.

        Raises:
            ScratchError: too many of them can't be used, or the file can't be read to the end.
        """
        count = self.count = ReadCount(harmless=self.harmless)
        for number, row in enumerate(islice(self._rows(), self.options.max_rows)):
            try:
                if isinstance(row, BadRowError):
                    raise row
                example = self._convert(row)
            except BadRowError as error:
                count.skip(str(error), number)
                continue
            count.read += 1
            yield example
        self.check()

    def skip(self, reason: str, count: int) -> None:
        """Count examples that turned out to be of no use after they were read, as once they are tokens.

        Raises:
            ScratchError: too many rows can't be used.
        """
        if count:
            self.count.read -= count
            self.count.skip(reason, count=count)
            self.check()

    def check(self) -> None:
        """Raise ScratchError where too many rows of the last reading can't be used."""
        self.count.check(self.name, self.options.max_bad_rows)


def data_fingerprint(train: Origin, validation: Origin | None) -> str:
    """One fingerprint for the data of a run."""
    return fingerprint_of(train.fingerprint(), validation.fingerprint()) if validation else train.fingerprint()


def fingerprint_of(*parts: str) -> str:
    """One name for several."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
