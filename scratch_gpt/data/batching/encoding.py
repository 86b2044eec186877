"""Tokenise parallel and labelled text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from ...tokenization.language_codes import target_mode
from ...tokenization.special_tokens import end_token_id, surrounding_tokens
from ...tokenization.training import encode_batch
from ..readers.labelled import Example
from ..readers.parallel import Pair
from .token_lists import Tokens

BATCH_PAIRS = 4096
BATCH_TEXTS = 4096


@dataclass(frozen=True)
class Pairs:
    """Tokenised pairs.

    Attributes:
        source, target: the two sides; both have the same number of texts.
        num_too_long: number of pairs with a side longer than the limit, which were truncated or skipped.
    """

    source: Tokens
    target: Tokens
    num_too_long: int

    def __len__(self) -> int:
        return len(self.source)


def encode_pairs(
    pairs: Iterator[Pair],
    source_tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    skip_long: bool,
    progress: Callable[[int], Any] = lambda count: None,
) -> Pairs:
    """Tokenise pairs with the special tokens of each tokenizer's template, as `translate` does. Both sides have the
    token that ends a text (`<eos>`), also if the template does not have it.

    Args:
        pairs: source and target texts.
        source_tokenizer, target_tokenizer: the tokenizer of each side.
        max_length: maximum length in tokens, including special tokens, which are kept when a text is truncated.
        skip_long: skip pairs with a longer side instead of truncating them.
        progress: called with the number of pairs tokenised since the last call.
    """
    sides: tuple[list, list] = ([], [])
    tokenizers, num_too_long = (source_tokenizer, target_tokenizer), 0
    with target_mode(target_tokenizer):
        target_tokens = _special_tokens(target_tokenizer)
    around = _special_tokens(source_tokenizer), target_tokens
    rooms = [max(0, max_length - len(before) - len(after)) for before, after in around]
    while batch := list(islice(pairs, BATCH_PAIRS)):
        texts = zip(*batch, strict=True)
        encoded = [encode_batch(tokenizer, list(side)) for tokenizer, side in zip(tokenizers, texts, strict=True)]
        for pair in zip(*encoded, strict=True):
            too_long = any(len(ids) > room for ids, room in zip(pair, rooms, strict=True))
            num_too_long += too_long
            if too_long and skip_long:
                continue
            for ids, room, (before, after), side in zip(pair, rooms, around, sides, strict=True):
                side.append([*before, *ids[:room], *after])
        progress(len(batch))
    return Pairs(Tokens.of(sides[0]), Tokens.of(sides[1]), num_too_long)


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text, of which those after it include the token that ends a text."""
    before, after = surrounding_tokens(tokenizer)
    end = end_token_id(tokenizer)
    return before, after if end is None or end in after else [*after, end]


@dataclass(frozen=True)
class LabelledTokens:
    """Tokenised texts and their labels.

    Attributes:
        tokens: N tokenised texts.
        labels: label ids, int64, shape (N,).
        num_too_long: number of texts longer than the limit, which were truncated.
    """

    tokens: Tokens
    labels: np.ndarray
    num_too_long: int

    def __len__(self) -> int:
        return len(self.tokens)


def encode_examples(
    examples: Sequence[Example],
    names: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    progress: Callable[[int], Any] = lambda count: None,
) -> LabelledTokens:
    """Tokenise texts with special tokens, truncated to `max_length` tokens.

    Args:
        examples: texts and their labels.
        names: label names; a label id is an index into them.
        tokenizer: a fast tokenizer; a special token at the end is kept when a text is truncated.
        max_length: maximum length in tokens, including special tokens.
        progress: called with the number of texts tokenised since the last call.
    """
    encoded: list[list[int]] = []
    for start in range(0, len(examples), BATCH_TEXTS):
        texts = [text for text, _ in examples[start : start + BATCH_TEXTS]]
        encoded += encode_batch(tokenizer, texts, add_special_tokens=True)
        progress(len(texts))
    num_too_long = sum(len(ids) > max_length for ids in encoded)
    ends_with_special = bool(encoded) and encoded[0][-1] in tokenizer.all_special_ids
    keep = max_length - 1
    truncated = [
        ids if len(ids) <= max_length else ids[:keep] + ids[-1:] if ends_with_special else ids[:max_length]
        for ids in encoded
    ]
    label_ids = {name: number for number, name in enumerate(names)}
    labels = np.array([label_ids[label] for _, label in examples], dtype=np.int64)
    return LabelledTokens(Tokens.of(truncated), labels, num_too_long)
