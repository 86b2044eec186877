"""What simple methods need for the same text as a language model, in bits per byte: compressors, tables of token
frequencies, and a model of the same architecture with random weights.

A model is a compressor: arithmetic coding with its probabilities needs as many bits as its loss says (Shannon 1948;
Delétang et al. 2023, arXiv:2309.10668). Bits per byte of the text are therefore comparable between models, tokenizers
and programs.

All baselines may learn from the training text, as the model did. A compressor's number is the increase of its
compressed size when the validation text is appended to the training text, of which only the end within its window
counts: 32 kB for gzip. Compressed alone, the validation text would need more bits, since a compressor starts without
knowledge. The size of an empty file is not counted.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..data.batching.packing import PackedRows
from ..data.batching.token_shards import Shard
from .language_modeling import sum_of_losses

# Bounds of time and memory. On two cores, all baselines of a text of any size take a few seconds.
VALIDATION_BYTES, TRAINING_BYTES = 1 << 20, 1 << 22  # of text, for compressors; the window of xz holds both
GZIP_WINDOW = 1 << 15
TRAINING_TOKENS = 1 << 23  # for the tables of token frequencies
SCORED_TOKENS = 1 << 14  # of the validation text, for the model with random weights
MOST_PARAMETERS = 200_000_000  # of a model with random weights
LOSSY = 0.01  # fraction of unknown tokens, or of missing bytes, above which compressors are not compared
SEPARATOR = "\n"  # between documents, for compressors


@dataclass(frozen=True)
class Baseline:
    """What a method needs for the validation text.

    Attributes:
        name: key in `metrics.jsonl`, after "baseline_".
        title: name in tables.
        bits_per_byte: bits per byte of the text, or None if it was not measured.
        note: how it was measured, or why it was not.
    """

    name: str
    title: str
    bits_per_byte: float | None
    note: str


def cut(shard: Shard, start: int, stop: int) -> Shard:
    """Return the tokens `start` to `stop` of a shard; the size of their text is estimated from that of the whole.

    Args:
        shard: tokens of a text, without a mask of scored tokens.
        start, stop: first token, and the one after the last.
    """
    inside = shard.ends[(shard.ends > start) & (shard.ends < stop)] - start
    fraction = (stop - start) / max(1, len(shard.tokens))
    characters, utf8_bytes, unknown = (
        round(fraction * size) for size in (shard.characters, shard.utf8_bytes, shard.unknown)
    )
    return Shard(shard.tokens[start:stop], np.append(inside, stop - start), characters, utf8_bytes, unknown)


def beginning(shard: Shard, utf8_bytes: int) -> Shard:
    """Return the first tokens of a shard, of about this number of bytes of text; all of them if the text is shorter."""
    return cut(shard, 0, _tokens_of(shard, utf8_bytes))


def end(shard: Shard, utf8_bytes: int) -> Shard:
    """Return the last tokens of a shard, of about this number of bytes of text; all of them if the text is shorter."""
    return cut(shard, len(shard.tokens) - _tokens_of(shard, utf8_bytes), len(shard.tokens))


def _tokens_of(shard: Shard, utf8_bytes: int) -> int:
    total = len(shard.tokens)
    return total if shard.utf8_bytes <= utf8_bytes else max(1, total * utf8_bytes // shard.utf8_bytes)


def text_of(tokenizer: PreTrainedTokenizerBase, shard: Shard) -> str:
    """Decode a shard; documents are joined by line ends.

    Args:
        tokenizer: that the shard was encoded with.
        shard: tokens of a text.
    """
    starts = np.concatenate(([0], shard.ends[:-1]))
    documents = [shard.tokens[a:b].tolist() for a, b in zip(starts, shard.ends, strict=True)]
    options: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return SEPARATOR.join(tokenizer.batch_decode(documents, **options))


def measure_baselines(
    model: Any, tokenizer: PreTrainedTokenizerBase, shards: dict[str, Shard], row_length: int
) -> list[Baseline]:
    """Measure all baselines on the validation text.

    Args:
        model: a causal language model, whose class and config are those of the one with random weights.
        tokenizer: of the model.
        shards: "validation" and, if the training text is known, "train".
        row_length: length of a row in tokens.

    Returns:
        The baselines, from the weakest by experience to the strongest.
    """
    train, validation = shards.get("train"), beginning(shards["validation"], VALIDATION_BYTES)
    return [
        untrained_model(model, tokenizer, validation, row_length),
        *token_tables(train, validation, len(tokenizer)),
        *compressors(tokenizer, train, validation),
    ]


def untrained_model(model: Any, tokenizer: PreTrainedTokenizerBase, validation: Shard, row_length: int) -> Baseline:
    """The model before training: the same architecture with random weights, by the seed 0.

    Args:
        model: the trained model.
        tokenizer: of the model.
        validation: validation text.
        row_length: length of a row in tokens.
    """
    name, title = "untrained", "the same model, untrained"
    if (parameters := model.num_parameters()) > MOST_PARAMETERS:
        return Baseline(name, title, None, f"not measured: over {MOST_PARAMETERS:,} parameters ({parameters:,})")
    with torch.random.fork_rng(devices=[]):  # the random state of the caller is restored
        torch.manual_seed(0)
        untrained = type(model)(model.config).to(model.device, model.dtype).eval()
    piece = cut(validation, 0, min(SCORED_TOKENS, len(validation.tokens)))
    bits = mean_loss(untrained, tokenizer, piece, row_length) / math.log(2) * bytes_per_token(validation)
    of = "" if len(piece.tokens) == len(validation.tokens) else f", on the first {len(piece.tokens):,} tokens"
    return Baseline(name, title, bits, f"random weights{of}")


def bytes_per_token(shard: Shard) -> float:
    """Return the number of tokens per byte of text: a loss per token times it is the loss per byte."""
    return len(shard.tokens) / max(1, shard.utf8_bytes)


def mean_loss(model: Any, tokenizer: PreTrainedTokenizerBase, piece: Shard, row_length: int) -> float:
    """Mean loss of a text in nats per token, in this process alone.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: of the model.
        piece: the text.
        row_length: length of a row in tokens.
    """
    rows, total = PackedRows.for_tokenizer(piece, row_length, tokenizer), 0.0
    with torch.no_grad():
        for batch in rows.ordered_batches(max(1, 4096 // row_length)):
            total += sum_of_losses(model, {name: part.to(model.device) for name, part in batch.items()}).item()
    return total / len(piece.tokens)


def token_tables(train: Shard | None, validation: Shard, vocab_size: int) -> list[Baseline]:
    """Tables of token frequencies in the training text.

    The unigram table has the frequency of each token, with one added to each count. The bigram table has the frequency
    of each pair of tokens, interpolated with the unigram table by Witten-Bell smoothing (Witten & Bell 1991): if a was
    followed by T different tokens in n places, P(b | a) = (n_ab + T P(b)) / (n + T).

    Args:
        train: training text, or None if it is unknown.
        validation: validation text.
        vocab_size: number of tokens.
    """
    titles = (("unigram", "unigram table of its tokens"), ("bigram", "bigram table of its tokens"))
    if train is None:
        why = "not measured: it needs the training text (--held_out as in training)"
        return [Baseline(name, title, None, why) for name, title in titles]
    counted = train.tokens[-TRAINING_TOKENS:].astype(np.int64)
    scored = validation.tokens.astype(np.int64)
    size = max(vocab_size, int(counted.max()) + 1, int(scored.max()) + 1)
    unigram = (np.bincount(counted, minlength=size) + 1) / (len(counted) + size)
    pairs, times = np.unique(counted[:-1] * size + counted[1:], return_counts=True)
    followers = np.bincount(pairs // size, minlength=size)  # T of each token
    places = np.bincount(counted[:-1], minlength=size)  # n of each token
    a, b = scored[:-1], scored[1:]
    place = np.minimum(np.searchsorted(pairs, a * size + b), max(0, len(pairs) - 1))
    found = np.where(pairs[place] == a * size + b, times[place], 0) if len(pairs) else np.zeros(len(a), np.int64)
    seen = places[a] + followers[a]
    bigram = np.where(seen > 0, (found + followers[a] * unigram[b]) / np.maximum(seen, 1), unigram[b])
    first = unigram[scored[:1]]  # it has no token before it
    of = "the" if len(counted) == len(train.tokens) else f"the last {len(counted):,}"
    note = f"counts of {of} training tokens"
    probabilities = (unigram[scored], np.concatenate([first, bigram]))
    return [
        Baseline(name, title, float(-np.log2(p).sum()) / max(1, validation.utf8_bytes), note)
        for (name, title), p in zip(titles, probabilities, strict=True)
    ]


def compressors(tokenizer: PreTrainedTokenizerBase, train: Shard | None, validation: Shard) -> list[Baseline]:
    """gzip and xz, on the text that the tokens stand for.

    Args:
        tokenizer: of the model.
        train: training text, or None if it is unknown: then the validation text is compressed alone.
        validation: validation text.
    """
    methods: tuple[tuple[str, int, Callable[[bytes], bytes]], ...] = (
        ("gzip", GZIP_WINDOW, lambda data: zlib.compress(data, 9)),
        ("xz", TRAINING_BYTES, lambda data: lzma.compress(data, preset=6)),  # its window has 8 MiB
    )
    data = text_of(tokenizer, validation).encode("utf-8", "replace")
    separators = len(validation.ends) - 1
    missing = abs(len(data) - separators - validation.utf8_bytes) / max(1, validation.utf8_bytes)
    if max(missing, validation.unknown / len(validation.tokens)) > LOSSY:
        why = "not measured: the tokenizer does not restore the text"
        return [Baseline(name, name, None, why) for name, _, _ in methods]
    known = b"" if train is None else f"{text_of(tokenizer, end(train, TRAINING_BYTES))}{SEPARATOR}".encode()
    found = []
    with ThreadPoolExecutor() as pool:  # the compressors release Python's lock
        for name, window, compress in methods:
            context = known[-window:]
            before, after = pool.map(lambda part, run=compress: len(run(part)), (context, context + data))
            bits = 8 * (after - before) / max(1, len(data) - separators)
            after_training = f"after the last {len(context) / 1000:,.0f} kB of the training text"
            note = after_training if train is not None else "the validation text alone"
            found.append(Baseline(name, name, bits, note))
    return found
