"""Batches of pairs of similar lengths, with about as many tokens each.

Pairs are put into buckets by the length of their longer side, rounded up, and all batches of a bucket have one shape:
there is little padding, and there are few shapes, for each of which a processor has to compile its kernels anew. The
batches of an epoch are a pure function of (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from .pairs import Pairs

Batch = dict[str, torch.Tensor]
Plan = list[tuple[int, np.ndarray]]  # for each batch: the length of its rows, and the numbers of its pairs


def bucket_length(length: np.ndarray) -> np.ndarray:
    """Round lengths up, finely where they are short."""
    step = np.where(length <= 24, 2, np.where(length <= 40, 4, np.where(length <= 128, 8, 32)))
    return -(-length // step) * step


class PairBatches:
    """The batches of tokenised pairs.

    Args:
        pairs: the pairs.
        tokens_per_batch: rows times length, of one side, padding included.
        pad_token_id: fills up the source; the target is filled with -100.
        seed: None keeps pairs and batches in order of length, for evaluation.
    """

    def __init__(self, pairs: Pairs, tokens_per_batch: int, pad_token_id: int, seed: int | None = None):
        self.pairs, self.tokens_per_batch = pairs, tokens_per_batch
        self.pad_token_id, self.seed = pad_token_id, seed
        self.lengths = bucket_length(np.maximum(pairs.source.lengths, pairs.target.lengths))
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
            plan += [(int(length), numbers[i : i + rows]) for i in range(0, len(numbers), rows)]
        return plan if generator is None else [plan[i] for i in generator.permutation(len(plan))]

    def batch(self, length: int, numbers: np.ndarray) -> Batch:
        """`input_ids`, `attention_mask` and `labels` (-100 where nothing is predicted), each (B, length)."""
        input_ids = np.full((len(numbers), length), self.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(numbers), length), dtype=np.int64)
        labels = np.full((len(numbers), length), -100, dtype=np.int64)
        for row, number in enumerate(numbers):
            source, target = self.pairs.source[number], self.pairs.target[number]
            input_ids[row, : len(source)], mask[row, : len(source)] = source, 1
            labels[row, : len(target)] = target
        arrays = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def ordered_batches(self, process: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Every pair once, shared out among processes."""
        return (self.batch(*entry) for entry in self.plan(0)[process::processes])
