"""Rows of several texts, in given proportions of their tokens.

Each text is packed into rows of its own. An epoch reads the text that lasts longest once, each of its tokens exactly
once; the others are read as many times as the weights ask, which may be a fraction: with weights 0.7 and 0.3 and
texts of 100 and 900 tokens, the second is read once (900 tokens) and the first 21 times (2,100 tokens). The rows of
all texts are shuffled together. Each pass over a text has an order of its own, and the last one of an epoch can be a
part of a pass. All of this is a pure function of (seed, epoch).

Letters: M texts, R rows of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .packing import Batch, PackedRows, RowPlan, batch_of


def passes_of(weights: Sequence[float], tokens: Sequence[int]) -> list[float]:
    """Number of passes over each text in an epoch: 1 for the one that lasts longest, more for the others.

    Args:
        weights: share of each text in the tokens of an epoch (M).
        tokens: number of tokens of each text (M).
    """
    epoch = max(count / weight for weight, count in zip(weights, tokens, strict=True))  # tokens of an epoch
    return [max(1.0, epoch * weight / count) for weight, count in zip(weights, tokens, strict=True)]


@dataclass(frozen=True)
class MixedPlan:
    """The rows of an epoch.

    Attributes:
        text: index of the text that each row comes from, shape (R,).
        number: index of the row among those of its text in this epoch, shape (R,).
        starts: for each text, the number of rows before each of its passes in this epoch.
        first_pass: for each text, the number of passes in the epochs before.
    """

    text: np.ndarray
    number: np.ndarray
    starts: list[np.ndarray]
    first_pass: list[int]

    def __len__(self) -> int:
        return len(self.text)


class MixedRows:
    """Rows of several texts, which a task uses like `PackedRows`.

    Args:
        parts: the rows of each text, all of the same length and with the same special tokens.
        weights: share of each text in the tokens of an epoch (M), which add up to 1.
        seed: seed of the order.

    Attributes:
        passes: number of passes over each text in an epoch (M).
    """

    def __init__(self, parts: Sequence[PackedRows], weights: Sequence[float], seed: int):
        self.parts, self.weights, self.seed = list(parts), list(weights), seed
        first = self.parts[0]
        self.row_length, self.bos_token_id, self.pad_token_id = first.row_length, first.bos_token_id, first.pad_token_id
        self.longest = max(part.longest for part in parts)
        self.passes = passes_of(weights, [len(part.shard.tokens) for part in parts])
        self.plan = lru_cache(maxsize=2)(self._plan)

    def _plan(self, epoch: int) -> MixedPlan:
        """Count the rows of each text, and shuffle them."""
        starts, first_pass, counts = [], [], []
        for part, passes in zip(self.parts, self.passes, strict=True):
            first = epoch * math.ceil(passes)
            rows = [len(part.plan(first + number)) for number in range(math.ceil(passes))]
            if passes < len(rows):
                rows[-1] = max(1, round((passes - math.floor(passes)) * rows[-1]))
            starts.append(np.cumsum([0, *rows[:-1]]))
            first_pass.append(first)
            counts.append(sum(rows))
        text = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        text = text[np.random.default_rng((self.seed, epoch, 3)).permutation(len(text))]
        number = np.empty(len(text), np.int64)
        for index, count in enumerate(counts):
            number[text == index] = np.arange(count)
        return MixedPlan(text, number, starts, first_pass)

    def resolve(self, plan: MixedPlan, row: int) -> tuple[int, int, int]:
        """Return where a row of an epoch comes from: the text, the pass over it, and the row of this pass."""
        text, number = int(plan.text[row]), int(plan.number[row])
        within = int(np.searchsorted(plan.starts[text], number, side="right")) - 1
        return text, plan.first_pass[text] + within, number - int(plan.starts[text][within])

    def batch(self, rows: list[tuple[MixedPlan, int]]) -> Batch:
        """Return the tensors of some rows, each given by its plan and its index in the plan; see `PackedRows.batch`."""
        found: list[tuple[PackedRows, RowPlan, int]] = []
        for plan, row in rows:
            text, number, own = self.resolve(plan, row)
            found.append((self.parts[text], self.parts[text].plan(number), own))
        return batch_of(found)
