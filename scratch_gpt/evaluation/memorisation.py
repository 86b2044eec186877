"""Whether a language model memorises its training text: its loss on training and validation text, and the longest
stretch of generated texts that is copied from the training text.

A low training loss alone does not show it, and neither does a copied stretch: common phrases occur in any two texts of
one author. Both are therefore compared with the validation text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.batching.token_shards import Shard
from .baselines import SCORED_TOKENS, TRAINING_BYTES, VALIDATION_BYTES, beginning, cut, end, mean_loss, text_of

OVERFITS, FITS_BETTER = 0.15, 0.05  # excess of the validation loss over the training loss, as a fraction of the latter
SMALLEST_EXCESS = 0.05  # nats per token, below which it says nothing, however small the training loss is
COPIES = 2.0  # a stretch this many times as long as one of the validation text is copied
SHORTEST_COPY = 40  # characters below which a stretch is not called copied
QUOTED = 80  # characters
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial hash, odd: it has an inverse modulo 2^64
HASH_END = 20  # bits of a hash by which most of those that are not wanted are excluded
SMALL_MODEL, FEWEST_TOKENS = 30_000_000, 1 << 11  # parameters from which on fewer tokens are scored


@dataclass(frozen=True)
class Memorisation:
    """How well a model knows its training text.

    Attributes:
        train_loss, validation_loss: in nats per token, on `tokens` tokens each.
        tokens: number of scored tokens of each text.
        copied: longest stretch of the generated texts that the training text contains.
        usual: length of the longest such stretch of as much validation text, in characters.
        samples: number of generated texts.
    """

    train_loss: float
    validation_loss: float
    tokens: int
    copied: str
    usual: int
    samples: int

    def lines(self) -> tuple[str, str]:
        """Two lines with a plain reading: of the losses, and of the longest copied stretch."""
        first = compare_losses(self.train_loss, self.validation_loss, f"nats per token on {self.tokens:,} tokens each")
        if not self.samples:
            return first, "copied passages: not measured, since no text was generated"
        shown = " ".join(self.copied.split())
        quoted = f"{shown[:QUOTED]}…" if len(shown) > QUOTED else shown
        words = len(self.copied.split())
        size = f"{len(self.copied):,} characters, {words:,} word{'s' * (words != 1)}: {quoted!r}"
        second = f"the longest passage of {self.samples} generated texts that is also in the training text has {size}"
        control = f"as much held-out text shares up to {self.usual:,} characters with it"
        if len(self.copied) > max(SHORTEST_COPY, COPIES * self.usual):
            return first, f"{second}; {control}: the model recites its training text"
        return first, f"{second}; {control}: nothing unusual"


def compare_losses(train: float, validation: float, unit: str, material: str = "text") -> str:
    """Say whether a model overfits, in a sentence with its losses.

    Args:
        train, validation: losses in nats per token, on as many tokens each.
        unit: of the losses, and what they were measured on.
        material: what the model is trained on.
    """
    excess, ratio = validation - train, validation / max(train, 1e-9)
    higher = f" ({ratio - 1:.0%} higher)" if ratio < 10 else ""
    losses = f"train {train:.2f}, validation {validation:.2f} {unit}"
    if excess > max(SMALLEST_EXCESS, OVERFITS * train):
        advice = f"use more {material} or dropout, fewer epochs, or a smaller model"
        return f"the model overfits: {losses}{higher}; {advice}"
    if excess > max(SMALLEST_EXCESS, FITS_BETTER * train):
        return f"the model knows the training {material} slightly better than other {material}: {losses}{higher}"
    return f"the model does not overfit: {losses}"


def measure_memorisation(
    model: Any, tokenizer: PreTrainedTokenizerBase, shards: dict[str, Shard], row_length: int, samples: list[str]
) -> Memorisation:
    """Measure how well a model knows its training text.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: of the model.
        shards: "train" and "validation"; of the training text, the last `TRAINING_BYTES` are searched for copies.
        row_length: length of a row in tokens.
        samples: texts that the model generated.
    """
    train, validation = shards["train"], shards["validation"]
    most = max(FEWEST_TOKENS, int(SCORED_TOKENS * min(1.0, SMALL_MODEL / model.num_parameters())))
    count = min(most, len(train.tokens), len(validation.tokens))
    pieces = cut(train, len(train.tokens) - count, len(train.tokens)), cut(validation, 0, count)
    train_loss, validation_loss = (mean_loss(model, tokenizer, piece, row_length) for piece in pieces)
    training_text = text_of(tokenizer, end(train, TRAINING_BYTES))
    held_out = text_of(tokenizer, beginning(validation, VALIDATION_BYTES))
    copied, usual = longest_copy(samples, training_text), longest_copy(_pieces(held_out, samples), training_text)
    return Memorisation(train_loss, validation_loss, count, copied, len(usual), len(samples))


def _pieces(text: str, like: list[str]) -> list[str]:
    """Cut a text into pieces as long as those of `like`, as far as it goes."""
    ends = np.cumsum([len(piece) for piece in like])
    return [text[stop - len(piece) : stop] for piece, stop in zip(like, ends.tolist(), strict=True)]


def longest_copy(texts: list[str], source: str) -> str:
    """Return the longest stretch of one of `texts` that `source` contains; the first of several.

    A stretch of n characters is found by its hash among those of all stretches of n characters of the source (Karp &
    Rabin 1987), and the greatest n by bisection, since a part of a copied stretch is copied too. Takes O(N log M) for
    N characters of the source and M of the longest text.

    Args:
        texts: the texts to search.
        source: the text that may be copied from.
    """
    known, best = _Hashes(source), ""
    parts = [_Hashes(text) for text in texts]
    low, high = 0, min(max((len(text) for text in texts), default=0), len(source))
    while low < high:
        length = (low + high + 1) // 2
        if found := _common(parts, known, length):
            best, low = found, length
        else:
            high = length - 1
    return best


def _common(parts: list[_Hashes], known: _Hashes, length: int) -> str:
    """The first stretch of this length that one of the texts has in common with the known one, or ""."""
    wanted = [part.of(length) for part in parts]
    among = np.concatenate(wanted)
    is_end = np.zeros(1 << HASH_END, bool)  # whether a hash that ends in these bits is wanted
    last_bits = np.uint64(len(is_end) - 1)
    is_end[among & last_bits] = True
    hashes = known.of(length)
    common = np.intersect1d(hashes[is_end[hashes & last_bits]], among)
    for part, own in zip(parts, wanted, strict=True):
        for start in np.flatnonzero(np.isin(own, common)).tolist():
            if (stretch := part.text[start : start + length]) in known.text:  # not only the same hash
                return stretch
    return ""


class _Hashes:
    """Polynomial hashes of all stretches of a text, modulo 2^64: each is a difference of two prefix sums."""

    def __init__(self, text: str):
        self.text = text
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
        # Mixed, since hashes modulo 2^64 of plain codes collide for texts that are built for it.
        codes = (codes + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
        codes ^= codes >> np.uint64(31)
        inverse = np.uint64(pow(int(BASE), -1, 1 << 64))
        self.sums = np.concatenate(([np.uint64(0)], np.cumsum(codes * _powers(BASE, len(codes)))))
        self.inverses = _powers(inverse, len(codes))

    def of(self, length: int) -> np.ndarray:
        """Hashes of the stretches of this length, in the order of their starts."""
        if length > len(self.text):
            return np.empty(0, np.uint64)
        return (self.sums[length:] - self.sums[: len(self.sums) - length]) * self.inverses[: len(self.sums) - length]


def _powers(base: np.uint64, count: int) -> np.ndarray:
    """1, base, base², … modulo 2^64."""
    return np.cumprod(np.concatenate(([np.uint64(1)], np.full(max(0, count - 1), base))), dtype=np.uint64)[:count]
