"""Shards to rows of fixed length: windows over long documents, short ones packed side by side.

Every row is made of pieces. A piece is a stretch of one document, at most a row long: it is read as `<bos>` followed
by all its tokens but the last, and predicts all its tokens. So each token is predicted once an epoch, a document is
cut only where it is longer than a row, and `<bos>` is what a model has seen before any text, in training as in use.

The rows of an epoch are a pure function of (seed, epoch): pieces in a seeded order, and windows that begin elsewhere
each epoch.

Letters: B rows, T tokens of a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .token_shards import Shard

OPEN_ROWS = 256  # rows that wait for a piece that fits; more would pack a little tighter and shuffle a little less

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class RowPlan:
    """Which pieces stand in which row: row r holds pieces `offsets[r]` to `offsets[r + 1]` of starts and lengths."""

    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Rows:
    """The rows of a shard, epoch by epoch.

    Args:
        shard: the tokens.
        row_length: tokens in a row (T), the longest context the model is trained on.
        bos_token_id: what stands before each piece.
        pad_token_id: fills rows up; never scored.
        seed: None keeps documents in order and windows at the beginning, for evaluation.
    """

    def __init__(self, shard: Shard, row_length: int, bos_token_id: int, pad_token_id: int, seed: int | None = None):
        self.shard, self.row_length, self.seed = shard, row_length, seed
        self.bos_token_id, self.pad_token_id = bos_token_id, pad_token_id
        self.plan = lru_cache(maxsize=2)(self._plan)
        bounds = np.concatenate(([0], shard.ends))
        self.longest = int(np.diff(bounds).max(initial=0))

    @classmethod
    def for_tokenizer(
        cls,
        shard: Shard,
        row_length: int,
        tokenizer: PreTrainedTokenizerBase,
        seed: int | None = None,
        bos_token_id: int | None = None,
    ) -> Rows:
        """Rows with the padding of a tokenizer and, unless another is given, its `<bos>`; one that lacks either uses
        its `<eos>`."""
        eos = tokenizer.eos_token_id
        bos = next(token for token in (bos_token_id, tokenizer.bos_token_id, eos) if token is not None)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
        return cls(shard, row_length, bos, pad, seed)

    def _plan(self, epoch: int) -> RowPlan:
        """Cut the documents into pieces, shuffle these and fill rows with them."""
        starts, lengths = self._pieces(epoch)
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch, 0)).permutation(len(starts))
            starts, lengths = starts[order], lengths[order]
        full = np.flatnonzero(lengths == self.row_length)
        short = np.flatnonzero(lengths < self.row_length)
        packed = _pack(lengths[short], self.row_length)
        pieces = np.concatenate([full, short[np.fromiter((p for row in packed for p in row), np.int64, len(short))]])
        sizes = np.concatenate([np.ones(len(full), np.int64), np.asarray([len(row) for row in packed], np.int64)])
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        if self.seed is not None:
            shuffled = np.random.default_rng((self.seed, epoch, 1)).permutation(len(sizes))
            begins, sizes = offsets[:-1][shuffled], sizes[shuffled]
            offsets = np.concatenate(([0], np.cumsum(sizes)))
            within = np.arange(len(pieces)) - np.repeat(offsets[:-1], sizes)
            pieces = pieces[np.repeat(begins, sizes) + within]
        return RowPlan(starts[pieces], lengths[pieces], offsets)

    def _pieces(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts and lengths of all pieces. The first of a document longer than a row is shortened at random."""
        T = self.row_length
        begins, ends = np.concatenate(([0], self.shard.ends[:-1])), self.shard.ends
        first = np.full(len(ends), T)
        if self.seed is not None:
            shift = np.random.default_rng((self.seed, epoch, 2)).integers(1, T + 1, len(ends))
            first = np.where(ends - begins > T, shift, T)
        counts = np.where(ends > begins, 1 + -(-np.maximum(ends - begins - first, 0) // T), 0)
        document = np.repeat(np.arange(len(ends)), counts)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = begins[document] + np.where(number > 0, first[document] + (number - 1) * T, 0)
        stops = np.minimum(begins[document] + first[document] + number * T, ends[document])
        return starts, stops - starts

    def batch(self, rows: list[tuple[RowPlan, int]]) -> Batch:
        """Rows, each named by its plan and number, as tensors (B, T).

        Returns:
            `input_ids`, `labels` (ready-shifted, -100 where nothing is predicted or learned) and, if a row holds
            several pieces, `position_ids` that start again at each.
        """
        B, T = len(rows), self.row_length
        input_ids = np.full((B, T), self.pad_token_id, dtype=np.int64)
        labels = np.full((B, T), -100, dtype=np.int64)
        position_ids = np.zeros((B, T), dtype=np.int64)
        most = 0
        for b, (plan, row) in enumerate(rows):
            at = 0
            most = max(most, plan.offsets[row + 1] - plan.offsets[row])
            for piece in range(plan.offsets[row], plan.offsets[row + 1]):
                start, length = plan.starts[piece], plan.lengths[piece]
                tokens = self.shard.tokens[start : start + length]
                input_ids[b, at] = self.bos_token_id
                input_ids[b, at + 1 : at + length] = tokens[:-1]
                learned = True if self.shard.scored is None else self.shard.scored[start : start + length]
                labels[b, at : at + length] = np.where(learned, tokens, -100)
                position_ids[b, at : at + length] = np.arange(length)
                at += length
            position_ids[b, at:] = np.arange(T - at)  # padding is a document of its own
        batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        if most > 1:  # else the padding, if any, comes last, where causal attention never looks
            batch["position_ids"] = torch.from_numpy(position_ids)
        return batch

    def ordered_batches(self, batch_size: int, process: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Every row once, in order, shared out among processes; each process gets equally many batches, the last ones
        empty of labels if need be."""
        plan = self.plan(0)
        for begin in range(0, len(plan), batch_size * processes):
            mine = range(begin + process * batch_size, min(begin + (process + 1) * batch_size, len(plan)))
            if mine:
                yield self.batch([(plan, row) for row in mine])
            else:
                blank = self.batch([(plan, 0)])
                yield {**blank, "labels": torch.full_like(blank["labels"], -100)}


def _pack(lengths: np.ndarray, row_length: int) -> list[list[int]]:
    """Best fit over a limited number of open rows: each piece goes where it leaves the least room."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), sorted
    for piece, length in enumerate(lengths.tolist()):
        found = bisect_left(open_rows, (length, -1))
        if found < len(open_rows):
            room, row = open_rows.pop(found)
            rows[row].append(piece)
        else:
            room, row = row_length, len(rows)
            rows.append([piece])
        if room > length:
            insort(open_rows, (room - length, row))
            if len(open_rows) > OPEN_ROWS:
                open_rows.pop(0)
    return rows
