"""Data setup shared by the training commands: reading options, splits, and the summary that is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from ..data.corpus import Corpus, Origin
from ..data.summary import DataSummary, read_parts, summarise
from ..data.tables import ReadOptions
from ..errors import ScratchError
from ..terminal import SafeConsole
from .arguments.training import DatasetArguments, TrainingArguments
from .engine.run_directory import RECORD, read_run


class HasOrigin(Protocol):
    """A corpus, or a source of texts."""

    origin: Origin


C = TypeVar("C", bound=HasOrigin)
T = TypeVar("T")
LIMITS = ("max_documents", "max_pairs", "max_texts", "max_conversations", "max_prompts")
HEADERS = {"auto": None, "yes": True, "no": False}


def read_options(data: DatasetArguments, max_rows: int | None) -> ReadOptions:
    """Convert command-line arguments to reading options.

    Raises:
        ScratchError: a value is invalid; all invalid values are reported together.
    """
    wrong = []
    fraction = getattr(data, "validation_fraction", 0.5)
    if not 0 < fraction < 1:
        wrong.append(f"validation_fraction is {fraction}, want a share between 0 and 1")
    if not 0 <= data.max_bad_rows <= 1:
        wrong.append(f"max_bad_rows is {data.max_bad_rows}, want a share from 0 to 1")
    if max_rows is not None and max_rows < 1:
        name = next(n for n in LIMITS if getattr(data, n, None) == max_rows)
        wrong.append(f"{name} is {max_rows}, want at least 1")
    delimiter = {"tab": "\t", "\\t": "\t"}.get(data.delimiter or "", data.delimiter)
    if delimiter is not None and len(delimiter) != 1:
        wrong.append(f"delimiter is {delimiter!r}, want one character, or 'tab'")
    if not data.split_seed >= 0:
        wrong.append(f"split_seed is {data.split_seed}, want 0 or more")
    if wrong:
        raise ScratchError("; ".join(wrong))
    return ReadOptions(
        split=data.dataset_split,
        config=data.dataset_config,
        max_rows=max_rows,
        streaming=getattr(data, "streaming", False),
        delimiter=delimiter,
        header=HEADERS[data.header],
        quoting=None if data.quoting == "auto" else data.quoting,
        max_bad_rows=data.max_bad_rows,
    )


def open_parts(
    data: DatasetArguments, max_rows: int | None, open_one: Callable[[str, ReadOptions, bool], C]
) -> tuple[C, C | None]:
    """Open the training data and, if there is a separate split or dataset for it, the validation data.

    Args:
        data: the data arguments.
        max_rows: maximum number of training rows; None reads all.
        open_one: opens a dataset, given its name, the options, and whether it is the validation data.

    Returns:
        The training data, and the validation data or None.

    Raises:
        ScratchError: a dataset can't be opened, or training and validation data overlap.
    """
    options = read_options(data, max_rows)
    train = open_one(data.dataset, options, False)
    origin = train.origin
    unused = []
    if origin.split is None and data.dataset_split != "train":
        unused.append("dataset_split")
    if origin.built_in:
        unused += [n for n in ("dataset_config", "delimiter") if getattr(data, n) is not None]
        unused += [n for n in ("header", "quoting") if getattr(data, n) != "auto"]
    if unused:
        names = ", ".join(f"--{name}" for name in unused)
        raise ScratchError(f"{names} can't be used with {origin.name}, which has no such thing: leave it out")
    if data.validation_dataset is not None:
        rest = replace(options, split=data.validation_split or "validation", max_rows=None)
        return train, open_one(data.validation_dataset, rest, True)
    split = data.validation_split or origin.validation_split
    if split is None:
        return train, None
    if split == data.dataset_split:
        raise ScratchError(f"validation_split is {split!r}, which is trained on: name another")
    if data.validation_split is not None and origin.split is None:
        raise ScratchError(f"{origin.name} has no splits: leave --validation_split out, or give a folder")
    validation = open_one(data.dataset, replace(options, split=split, max_rows=None), True)
    both = set(origin.files) & set(validation.origin.files)
    if both and Path(next(iter(both))).exists():
        raise ScratchError(f"{next(iter(both))} belongs to two splits, {data.dataset_split!r} and {split!r}: rename it")
    return train, validation


@dataclass
class ReadExamples(Generic[T]):
    """The examples of each split, and their summary."""

    parts: dict[str, list[T]]
    summary: DataSummary
    corpora: dict[str, Corpus[T]]  # the corpus of each split
    texts: Callable[[T], Iterable[str]]  # returns the texts of an example

    def skip(self, split: str, reason: str, count: int) -> None:
        """Count examples of a split that were rejected after tokenisation.

        Raises:
            ScratchError: too many rows can't be used.
        """
        self.summary.skip(split, reason, count)
        self.corpora[split].skip(reason, count)


def read_examples(
    corpora: tuple[Corpus[T], Corpus[T] | None],
    fractions: dict[str, float],
    seed: int,
    key: Callable[[T], str],
    row: Callable[[T], dict[str, Any]],
    texts: Callable[[T], Iterable[str]],
    label: Callable[[T], str] | None = None,
) -> ReadExamples[T]:
    """Read the corpora that `open_parts` returned; see `data.summary.read_parts` and `summarise` for the arguments."""
    train, validation = corpora
    parts = read_parts(train, validation, fractions, seed, key, label)
    sources = dict.fromkeys(parts, train) | ({} if validation is None else {"validation": validation})
    summary = summarise(train, validation, parts, row, texts, label)
    return ReadExamples(parts, summary, sources, texts)


def check_same_data(fingerprint: str, args: TrainingArguments) -> None:
    """Refuse to resume a run on other data than it was begun with.

    Raises:
        ScratchError: the data has changed since, and this is not allowed for.
    """
    folder = Path(args.output_dir)
    if not args.resume or args.allow_changed_settings or not (folder / RECORD).is_file():
        return
    if read_run(folder).data_fingerprint != fingerprint:
        raise ScratchError(
            f"the data has changed since the run in {args.output_dir} was begun: put it back as it was, start another "
            "run with --init_from, or insist with --allow_changed_settings true"
        )


def report_data(summary: DataSummary, main: bool) -> None:
    """Print the summary and its warnings, on the main process only."""
    if main:
        for line in summary.lines():
            SafeConsole().print(line)
        for warning in summary.warnings():
            SafeConsole(stderr=True).print(f"warning: {warning}", style="bold yellow")


def unknown_share(tokenizer: PreTrainedTokenizerBase, ids: Any) -> float:
    """Return the fraction of `<unk>` among token ids (an array of any shape)."""
    unk: Any = tokenizer.unk_token_id
    return 0.0 if unk is None or not len(ids) else float((ids == unk).mean())
