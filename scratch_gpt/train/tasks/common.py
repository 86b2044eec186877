"""Data setup shared by the training commands: reading options, splits, and the summary that is printed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from accelerate import Accelerator, PartialState
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...cache import cache_directory, make_cache
from ...data.batching.token_shards import Shard, prepare_texts
from ...data.readers import text
from ...data.readers.corpus import Corpus, Origin
from ...data.readers.sources import Source, open_source
from ...data.readers.summary import SAMPLE_CHARACTERS, SAMPLES, DataSummary, read_parts, summarise, summarise_texts
from ...data.readers.tables import ReadOptions
from ...errors import ScratchError
from ...evaluation import general_text
from ...evaluation.general_text import GeneralText
from ...hub.loading import open_tokenizer
from ...terminal import SafeConsole
from ...tokenization.answers import marked_text
from ...tokenization.special_tokens import unknown_token_id
from ...tokenization.training import BUILDERS, Template, train_tokenizer
from ..arguments.training import DatasetArguments, TrainingArguments, check_arguments
from ..engine.run_directory import RECORD, read_run
from .text_arguments import DataArguments


class HasOrigin(Protocol):
    """A corpus, or a source of texts."""

    origin: Origin


C = TypeVar("C", bound=HasOrigin)
T = TypeVar("T")
DEFAULT_CONTEXT_LENGTH = 256
MAX_PROMPT = 300  # characters of the example on the card
TOKENIZER_FORMAT = 2  # of the cache of trained tokenizers; a change of how they are trained increments it
DROPOUT_FIELDS = ("embedding_dropout", "attention_dropout", "residual_dropout")
HEADERS = {"auto": None, "yes": True, "no": False}


def read_options(data: DatasetArguments, max_rows: int | None) -> ReadOptions:
    """Convert command-line arguments to reading options.

    Raises:
        ScratchError: a value is invalid; all invalid values are reported together.
    """
    check_arguments(data)
    delimiter = {"tab": "\t", "\\t": "\t"}.get(data.delimiter or "", data.delimiter)
    if delimiter is not None and len(delimiter) != 1:
        raise ScratchError(f"delimiter is {delimiter!r}, want one character, or 'tab'")
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
        raise ScratchError(f"{names} can't be used with {origin.name}: remove it")
    if data.validation_dataset is not None:
        rest = replace(options, split=data.validation_split or "validation", max_rows=None)
        return train, open_one(data.validation_dataset, rest, True)
    split = data.validation_split or origin.validation_split
    if split is None:
        return train, None
    if split == data.dataset_split:
        raise ScratchError(f"validation_split is {split!r}, which is the training split: choose another")
    if data.validation_split is not None and origin.split is None:
        raise ScratchError(f"{origin.name} has no splits: remove --validation_split, or give a folder")
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
    """Read the corpora that `open_parts` returned.

    Args:
        corpora: training data, and validation data or None.
        fractions: fraction to hold out for each further split.
        seed: seed of the split.
        key: returns the key of an example; those with the same key are in the same split.
        row: returns an example as a row with named columns, for the summary.
        texts: returns the texts of an example.
        label: returns the label of an example, if there are labels.
    """
    train, validation = corpora
    parts = read_parts(train, validation, fractions, seed, key, label)
    sources = dict.fromkeys(parts, train) | ({} if validation is None else {"validation": validation})
    summary = summarise(train, validation, parts, row, texts, label)
    return ReadExamples(parts, summary, sources, texts)


def check_same_data(fingerprint: str, args: TrainingArguments) -> None:
    """Refuse to resume a run with other data than it was started with.

    Raises:
        ScratchError: the data has changed, and `--allow_changed_settings` is not given.
    """
    folder = Path(args.output_dir)
    if not args.resume or args.allow_changed_settings or not (folder / RECORD).is_file():
        return
    if read_run(folder).data_fingerprint != fingerprint:
        raise ScratchError(
            f"the data has changed since the run in {args.output_dir} was started: restore it, start a new run with "
            "--init_from, or allow it with --allow_changed_settings"
        )


def report_data(summary: DataSummary, main: bool) -> None:
    """Print the summary and its warnings, on the main process only."""
    if main:
        for line in summary.lines():
            SafeConsole().print(line)
        for warning in summary.warnings():
            SafeConsole(stderr=True).print(f"warning: {warning}", style="bold yellow")


def note(line: str) -> None:
    """Print a line about a choice that was made, on the main process only."""
    if PartialState().is_main_process:
        SafeConsole().print(line, highlight=False)


def show_learned(tokenizer: PreTrainedTokenizerBase, ids: list[int], scored: list[bool]) -> None:
    """Print one training sequence, with what is learned of it marked.

    Args:
        tokenizer: of the model.
        ids: token ids (T).
        scored: whether each token is learned (T).
    """
    text = marked_text(tokenizer, ids, scored)
    note(f"The first training sequence; what stands between « and » is learned:\n\n{text}\n")


def unknown_share(tokenizer: PreTrainedTokenizerBase, ids: Any) -> float:
    """Return the fraction of `<unk>` among token ids (an array of any shape)."""
    unk = unknown_token_id(tokenizer)
    return 0.0 if unk is None or not len(ids) else float((ids == unk).mean())


def open_sources(args: DataArguments, seed: int) -> tuple[Source, Source | None]:
    """Open the training texts and, if there is a separate split or dataset for it, the validation texts."""

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Source:
        own = {"text_column": args.text_column} if dataset != "stories" else {}
        return open_source(dataset, options, num_stories=args.num_stories, seed=seed + validation, **own)

    return open_parts(args, args.max_documents, open_one)


def build_tokenizer(
    name: str,
    vocab_size: int | None,
    documents: Callable[[], Iterable[str]],
    fingerprint: str,
    max_length: int,
    template: Template = "causal",
) -> PreTrainedTokenizerFast:
    """Train a tokenizer, or open an existing one. Trained tokenizers are cached by the fingerprint of the documents.

    Args:
        name: kind of tokenizer to train, or directory or Hub id of an existing one.
        vocab_size: maximum size of a new vocabulary; None is the default of its kind.
        documents: returns the texts to train on.
        fingerprint: hash of these texts.
        max_length: maximum length of a sequence in tokens, for the tokenizer's config.
        template: special tokens around a text.
    """
    if name not in BUILDERS:
        return open_tokenizer(name, report=note)
    settings = json.dumps([TOKENIZER_FORMAT, name, vocab_size, fingerprint, max_length, template])
    entry = cache_directory() / "tokenizers" / hashlib.sha256(settings.encode()).hexdigest()[:32]
    if not (entry / "tokenizer_config.json").exists():
        tokenizer = train_tokenizer(documents(), name, vocab_size, template, model_max_length=max_length)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(prefix=f"{entry.name}.", dir=make_cache("tokenizers")) as staging_dir:
            tokenizer.save_pretrained(staging_dir)
            shutil.rmtree(entry, ignore_errors=True)
            shutil.copytree(staging_dir, staging_dir + ".whole")
            os.replace(staging_dir + ".whole", entry)
    return open_tokenizer(str(entry))


def prepare_shards(
    accelerator: Accelerator,
    source: Source,
    validation: Source | None,
    tokenizer: PreTrainedTokenizerFast,
    args: DataArguments,
) -> tuple[dict[str, Shard], DataSummary]:
    """Tokenise on the first process, with a progress bar; the others read the result from the cache.

    Args:
        accelerator: the processes.
        source: training texts.
        validation: validation texts, or None to hold out part of `source`.
        tokenizer: tokenizer of the model.
        args: data arguments.

    Returns:
        The shards "train" and "validation", and a summary of the data.
    """
    bar = tqdm(
        total=source.expected_characters(),
        desc=f"tokenising {source.name}",
        unit=" characters",
        unit_scale=True,
        leave=False,
        disable=not accelerator.is_main_process or None,
    )
    with accelerator.main_process_first(), bar:
        shards, reading = prepare_texts(
            source,
            tokenizer,
            args.validation_fraction,
            validation,
            bar.update,
            seed=args.split_seed,
            num_processes=args.data_processes,
            report=note,
        )
    summary = summarise_texts(source, validation, reading)
    summary.unknown_share = shards["train"].unknown / max(1, len(shards["train"].tokens))
    summary.samples = [reading.prompt]
    return shards, summary


def open_general_text(name: str | None, tokenizer: PreTrainedTokenizerFast, row_length: int) -> GeneralText | None:
    """Open the text on which the loss is measured before and after tuning, and say what it is.

    Args:
        name: value of `--general_text`.
        tokenizer: of the model.
        row_length: number of tokens of a row.
    """
    found, line = general_text.open_general_text(name, tokenizer, row_length)
    note(line)
    return found


def dropout_fields(args: Any) -> dict[str, Any]:
    """Return the config fields for `--dropout` and `--attention_dropout`, if these are given."""
    chosen = dict.fromkeys(DROPOUT_FIELDS, args.dropout)
    if getattr(args, "attention_dropout", None) is not None:
        chosen["attention_dropout"] = args.attention_dropout
    return {name: value for name, value in chosen.items() if value is not None}


def first_words(text: str, characters: int) -> str:
    """The whole words within the first `characters` of a text.

    Returns:
        At least a word; without spaces, the first `characters`.
    """
    start = " ".join(text[: 4 * characters].split())
    if len(start) <= characters:
        return start
    return start[: characters + 1].rpartition(" ")[0] or start[:characters]


def run_facts(
    style: str,
    summary: DataSummary,
    license: str | None,
    prompt: str,
    context_length: int,
    **more: Any,
) -> dict[str, Any]:
    """Facts about model and data for `run.yaml` and the model card.

    Args:
        style: preset of a new model, or class of one from a checkpoint.
        summary: summary of the data.
        license: license of the data; that of built-in data is known.
        prompt: an example of an input.
        context_length: in tokens.
        more: facts of the family, such as the sizes of the splits.
    """
    return {
        "style": style,
        "dataset": summary.name,
        "license": "apache-2.0" if summary.built_in else license,
        "prompt": first_words(prompt, MAX_PROMPT) if len(prompt) > MAX_PROMPT else prompt,
        "context_length": context_length,
        "data": summary.record(),
        **more,
    }


def preview_of(
    read: Callable[[Any, int], ReadExamples[Any]], separate: bool = False
) -> Callable[[Any, int], tuple[DataSummary, Any]]:
    """Return `DataPreview.read` for a family that reads examples.

    Args:
        read: reads the examples, given the data arguments and a seed.
        separate: whether the texts of an example are tokenised separately, such as the sides of a pair.
    """

    def preview(data: Any, seed: int) -> tuple[DataSummary, Callable[[], Iterable[str]]]:
        found = read(data, seed)
        examples = [example for part in found.parts.values() for example in part]
        whole = (lambda texts: texts) if separate else (lambda texts: ["\n".join(texts)])
        return found.summary, lambda: (text for example in examples for text in whole(found.texts(example)))

    return preview


def preview_texts(data: DataArguments, seed: int) -> tuple[DataSummary, Callable[[], Iterable[str]]]:
    """The summary of plain text, and a function that iterates over its documents; for `scratch-gpt data`."""
    source, validation = open_sources(data, seed)
    reading = text.read_texts(source, validation, data.validation_fraction, data.split_seed)
    summary = summarise_texts(source, validation, reading)
    beginnings = islice(text.beginnings(source, SAMPLE_CHARACTERS), SAMPLES)
    summary.samples = [{"text": beginning} for beginning in beginnings]
    both = [source] if validation is None else [source, validation]
    return summary, lambda: (document for one in both for document in text.documents_of(one))
