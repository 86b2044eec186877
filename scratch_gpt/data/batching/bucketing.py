"""Batches of texts, or of pairs of texts, of similar length, with about the same number of tokens per batch.

Texts are grouped into buckets by length (for pairs, the length of the longer side), rounded up, and all batches of a
bucket have the same padded length. This limits both the padding and the number of different shapes, for each of which
a compiler has to generate kernels. The batches of an epoch are a pure function of (seed, epoch).

Letters: B texts of a batch, T tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from .encoding import LabelledTokens, Pairs
from .token_lists import Tokens

Batch = dict[str, torch.Tensor]
Plan = list[tuple[int, np.ndarray]]  # for each batch: its padded length, and the indices of its texts


def bucket_length(length: np.ndarray) -> np.ndarray:
    """Round lengths up to a multiple of 2, 4, 8 or 32; short lengths are rounded less."""
    step = np.where(length <= 24, 2, np.where(length <= 40, 4, np.where(length <= 128, 8, 32)))
    return -(-length // step) * step


class Buckets:
    """Group texts into batches by length.

    Args:
        lengths: number of tokens of each text, shape (N,).
        tokens_per_batch: maximum batch size times padded length.
        seed: seed of the order; None keeps texts and batches in order of length, for evaluation.
    """

    def __init__(self, lengths: np.ndarray, tokens_per_batch: int, seed: int | None = None):
        self.tokens_per_batch, self.seed = tokens_per_batch, seed
        self.lengths, self.longest = bucket_length(lengths), int(lengths.max(initial=0))
        self.plan = lru_cache(maxsize=2)(self._plan)

    def _plan(self, epoch: int) -> Plan:
        generator = None if self.seed is None else np.random.default_rng((self.seed, epoch))
        plan: Plan = []
        for length in np.unique(self.lengths):
            indices = np.flatnonzero(self.lengths == length)
            if generator is not None:
                indices = generator.permutation(indices)
            batch_size = max(1, self.tokens_per_batch // int(length))
            batch_size = batch_size // 8 * 8 or batch_size
            padded_length = min(int(length), self.longest)  # the longest text may fill all positions of a model
            plan += [(padded_length, indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]
        return plan if generator is None else [plan[i] for i in generator.permutation(len(plan))]


def pad_right(texts: Tokens, indices: np.ndarray, length: int, pad_value: int) -> np.ndarray:
    """Return the token ids of some texts, padded on the right.

    Args:
        texts: tokenised texts.
        indices: which of them, shape (B,).
        length: padded length, at least that of each text.
        pad_value: value of the padding.

    Returns:
        int64 array of shape (B, length).
    """
    padded = np.full((len(indices), length), pad_value, dtype=np.int64)
    for row, index in enumerate(indices):
        text = texts[index]
        padded[row, : len(text)] = text
    return padded


def model_inputs(texts: Tokens, indices: np.ndarray, length: int, pad_token_id: int) -> Batch:
    """Return `input_ids` and `attention_mask` of some texts, each of shape (B, length).

    Args:
        texts: tokenised texts.
        indices: which of them, shape (B,).
        length: padded length, at least that of each text.
        pad_token_id: id of the padding token.
    """
    mask = np.arange(length) < texts.lengths[indices, None]
    padded = pad_right(texts, indices, length, pad_token_id)
    return {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def drop_words(
    ids: torch.Tensor,
    probability: float,
    replacement_id: int,
    special_ids: list[int],
    generator: np.random.Generator,
    starts_word: np.ndarray | None = None,
) -> torch.Tensor:
    """Replace random tokens by another one: word dropout (Iyyer et al. 2015, aclanthology.org/P15-1162; for
    translation Sennrich et al. 2016, arXiv:1606.02891).

    Args:
        ids: token ids, shape (B, T).
        probability: probability that a token is replaced.
        replacement_id: the token that replaces others.
        special_ids: tokens that are never replaced.
        generator: random number generator.
        starts_word: boolean mask of the vocabulary, shape (V,), of the tokens that start a word. If given, whole words
            are replaced, except in texts of a single word, such as those of languages without spaces.

    Returns:
        New token ids, shape (B, T).
    """
    rows = ids.numpy()
    dropped = generator.random(rows.shape) < probability
    ordinary = ~np.isin(rows, special_ids)
    if starts_word is not None:
        word = (starts_word[rows] & ordinary).cumsum(-1)  # index of the word of each token
        several = ((word != word[:, -1:]) & ordinary).any(-1, keepdims=True)
        dropped_words = generator.random((len(rows), rows.shape[1] + 1)) < probability
        dropped = np.where(several, np.take_along_axis(dropped_words, word, axis=-1), dropped)
    dropped &= ordinary
    return torch.from_numpy(np.where(dropped, replacement_id, rows))


class PairBatches(Buckets):
    """Batches of tokenised pairs.

    Args:
        pairs: tokenised source and target texts.
        tokens_per_batch: maximum number of pairs times padded length of one side.
        pad_token_id: id of the padding token of the source side.
        seed: see `Buckets`.
    """

    def __init__(self, pairs: Pairs, tokens_per_batch: int, pad_token_id: int, seed: int | None = None):
        super().__init__(np.maximum(pairs.source.lengths, pairs.target.lengths), tokens_per_batch, seed)
        self.pairs, self.pad_token_id = pairs, pad_token_id

    def batch(self, length: int, indices: np.ndarray) -> Batch:
        """Return `input_ids`, `attention_mask` and `labels` (-100 for padding), each of shape (B, length)."""
        labels = torch.from_numpy(pad_right(self.pairs.target, indices, length, -100))
        return {**model_inputs(self.pairs.source, indices, length, self.pad_token_id), "labels": labels}

    def ordered_batches(self, process: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Iterate over the batches of one process in the order of epoch 0; each pair occurs in one process."""
        return (self.batch(*entry) for entry in self.plan(0)[process::processes])


class LabelledBatches(Buckets):
    """Batches of tokenised texts with one label each.

    Args:
        texts: tokenised texts and their label ids.
        tokens_per_batch: maximum batch size times padded length.
        pad_token_id: id of the padding token.
        seed: see `Buckets`.
    """

    def __init__(self, texts: LabelledTokens, tokens_per_batch: int, pad_token_id: int, seed: int | None = None):
        super().__init__(texts.tokens.lengths, tokens_per_batch, seed)
        self.texts, self.pad_token_id = texts, pad_token_id

    def batch(self, length: int, indices: np.ndarray) -> Batch:
        """Return `input_ids` and `attention_mask`, each of shape (B, length), and `labels`, shape (B,)."""
        labels = torch.from_numpy(self.texts.labels[indices])
        return {**model_inputs(self.texts.tokens, indices, length, self.pad_token_id), "labels": labels}


class MaskedBatches(Buckets):
    """Batches for masked language modelling (Devlin et al. 2018, arXiv:1810.04805, section 3.1).

    Of the selected tokens 80% are replaced by the mask token, 10% by a random token, and 10% are unchanged. The
    selection is a function of (seed, epoch, batch): dynamic masking (Liu et al. 2019, arXiv:1907.11692).

    Args:
        texts: tokenised texts, including special tokens.
        tokens_per_batch: maximum batch size times padded length.
        special_ids: tokens that are neither selected nor used as random replacement.
        mask_token_id, pad_token_id, vocab_size: properties of the tokenizer.
        mask_probability: probability that a token is selected.
        seed: seed of the order and of the selection.
        shuffle: whether to shuffle; for evaluation, False keeps texts and batches in order of length.
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
        self.mask_probability, self.mask_seed = mask_probability, seed
        self.special = np.isin(np.arange(vocab_size), special_ids)
        self.ordinary = np.flatnonzero(~self.special)

    def batch(self, epoch: int, number: int) -> Batch:
        """Return `input_ids`, `attention_mask` and `labels` (-100 for tokens that are not selected) of one batch of an
        epoch, each of shape (B, T)."""
        length, indices = self.plan(epoch)[number]
        generator = np.random.default_rng((self.mask_seed, epoch, number))
        batch = model_inputs(self.texts, indices, length, self.pad_token_id)
        ids = batch["input_ids"].numpy()
        selected = (generator.random(ids.shape) < self.mask_probability) & ~self.special[ids]
        labels = np.where(selected, ids, -100)
        draw = generator.random(ids.shape)
        random_ids = generator.choice(self.ordinary, ids.shape)
        corrupted = np.where(draw < 0.8, self.mask_token_id, np.where(draw < 0.9, random_ids, ids))
        ids = np.where(selected, corrupted, ids)
        return {**batch, "input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
