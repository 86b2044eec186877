"""Labelled text for classification, from tables, the Hub, or built-in data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import ScratchError
from ..corpora import german_english
from .corpus import Corpus, Origin, check_built_in_size
from .examples import example_hint
from .formats import BadRowError
from .tables import ReadOptions, Table, cell, check_unicode, find_column, find_text_column, open_table, text_cell

MAX_DIGITS = 20  # of an integer label; longer ones are sorted as names

Example = tuple[str, str]  # a text and the name of its label


def open_labelled(
    dataset: str,
    options: ReadOptions | None = None,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    num_texts: int = 2_000,
    seed: int = 0,
) -> Corpus[Example]:
    """Open a labelled dataset. Labels are strings: "01" and "1" are different labels.

    Args:
        dataset: "languages" (built-in German and English sentences); a table; a folder or a glob pattern of tables; or
            the id of a Hub dataset.
        options: how to read it.
        text_column: column or nested field such as "meta.body"; by default "text", "sentence", or the only text column.
        label_column: by default "label", or the other column if there are two.
        num_texts, seed: size and seed of the built-in data.

    Raises:
        ScratchError: the dataset or a column does not exist.
    """
    options = options or ReadOptions()
    if dataset == "languages":
        return _open_languages(options, num_texts, seed)
    table = open_table(dataset, options, [name for name in (text_column, label_column) if name], "labelled text")
    return _of_table(table, options, text_column, label_column)


def _open_languages(options: ReadOptions, count: int, seed: int) -> Corpus[Example]:
    if options.split not in german_english.SPLITS:
        raise ScratchError(
            f"the built-in languages have the splits {', '.join(german_english.SPLITS)}, not {options.split!r}"
        )
    check_built_in_size("num_texts", count)

    def read() -> Iterator[Example]:
        for number, pair in enumerate(german_english.pairs(seed, count, options.split)):
            yield (pair.german, "de") if number % 2 else (pair.english, "en")

    fingerprint = f"languages-{options.split}-{count}-{seed}-{options.max_rows}"
    origin = Origin("languages", lambda: fingerprint, built_in=True, split=options.split)
    origin.validation_split = "validation" if options.split != "validation" else None
    return Corpus(origin, read, options=options)


def _of_table(table: Table, options: ReadOptions, text_column: str | None, label_column: str | None) -> Corpus[Example]:
    if text_column is None and label_column is not None and len(others := _others(table, label_column)) == 1:
        text_column = others[0]
    text_name = find_text_column(table, text_column, label_column or "label")
    label_name = find_column(table, label_column, ("label",), "--label_column")
    if label_name is None:
        if len(others := _others(table, text_name)) != 1:
            raise ScratchError(
                f"{table.name} has no label column, it has {table.described()}: choose one with --label_column; "
                f"{example_hint('labelled')}"
            )
        label_name = others[0]
    class_names = table.class_names(label_name)

    def convert(row: dict[str, Any]) -> Example:
        return text_cell(row, text_name), _label(cell(row, label_name), label_name, class_names)

    origin = Origin.of_table(table, {"text": text_name, "label": label_name}, options)
    return Corpus(origin, table.reader([text_name, label_name]), convert, options, class_names)


def _others(table: Table, column: str) -> list[str]:
    return [name for name in table.columns() if name != column]


def _label(value: Any, column: str, class_names: list[str] | None) -> str:
    """Convert a label to its name: the class name, or the number as text ("2" for 2 and 2.0)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        check_unicode(value, column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRowError(f"{column!r} is {'null' if value is None else 'empty'}")
    if not isinstance(value, str | int):
        raise BadRowError(f"{column!r} is {type(value).__name__}, want a whole number or a name")
    if class_names is not None and isinstance(value, int):
        if not 0 <= value < len(class_names):
            raise BadRowError(f"{column!r} is {value}, which is not one of the {len(class_names)} classes")
        return class_names[value]
    return str(value)


def collect_labels(examples: Sequence[Example], names: list[str] | None, source: str) -> list[str]:
    """Return the label names: `names` if given, else those in the data, sorted numerically and then alphabetically.

    Args:
        examples: texts and their labels.
        names: declared class names, in order.
        source: name of the dataset, for error messages.

    Raises:
        ScratchError: there are fewer than two labels, or a label is not in `names`.
    """
    counts = Counter(label for _, label in examples)
    found = sorted(counts, key=_label_order)
    if len(counts) < 2:
        raise ScratchError(
            f"{source} has only one label, {found[0]!r}, want at least two" if found else f"{source} has no rows"
        )
    check_labels(examples, names or found, source)
    return names or found


def _label_order(name: str) -> tuple[bool, int, str]:
    """Sort key: integers by value, then other names alphabetically."""
    is_number = name.removeprefix("-").isdecimal() and len(name) < MAX_DIGITS
    return not is_number, int(name) if is_number else 0, name


def check_labels(examples: Sequence[Example], names: Sequence[str], source: str) -> None:
    """Raise ScratchError if an example has a label that is not in `names`."""
    unknown = sorted({label for _, label in examples} - set(names))
    if unknown:
        raise ScratchError(
            f"{source} has the label{'s' * (len(unknown) > 1)} {', '.join(map(repr, unknown[:8]))}, the model has "
            f"{', '.join(map(repr, names))}"
        )
