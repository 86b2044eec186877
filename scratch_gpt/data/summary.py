"""What was read, before any training: files, columns, rows, the split, and what was skipped and why.

The command `scratch-gpt data` prints it, every training run begins with it, and `run.yaml` keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import ScratchError
from .corpus import Corpus, Origin, ReadCount, data_fingerprint
from .documents import TextReading
from .sources import Source
from .splits import content_key, deal

T = TypeVar("T")
SAMPLES, SAMPLE_CHARACTERS = 5, 1000
LISTED_FILES = 20  # in the record of a run
UNKNOWN_SHARE = 0.01  # of the tokens, from which on a run warns


@dataclass
class DataSummary:
    """What was read.

    Attributes:
        name: what the dataset is called.
        built_in: whether it is generated here.
        files: paths that were read, or the id of a Hub dataset.
        ignored: other files of the folder, each with the reason.
        split, columns, delimiter, header, quoting: that were taken (see `corpus.Origin`).
        rows_read: rows (of text files, documents) that are used.
        rows_skipped: how many rows can't be used, by reason.
        train_rows, validation_rows, test_rows: how the split falls. One text gives a part to each.
        characters: in all rows.
        duplicates: rows that equal an earlier one.
        shared: rows to validate on that equal one to train on.
        labels, validation_labels: rows by label, in all splits and in the one validated on.
        samples: the first rows.
        fingerprint: changes whenever the data, or what is taken of it, does.
        unknown_share: share of the training tokens that are `<unk>`, once there are tokens.
    """

    name: str
    built_in: bool
    files: list[str]
    ignored: dict[str, str]
    split: str | None
    columns: dict[str, str]
    delimiter: str | None
    header: bool | None
    quoting: str | None
    rows_read: int
    rows_skipped: dict[str, int]
    train_rows: int
    validation_rows: int
    characters: int
    duplicates: int
    fingerprint: str
    shared: int = 0
    test_rows: int = 0
    labels: dict[str, int] | None = None
    validation_labels: dict[str, int] | None = None
    samples: list[Any] = field(default_factory=list)
    unknown_share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def record(self) -> dict[str, Any]:
        """The same without samples, for `run.yaml`; of many files the first."""
        content = {name: value for name, value in self.to_dict().items() if name != "samples"}
        content["files"] = self.files[:LISTED_FILES]
        content["ignored"] = dict(list(self.ignored.items())[:LISTED_FILES])
        for name in ("files", "ignored"):
            if len(content[name]) < len(getattr(self, name)):
                content[f"{name}_in_all"] = len(getattr(self, name))
        return content

    def skip(self, split: str, reason: str, count: int) -> None:
        """Count rows of a split that turned out to be of no use once they were tokens."""
        if count:
            self.rows_read -= count
            self.rows_skipped[reason] = self.rows_skipped.get(reason, 0) + count
            setattr(self, f"{split}_rows", getattr(self, f"{split}_rows") - count)

    def lines(self) -> list[str]:
        """The summary in a few lines of text."""
        read = [f"data: {self.name}" + (" (built in)" if self.built_in else "")]
        if self.files and self.files != [self.name]:
            read.append(f"{len(self.files):,} file{'s' * (len(self.files) != 1)} ({_some(map(_base, self.files))})")
        if self.split and not self.built_in:
            read.append(f"split {self.split!r}")
        if self.columns:
            read.append("columns " + ", ".join(f"{role} {name!r}" for role, name in self.columns.items()))
        if self.delimiter is not None:
            header = "with a header" if self.header else "without a header"
            quotes = "" if self.quoting == "csv" else f", quoting {self.quoting!r}"
            read.append(f"delimiter {self.delimiter!r} {header}{quotes}")
        rows = [f"rows: {self.rows_read:,} read", f"{self.train_rows:,} to train on"]
        rows.append(f"{self.validation_rows:,} to validate on")
        rows += [f"{self.test_rows:,} to test on"] if self.test_rows else []
        rows += [f"{self.duplicates:,} duplicates"] if self.duplicates else []
        lines = [", ".join(read), ", ".join(rows)]
        if self.rows_skipped:
            shown = "; ".join(f"{reason}: {count:,}" for reason, count in self.rows_skipped.items())
            lines.append(f"skipped: {sum(self.rows_skipped.values()):,} rows ({shown})")
        if self.ignored:
            shown = _some(f"{_base(path)} ({reason})" for path, reason in self.ignored.items())
            lines.append(f"ignored: {len(self.ignored):,} files ({shown})")
        return lines

    def warnings(self) -> list[str]:
        """What a user should know before training on it."""
        found = []
        if self.shared:
            of = f"{self.shared:,} of the {self.validation_rows:,} rows to validate on"
            found.append(f"{of} equal rows that are trained on: what they measure is partly memory")
        if self.unknown_share is not None and self.unknown_share > UNKNOWN_SHARE:
            found.append(
                f"{self.unknown_share:.1%} of the training tokens are unknown to the tokenizer: it was trained on "
                "other text, and what they stand for can't be learned"
            )
        return found


def _base(path: str) -> str:
    return Path(path).name


def _some(names: Any, most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", … {len(names) - most:,} more" if len(names) > most else "")


def read_parts(
    train: Corpus[T],
    validation: Corpus[T] | None,
    fractions: dict[str, float],
    seed: int,
    key: Callable[[T], str],
    label: Callable[[T], Hashable] | None = None,
) -> dict[str, list[T]]:
    """The examples of each split.

    Args:
        train, validation: the latter where there is a split of its own; else a share of the former is held out.
        fractions: to hold out, by split, such as {"validation": 0.1, "test": 0.1}.
        seed: of the split.
        key: the text of an example; those with equal ones are held out together.
        label: of an example; each label is then held out in proportion.

    Raises:
        ScratchError: too many rows can't be used, or nothing is left for a split.
    """
    examples = list(train.read())
    wanted = {name: share for name, share in fractions.items() if validation is None or name != "validation"}
    labels = None if label is None else [label(example) for example in examples]
    numbers = deal([content_key(key(example)) for example in examples], wanted, seed, labels)
    parts = {name: [examples[i] for i in found] for name, found in numbers.items()}
    if validation is not None:
        parts["validation"] = list(validation.read())
    empty = [n for n in ("train", "validation", *fractions) if not parts[n] and fractions.get(n, 1)]
    if empty:
        counts = ", ".join(f"{len(part):,} for {name}" for name, part in parts.items())
        raise ScratchError(
            f"{train.name} has too few rows: it leaves nothing for {empty[0]} ({counts}); give more rows, or a split "
            "to validate on"
        )
    return parts


def summarise(
    train: Corpus[T],
    validation: Corpus[T] | None,
    parts: dict[str, list[T]],
    row: Callable[[T], dict[str, Any]],
    texts: Callable[[T], Iterable[str]],
    label: Callable[[T], str] | None = None,
) -> DataSummary:
    """The summary of examples that `read_parts` gave.

    Args:
        row: an example by what its columns hold; equal rows are duplicates.
        texts: of an example.
        label: of an example.
    """
    examples = [example for part in parts.values() for example in part]
    count = train.count if validation is None else train.count + validation.count
    rows = [row(example) for example in examples]
    keys = [content_key(repr(found)) for found in rows]
    summary = _summary(train.origin, None if validation is None else validation.origin, count)
    summary.train_rows, summary.validation_rows = len(parts["train"]), len(parts["validation"])
    summary.test_rows = len(parts.get("test", []))
    summary.characters = sum(len(text) for example in examples for text in texts(example))
    summary.duplicates = len(keys) - len(set(keys))
    learned = {content_key(repr(row(example))) for example in parts["train"]}
    summary.shared = sum(content_key(repr(row(example))) in learned for example in parts["validation"])
    if label is not None:
        summary.labels = _counted(map(label, examples))
        summary.validation_labels = _counted(map(label, parts["validation"]))
    summary.samples = [_cut(found) for found in rows[:SAMPLES]]
    return summary


def summarise_texts(source: Source, validation: Source | None, reading: TextReading) -> DataSummary:
    """The summary of texts that `shards.prepare_texts` or `read_texts` read."""
    summary = _summary(source.origin, None if validation is None else validation.origin, reading.count)
    summary.train_rows, summary.validation_rows = (reading.documents[split] for split in ("train", "validation"))
    summary.characters, summary.duplicates = reading.characters, reading.duplicates
    summary.shared = reading.shared
    return summary


def _summary(origin: Origin, validation: Origin | None, count: ReadCount) -> DataSummary:
    files, ignored = origin.files, origin.ignored
    if validation is not None:
        files = [*files, *(path for path in validation.files if path not in files)]
        ignored = {**validation.ignored, **ignored}
        ignored = {path: reason for path, reason in ignored.items() if path not in files}
    return DataSummary(
        origin.name,
        origin.built_in and (validation is None or validation.built_in),
        files,
        ignored,
        origin.split,
        origin.columns,
        origin.delimiter,
        origin.header,
        origin.quoting,
        count.read,
        dict(count.skipped),
        train_rows=0,
        validation_rows=0,
        characters=0,
        duplicates=0,
        fingerprint=data_fingerprint(origin, validation),
    )


def _counted(labels: Any) -> dict[str, int]:
    return dict(sorted(Counter(labels).items()))


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= SAMPLE_CHARACTERS else value[:SAMPLE_CHARACTERS] + "…"
    if isinstance(value, dict):
        return {name: _cut(part) for name, part in value.items()}
    return [_cut(part) for part in value] if isinstance(value, list | tuple) else value


def length_statistics(lengths: Sequence[int], context_length: int | None) -> dict[str, Any]:
    """Shortest, middle and longest of lengths in tokens, and how many are longer than the context."""
    found = np.asarray(lengths if len(lengths) else [0])
    low, median, high, top = np.quantile(found, [0, 0.5, 0.95, 1], method="nearest").tolist()
    longer = None if context_length is None else int((found > context_length).sum())
    return {"shortest": low, "median": median, "quantile_95": high, "longest": top, "longer_than_context": longer}
