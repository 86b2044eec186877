"""Loss of a language model on general text, before and after it is tuned: it rises if the model forgets the language.

Metrics on held-out data of the tuning show what a model has learned, not what it has lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from ..data.batching.packing import PackedRows
from ..data.batching.token_shards import Shard
from ..data.corpora.general_english import PARAGRAPHS
from ..data.readers.sources import open_source
from ..data.readers.text import documents_of
from ..errors import ScratchError
from ..metrics import Metric
from ..tokenization.special_tokens import unknown_token_id
from ..tokenization.training import encode_batch
from .language_modeling import language_metrics

METRIC = Metric("general_loss", "loss on general text", "nats per token", show="general", index=False)
BEFORE = f"{METRIC.name}_before"
NONE = "none"  # the value of `--general_text` that measures nothing
MAX_TOKENS, MAX_UNKNOWN = 1 << 14, 0.05
ROW_LENGTH, BATCH_SIZE = 256, 4
# The run warns if the loss rises by more than FORGOTTEN nats per token, which is 1.6 times the perplexity, and says so
# from NOTICED on, if the model knew the text: if its loss was below the fraction KNOWN of that of a uniform
# distribution over the vocabulary.
FORGOTTEN, NOTICED, KNOWN = 0.5, 0.05, 0.75


class GeneralText:
    """General text, and the loss of the model on it before it was tuned.

    Args:
        name: what the text is, in words.
        texts: its documents; the first `MAX_TOKENS` tokens of them are used.
        tokenizer: of the model.
        row_length: number of tokens of a row, at most `ROW_LENGTH`.

    Raises:
        ScratchError: there is no text.
    """

    def __init__(self, name: str, texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, row_length: int):
        ids = list(_first_tokens(texts, tokenizer))
        if not ids:
            raise ScratchError(f"general_text: {name} has no text")
        tokens = np.concatenate(ids).astype(np.uint32)
        unknown_id = unknown_token_id(tokenizer)
        unknown = 0 if unknown_id is None else int((tokens == unknown_id).sum())
        ends = np.cumsum([len(part) for part in ids], dtype=np.int64)
        self.shard = Shard(tokens, ends, characters=len(tokens), utf8_bytes=len(tokens), unknown=unknown)
        self.rows = PackedRows.for_tokenizer(self.shard, min(row_length, ROW_LENGTH), tokenizer)
        self.known = KNOWN * math.log(len(tokenizer))
        self.name = f"{name}, {len(tokens):,} tokens"
        self.before: float | None = None

    @property
    def unknown_share(self) -> float:
        """Fraction of the tokens that are `<unk>`."""
        return self.shard.unknown / len(self.shard.tokens)

    def loss(self, accelerator: Accelerator, model: torch.nn.Module) -> float:
        """The mean loss in nats per token; every process calls it.

        Args:
            accelerator: the processes.
            model: in evaluation mode; may be wrapped by accelerate.
        """
        return language_metrics(accelerator, model, self.rows, self.shard, BATCH_SIZE)["val_loss"]

    def evaluate(self, accelerator: Accelerator, model: torch.nn.Module) -> dict[str, float]:
        """The metrics of an evaluation: the loss, and that before tuning if it is known; arguments as of `loss`."""
        before = {} if self.before is None else {BEFORE: self.before}
        return {METRIC.name: self.loss(accelerator, model), **before}


def open_general_text(
    name: str | None, tokenizer: PreTrainedTokenizerFast, row_length: int
) -> tuple[GeneralText | None, str]:
    """Open the general text of a run.

    Args:
        name: value of `--general_text`: a text dataset, "none", or None for the built-in English sample.
        tokenizer: of the model.
        row_length: number of tokens of a row.

    Returns:
        The text, or None if nothing is measured; and a line that says what is measured, or why nothing is.

    Raises:
        ScratchError: the dataset can't be opened.
    """
    if name == NONE:
        return None, "loss on general text: not measured, as requested"
    if name is None:
        text = GeneralText("a built-in English sample", PARAGRAPHS, tokenizer, row_length)
        if text.unknown_share > MAX_UNKNOWN:
            why = f"the tokenizer does not know {text.unknown_share:.0%} of the built-in English sample"
            return None, f"loss on general text: not measured, since {why}; give text with --general_text"
    else:
        source = open_source(name)
        text = GeneralText(source.name, documents_of(source), tokenizer, row_length)
    return text, f"loss on general text: measured on {text.name}"


def describe_change(text: GeneralText, before: float, after: float) -> tuple[str, bool]:
    """Describe how the loss on general text has changed: in nats, as perplexity, and in words.

    Args:
        text: the text.
        before, after: loss in nats per token before tuning, and of the published model.

    Returns:
        A line, and whether it is a warning.
    """
    change = after - before
    line = (
        f"loss on general text ({text.name}): {before:.4f} before, {after:.4f} after, nats per token "
        f"({change:+.4f}: perplexity {_perplexity(before)} before, {_perplexity(after)} after)"
    )
    if before > text.known:
        return f"{line}. It hardly knew this text before: give text that it was trained on as --general_text", False
    if change > FORGOTTEN:
        return f"{line}. It has forgotten much of it: lower the learning rate, or take fewer steps", True
    if change > NOTICED:
        return f"{line}. It predicts general text a little worse than before, so it has forgotten some of it", False
    return (
        f"{line}. It predicts general text as well as before: it has forgotten nothing that this text shows",
        False,
    )


def _perplexity(loss: float) -> str:
    """Perplexity of a loss in nats per token."""
    return f"{math.exp(min(loss, 700)):,.4g}"


def _first_tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """Yield the token ids of each document, until there are `MAX_TOKENS`."""
    left = MAX_TOKENS
    for text in texts:
        ids = encode_batch(tokenizer, [text[: 16 * left]])[0][:left]
        if ids:
            yield ids
        left -= len(ids)
        if left <= 0:
            return
