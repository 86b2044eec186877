"""Batches of texts, or of pairs of texts, of similar lengths, with about as many tokens each.

They are put into buckets by length (of pairs: that of the longer side), rounded up, and all batches of a bucket have
one shape: there is little padding, and there are few shapes, for each of which a processor has to compile its kernels
anew. The batches of an epoch are a pure function of (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from .encoding import LabelledTokens, Pairs
from .token_lists import Tokens

Batch = dict[str, torch.Tensor]
Plan = list[tuple[int, np.ndarray]]  # for each batch: the length of its rows, and the numbers of its texts


def bucket_length(length: np.ndarray) -> np.ndarray:
    """Round lengths up, finely where they are short."""
    step = np.where(length <= 24, 2, np.where(length <= 40, 4, np.where(length <= 128, 8, 32)))
    return -(-length // step) * step


class Buckets:
    """Which texts are taken together.

    Args:
        lengths: of each text, in tokens.
        tokens_per_batch: rows times length, padding included.
        seed: None keeps texts and batches in order of length, for evaluation.
    """

    def __init__(self, lengths: np.ndarray, tokens_per_batch: int, seed: int | None = None):
        self.tokens_per_batch, self.seed = tokens_per_batch, seed
        self.lengths, self.longest = bucket_length(lengths), int(lengths.max(initial=0))
        self.plan = lru_cache(maxsize=2)(self._plan)

    def _plan(self, epoch: int) -> Plan:
        generator = None if self.seed is None else np.random.default_rng((self.seed, epoch))
        plan: Plan = []
        for length in np.unique(self.lengths):
            numbers = np.flatnonzero(self.lengths == length)
            if generator is not None:
                numbers = generator.permutation(numbers)
            rows = max(1, self.tokens_per_batch // int(length))
            rows = rows // 8 * 8 or rows
            padded_to = min(int(length), self.longest)  # the longest text may fill all positions of a model
            plan += [(padded_to, numbers[i : i + rows]) for i in range(0, len(numbers), rows)]
        return plan if generator is None else [plan[i] for i in generator.permutation(len(plan))]


def padded(texts: Tokens, numbers: np.ndarray, length: int, fill: int) -> np.ndarray:
    """Some texts as rows (B, length), filled up on the right."""
    rows = np.full((len(numbers), length), fill, dtype=np.int64)
    for row, number in enumerate(numbers):
        text = texts[number]
        rows[row, : len(text)] = text
    return rows


def inputs(texts: Tokens, numbers: np.ndarray, length: int, pad_token_id: int) -> Batch:
    """`input_ids` and `attention_mask`, each (B, length)."""
    mask = np.arange(length) < texts.lengths[numbers, None]
    rows = padded(texts, numbers, length, pad_token_id)
    return {"input_ids": torch.from_numpy(rows), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def hide_tokens(
    ids: torch.Tensor,
    share: float,
    behind: int,
    special_ids: list[int],
    generator: np.random.Generator,
    first_of_word: np.ndarray | None = None,
) -> torch.Tensor:
    """Token ids with this share of the ordinary ones replaced by `behind`: word dropout (Iyyer et al. 2015,
    aclanthology.org/P15-1162; for translation Sennrich et al. 2016, arXiv:1606.02891).

    Args:
        ids: (B, T).
        first_of_word: for each token of the vocabulary, whether a word begins with it; its other tokens are then
            hidden with it. A row of a single word, as a language without spaces has them, loses single tokens.
    """
    rows = ids.numpy()
    hidden = generator.random(rows.shape) < share
    ordinary = ~np.isin(rows, special_ids)
    if first_of_word is not None:
        word = (first_of_word[rows] & ordinary).cumsum(-1)
        several = ((word != word[:, -1:]) & ordinary).any(-1, keepdims=True)
        with_its_word = np.take_along_axis(generator.random((len(rows), rows.shape[1] + 1)) < share, word, axis=-1)
        hidden = np.where(several, with_its_word, hidden)
    hidden &= ordinary
    return torch.from_numpy(np.where(hidden, behind, rows))


class PairBatches(Buckets):
    """The batches of tokenised pairs; `tokens_per_batch` counts one side, and `pad_token_id` fills up the source."""

    def __init__(self, pairs: Pairs, tokens_per_batch: int, pad_token_id: int, seed: int | None = None):
        super().__init__(np.maximum(pairs.source.lengths, pairs.target.lengths), tokens_per_batch, seed)
        self.pairs, self.pad_token_id = pairs, pad_token_id

    def batch(self, length: int, numbers: np.ndarray) -> Batch:
        """`input_ids`, `attention_mask` and `labels` (-100 where nothing is predicted), each (B, length)."""
        labels = torch.from_numpy(padded(self.pairs.target, numbers, length, -100))
        return {**inputs(self.pairs.source, numbers, length, self.pad_token_id), "labels": labels}

    def ordered_batches(self, process: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Every pair once, shared out among processes."""
        return (self.batch(*entry) for entry in self.plan(0)[process::processes])


class LabelledBatches(Buckets):
    """The batches of tokenised texts with a label each."""

    def __init__(self, texts: LabelledTokens, tokens_per_batch: int, pad_token_id: int, seed: int | None = None):
        super().__init__(texts.tokens.lengths, tokens_per_batch, seed)
        self.texts, self.pad_token_id = texts, pad_token_id

    def batch(self, length: int, numbers: np.ndarray) -> Batch:
        """`input_ids` and `attention_mask`, each (B, length), and `labels` (B,)."""
        labels = torch.from_numpy(self.texts.labels[numbers])
        return {**inputs(self.texts.tokens, numbers, length, self.pad_token_id), "labels": labels}


class MaskedBatches(Buckets):
    """The batches of tokenised texts of which some tokens are to be guessed (Devlin et al. 2018, arXiv:1810.04805,
    section 3.1): of the chosen ones 80% are masked, 10% replaced by any token, and 10% left as they are. The choice is
    a function of (seed, epoch, batch), so that each epoch makes another one (Liu et al. 2019, arXiv:1907.11692).

    Args:
        texts: tokenised, special tokens included.
        tokens_per_batch: rows times length, padding included.
        special_ids: tokens that are never chosen, nor put in place of others.
        mask_token_id, pad_token_id, vocab_size: of the tokenizer.
        mask_probability: share of the tokens that are chosen.
        seed: of order and choice.
        shuffle: whether to shuffle; evaluation keeps the order, and the choice of epoch 0.
    """

    def __init__(
        self,
        texts: Tokens,
        tokens_per_batch: int,
        special_ids: list[int],
        mask_token_id: int,
        pad_token_id: int,
        vocab_size: int,
        mask_probability: float,
        seed: int,
        shuffle: bool = True,
    ):
        super().__init__(texts.lengths, tokens_per_batch, seed if shuffle else None)
        self.texts, self.mask_token_id, self.pad_token_id = texts, mask_token_id, pad_token_id
        self.mask_probability, self.choice_seed = mask_probability, seed
        self.special = np.isin(np.arange(vocab_size), special_ids)
        self.ordinary = np.flatnonzero(~self.special)

    def batch(self, epoch: int, number: int) -> Batch:
        """`input_ids`, `attention_mask` and `labels` (-100 where nothing was chosen), each (B, length)."""
        length, numbers = self.plan(epoch)[number]
        generator = np.random.default_rng((self.choice_seed, epoch, number))
        batch = inputs(self.texts, numbers, length, self.pad_token_id)
        ids = batch["input_ids"].numpy()
        chosen = (generator.random(ids.shape) < self.mask_probability) & ~self.special[ids]
        labels = np.where(chosen, ids, -100)
        fate = generator.random(ids.shape)
        others = generator.choice(self.ordinary, ids.shape)
        masked = np.where(fate < 0.8, self.mask_token_id, np.where(fate < 0.9, others, ids))
        ids = np.where(chosen, masked, ids)
        return {**batch, "input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
