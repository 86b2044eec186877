"""Several texts with weights: `--dataset A:0.7 --dataset B:0.3`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from ....data.batching.mixture import passes_of
from ....data.batching.token_shards import Shard, shard_sizes
from ....data.readers.corpus import data_fingerprint, fingerprint_of
from ....data.readers.sources import Source
from ....data.readers.summary import DataSummary
from ....errors import ScratchError
from .. import common
from ..text_arguments import DataArguments
from .arguments import MixtureArguments

# Passes up to which repeated text is nearly as good as new text (Muennighoff et al. 2023, arXiv:2305.16264).
REPEATS = 4
TOKENIZER_CHARACTERS = 1 << 28  # of a mixture, on which a new tokenizer is trained


@dataclass(frozen=True)
class Text:
    """One text of a mixture.

    Attributes:
        weight: its share of the training tokens; the weights of all texts add up to 1.
        source, validation: the texts, and those of a separate validation split or None.
    """

    weight: float
    source: Source
    validation: Source | None


def weighted_names(datasets: Sequence[str]) -> list[tuple[str, float]]:
    """Split the values of `--dataset` into names and weights, which are normalised to add up to 1.

    A value that is the name of a file or folder is not split, whatever colons it has.

    Args:
        datasets: values such as "A:0.7"; a single one needs no weight.

    Raises:
        ScratchError: a weight is missing, or is not a finite number above 0.
    """
    named, wrong = [], []
    for value in datasets:
        name, _, text = value.rpartition(":")
        try:
            weight = None if not name or os.path.exists(value) else float(text)
        except ValueError:
            weight = None
        if weight is not None and not (math.isfinite(weight) and weight > 0):
            wrong.append(f"{value} has the weight {text}, want a finite number above 0")
        if weight is None and len(datasets) > 1:
            wrong.append(f"{value} has no weight, want {value}:WEIGHT, such as {value}:0.5")
        named.append((value, 1.0) if weight is None else (name, weight))
    if wrong:
        raise ScratchError("--dataset: " + "; ".join(wrong))
    total = sum(weight for _, weight in named)
    return [(name, weight / total) for name, weight in named]


def arguments_of_one(data: DataArguments, name: str) -> DataArguments:
    """The data arguments with a single text."""
    values = {field.name: getattr(data, field.name) for field in fields(DataArguments)}
    return DataArguments(**{**values, "dataset": name})


def open_texts(data: DataArguments, seed: int) -> list[Text]:
    """Open all texts.

    Args:
        data: data arguments; other families than language modelling name one text.
        seed: seed of the built-in data.

    Raises:
        ScratchError: a text can't be opened, is given twice, or there is a validation dataset for several.
    """
    named = weighted_names(data.dataset) if isinstance(data, MixtureArguments) else [(data.dataset, 1.0)]
    if len(named) > 1 and data.validation_dataset is not None:
        raise ScratchError(
            "--validation_dataset can't be used with several --dataset, of each of which a part is held out: remove it"
        )
    texts = []
    for name, weight in named:
        source, validation = common.open_sources(arguments_of_one(data, name), seed)
        texts.append(Text(weight, source, validation))
    names = [text.source.fingerprint() for text in texts] if len(texts) > 1 else []
    if twice := next((named[i][0] for i, name in enumerate(names) if name in names[:i]), None):
        raise ScratchError(
            f"--dataset {twice} is the same text as another one: give it once, with the sum of the weights"
        )
    return texts


def fingerprint(texts: Sequence[Text]) -> str:
    """Return a hash that changes whenever a text or its weight changes."""
    found = [
        data_fingerprint(text.source.origin, text.validation.origin if text.validation else None) for text in texts
    ]
    return found[0] if len(texts) == 1 else fingerprint_of(*found, *(f"{text.weight:.12g}" for text in texts))


def documents(texts: Sequence[Text]) -> Iterator[str]:
    """Iterate over the documents of all texts, in the proportions of the weights by characters, to train a tokenizer.

    A text that ends is read again, until each has been read once or `TOKENIZER_CHARACTERS` have been returned."""
    if len(texts) == 1:
        yield from texts[0].source.documents()
        return
    readers = [text.source.documents() for text in texts]
    characters, ended = [0.0] * len(texts), [False] * len(texts)
    while sum(characters) < TOKENIZER_CHARACTERS:
        index = min(range(len(texts)), key=lambda i: characters[i] / texts[i].weight)
        document = next(readers[index], None)
        if document is None:
            ended[index] = True
            if all(ended) or not characters[index]:
                return
            readers[index] = texts[index].source.documents()
            continue
        characters[index] += len(document)
        yield document


def prepare(
    accelerator: Accelerator, texts: Sequence[Text], tokenizer: PreTrainedTokenizerFast, data: DataArguments
) -> tuple[list[dict[str, Shard]], list[DataSummary]]:
    """Tokenise all texts; see `common.prepare_shards`.

    Args:
        accelerator: the processes.
        texts: the texts.
        tokenizer: of the model.
        data: data arguments.
    """
    shards, summaries = [], []
    for text in texts:
        one = arguments_of_one(data, text.source.name)
        found, summary = common.prepare_shards(accelerator, text.source, text.validation, tokenizer, one)
        shards.append(found)
        summaries.append(summary)
    return shards, summaries


def report(
    texts: Sequence[Text], shards: Sequence[dict[str, Shard]], summaries: Sequence[DataSummary], main: bool
) -> None:
    """Print the summary of each text, its share, and how often an epoch reads it.

    Args:
        texts, shards, summaries: of each text.
        main: whether this is the main process; the others print nothing.
    """
    for text, passes, summary in zip(texts, passes_over(texts, shards), summaries, strict=True):
        common.report_data(summary, main)
        if len(texts) > 1 and main:
            repeated = f"; text repeated more than {REPEATS} times teaches less" if passes > REPEATS else ""
            common.note(
                f"mixture: {text.weight:.4g} of the training tokens are of {summary.name}, of which an epoch is "
                f"{passes:.4g} pass{'' if passes == 1 else 'es'}{repeated}"
            )


def passes_over(texts: Sequence[Text], shards: Sequence[dict[str, Shard]]) -> list[float]:
    """Number of passes over each text in an epoch; see `data.batching.mixture`."""
    return passes_of([text.weight for text in texts], [len(found["train"].tokens) for found in shards])


def merge(texts: Sequence[Text], summaries: Sequence[DataSummary]) -> DataSummary:
    """Return one summary of all texts: their sums, and the names with the weights.

    Args:
        texts, summaries: of each text.
    """
    if len(texts) == 1:
        return summaries[0]
    sums = ("rows_read", "train_rows", "validation_rows", "characters", "duplicates", "shared", "validation_characters")
    skipped: dict[str, int] = {}
    for summary in summaries:
        for reason, count in summary.rows_skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    name = " + ".join(f"{text.weight:.4g} {summary.name}" for text, summary in zip(texts, summaries, strict=True))
    unknown = [summary.unknown_share or 0.0 for summary in summaries]
    return replace(
        summaries[0],
        name=name,
        built_in=all(summary.built_in for summary in summaries),
        files=[file for summary in summaries for file in summary.files],
        ignored={path: reason for summary in summaries for path, reason in summary.ignored.items()},
        rows_skipped=skipped,
        fingerprint=fingerprint(texts),
        unknown_share=sum(text.weight * share for text, share in zip(texts, unknown, strict=True)),
        too_little=None,
        **{field: sum(getattr(summary, field) for summary in summaries) for field in sums},
    )


def facts_of(
    texts: Sequence[Text], shards: Sequence[dict[str, Shard]], summaries: Sequence[DataSummary]
) -> dict[str, Any]:
    """Facts of a mixture for `run.yaml` and the card: the sizes of the splits, and weight, passes and tokens of each
    text; empty for a single text.

    Args:
        texts, shards, summaries: of each text.
    """
    if len(texts) == 1:
        return {}
    sizes = {split: [shard_sizes(found[split]) for found in shards] for split in ("train", "validation")}
    totals = {split: {name: sum(size[name] for size in found) for name in found[0]} for split, found in sizes.items()}
    rows = zip(texts, passes_over(texts, shards), shards, summaries, strict=True)
    mixture = [
        {"name": summary.name, "weight": text.weight, "passes": passes, "tokens": len(found["train"].tokens)}
        for text, passes, found, summary in rows
    ]
    return {**totals, "mixture": mixture}


def preview(data: MixtureArguments, seed: int) -> tuple[DataSummary, Any]:
    """The summary and the documents of a single text, for `scratch-gpt data`."""
    ((name, _),) = weighted_names(data.dataset)
    return common.preview_texts(arguments_of_one(data, name), seed)
