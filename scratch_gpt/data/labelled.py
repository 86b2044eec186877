"""Labelled text: a text and the name of its class, from a table, a folder of tables, the Hub, or built in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from ..errors import ScratchError
from ..tokenization.training import encode_batch
from . import german
from .shards import is_validation
from .sources import TABLES, VALIDATION_NAMES, kind_of, load_hub, load_table, pick_text_column, rows_of, tables_of
from .tokens import Tokens

BATCH_TEXTS = 4096

Example = tuple[str, str]  # a text and the name of its label


@dataclass
class LabelledSource:
    """Texts with a label each, in an order that never changes.

    Attributes:
        name: what the corpus is called.
        read: a fresh iterator over all examples.
        label_names: the names of the labels in order, where the corpus says so.
    """

    name: str
    read: Callable[[], Iterator[Example]]
    label_names: list[str] | None = None


def open_labelled(
    dataset: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    config: str | None = None,
    split: str = "train",
    max_rows: int | None = None,
    num_texts: int = 2_000,
    seed: int = 0,
) -> LabelledSource:
    """Open what `dataset` names.

    Args:
        dataset: "languages" (built in: sentences in German and in English); a .tsv, .csv, .jsonl, .json or .parquet
            file; a folder of such files, named by their split; or the id of a dataset on the Hub.
        text_column: by default "text", "sentence", or the only column with text.
        label_column: by default "label", or the other one of two columns. Labels are whole numbers or names.
        config, split: of a Hub dataset or, the latter, of a folder.
        max_rows: read only so many.
        num_texts, seed: of the built-in text.

    Raises:
        ScratchError: nothing of that name, or no such column.
    """
    if dataset == "languages":
        return _open_languages(split, num_texts, seed)
    path = Path(dataset)
    if path.is_dir():
        if not (tables := tables_of(path, split)):
            there = ", ".join(sorted(p.name for p in path.iterdir())[:12]) or "no files"
            raise ScratchError(f"{path} holds no table of the split {split!r}, such as {split}.tsv: it has {there}")
        rows, name = load_table(tables), path.name
    elif path.is_file():
        if kind_of(path) not in TABLES:
            raise ScratchError(f"{path} is no table: labelled text stands in a {', '.join(TABLES)} file")
        rows, name = load_table([path]), path.name
    elif kind_of(path) in (".txt", *TABLES) or path.is_absolute() or dataset.startswith("."):
        raise ScratchError(f"no such file or folder: {dataset}")
    else:
        rows, name = load_hub(dataset, config, split)[0], dataset
    return _from_table(rows, name, text_column, label_column, max_rows)


def validation_split_of(dataset: str) -> str | None:
    """The split of a folder, or of the built-in text, that is there to validate on; None where there is none."""
    if dataset == "languages":
        return "validation"
    folder = Path(dataset)
    return next((n for n in VALIDATION_NAMES if folder.is_dir() and tables_of(folder, n)), None)


def _open_languages(split: str, count: int, seed: int) -> LabelledSource:
    if split not in german.SPLITS:
        raise ScratchError(f"the built-in languages have the splits {', '.join(german.SPLITS)}, not {split!r}")

    def read() -> Iterator[Example]:
        for number, pair in enumerate(german.pairs(seed, count, split)):
            yield (pair.german, "de") if number % 2 else (pair.english, "en")

    return LabelledSource("languages", read)


def _from_table(
    rows: Any, name: str, text_column: str | None, label_column: str | None, limit: int | None
) -> LabelledSource:
    text_column = pick_text_column(rows, text_column, name)
    first = next(iter(rows))
    if label_column is None:
        others = [key for key in first if key != text_column]
        label_column = "label" if "label" in others else others[0] if len(others) == 1 else None
    if label_column is None or label_column not in first:
        asked = "no label column" if label_column is None else f"no column {label_column!r}"
        raise ScratchError(f"{name} has {asked}, it has {', '.join(map(repr, first))}: choose one with --label_column")
    names = getattr((getattr(rows, "features", None) or {}).get(label_column), "names", None)  # of a ClassLabel

    def read() -> Iterator[Example]:
        for number, row in enumerate(islice(rows_of(rows, name), limit)):
            text, label = row[text_column], row[label_column]
            if not isinstance(text, str) or not text.strip():
                seen = "is empty" if isinstance(text, str) else f"holds {type(text).__name__}"
                raise ScratchError(f"{name}: row {number} of column {text_column!r} {seen}, want text: clean the row")
            if not isinstance(label, str | int) or label == "":
                seen = "is empty" if label in ("", None) else f"holds {type(label).__name__} {label!r}"
                raise ScratchError(
                    f"{name}: row {number} of column {label_column!r} {seen}, want a whole number or a name"
                )
            if names is not None and isinstance(label, int):
                if not 0 <= label < len(names):
                    raise ScratchError(f"{name}: row {number} has no label ({label}): choose another split")
                label = names[label]
            yield text, str(label)

    return LabelledSource(name, read, names)


def split_examples(source: LabelledSource, fraction: float) -> tuple[list[Example], list[Example]]:
    """The examples of a source, every so-many-th held out."""
    parts: tuple[list[Example], list[Example]] = ([], [])
    for number, example in enumerate(source.read()):
        parts[is_validation(number, fraction)].append(example)
    return parts


def collect_labels(examples: Sequence[Example], names: list[str] | None, source: str) -> list[str]:
    """The names of the labels, in the order that `names` or their numbers or the alphabet give.

    Raises:
        ScratchError: there is only one label, or one that is not among `names`.
    """
    counts = Counter(label for _, label in examples)
    found = sorted(counts, key=lambda name: (not name.lstrip("-").isdigit(), int(name) if name.isdigit() else 0, name))
    if len(counts) < 2:
        raise ScratchError(
            f"{source} has one label only, {found[0]!r}: nothing to tell apart" if found else f"{source} has no rows"
        )
    check_labels(examples, names or found, source)
    return names or found


def check_labels(examples: Sequence[Example], names: Sequence[str], source: str) -> None:
    """Raise ScratchError where an example has a label that is not among `names`."""
    unknown = sorted({label for _, label in examples} - set(names))
    if unknown:
        raise ScratchError(
            f"{source} has the label{'s' * (len(unknown) > 1)} {', '.join(map(repr, unknown[:8]))}, the model knows "
            f"{', '.join(map(repr, names))}"
        )


@dataclass(frozen=True)
class LabelledTokens:
    """Tokenised texts and the number of each one's label (int64); `long` of them were cut."""

    tokens: Tokens
    labels: np.ndarray
    long: int

    def __len__(self) -> int:
        return len(self.tokens)


def encode_examples(
    examples: Sequence[Example],
    names: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> LabelledTokens:
    """Tokenise texts as the tokenizer's template has them, cut to `max_length` tokens, special ones included."""
    rows: list[list[int]] = []
    for start in range(0, len(examples), BATCH_TEXTS):
        texts = [text for text, _ in examples[start : start + BATCH_TEXTS]]
        rows += encode_batch(tokenizer, texts, add_special_tokens=True)
        progress(len(texts))
    long = sum(len(row) > max_length for row in rows)
    ends_with_special = bool(rows) and rows[0][-1] in tokenizer.all_special_ids
    keep = max_length - 1
    rows = [
        row if len(row) <= max_length else row[:keep] + row[-1:] if ends_with_special else row[:max_length]
        for row in rows
    ]
    number_of = {name: number for number, name in enumerate(names)}
    labels = np.array([number_of[label] for _, label in examples], dtype=np.int64)
    return LabelledTokens(Tokens.of(rows), labels, long)
