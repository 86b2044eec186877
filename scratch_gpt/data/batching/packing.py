"""Pack documents into rows of fixed length, for causal language modelling.

A row consists of segments. A segment is a contiguous part of one document, at most as long as a row. Its inputs are
`<bos>` and all of its tokens except the last, and its labels are all of its tokens. So each token is predicted once
per epoch, only documents longer than a row are split, and every segment starts with `<bos>`, as a prompt does.

The rows of an epoch are a pure function of (seed, epoch): the segments are shuffled, and a document longer than a row
is split at different positions in each epoch.

Letters: B rows of a batch, T tokens of a row, S segments of an epoch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...tokenization.special_tokens import first_token_id
from .token_shards import Shard

OPEN_ROWS = 256  # partly filled rows to choose from; more would reduce the padding and the shuffling slightly

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class RowPlan:
    """The segments of each row of an epoch, of R rows.

    Attributes:
        starts: index of the first token of each segment in the shard, shape (S,).
        lengths: number of tokens of each segment, shape (S,).
        offsets: row r consists of segments `offsets[r]` to `offsets[r + 1] - 1`, shape (R + 1,).
    """

    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


class PackedRows:
    """Pack the documents of a shard into rows, in a different way for each epoch.

    Args:
        shard: the tokens.
        row_length: number of tokens of a row (T), the longest context that the model is trained on.
        bos_token_id: first input token of each segment.
        pad_token_id: padding token; its labels are -100.
        seed: seed of the order and the splits; None keeps the documents in order and splits them into segments of T
            tokens, for evaluation.
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
    ) -> PackedRows:
        """Create rows with the tokens of a tokenizer that start a text and pad a row; the token that ends a text
        replaces a missing one.

        Args:
            shard, row_length, seed: see the class.
            tokenizer: the tokenizer that the shard was encoded with.
            bos_token_id: another first token than the tokenizer's.
        """
        bos = first_token_id(tokenizer) if bos_token_id is None else bos_token_id
        pad: Any = bos if tokenizer.pad_token_id is None else tokenizer.pad_token_id  # masked
        return cls(shard, row_length, bos, pad, seed)

    def _plan(self, epoch: int) -> RowPlan:
        """Split the documents into segments, shuffle them and pack them into rows."""
        starts, lengths = self._segments(epoch)
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch, 0)).permutation(len(starts))
            starts, lengths = starts[order], lengths[order]
        full = np.flatnonzero(lengths == self.row_length)
        short = np.flatnonzero(lengths < self.row_length)
        packed = _pack(lengths[short], self.row_length)
        short = short[np.fromiter((segment for row in packed for segment in row), np.int64, len(short))]
        segments = np.concatenate([full, short])
        sizes = np.concatenate([np.ones(len(full), np.int64), np.asarray([len(row) for row in packed], np.int64)])
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        if self.seed is not None:
            shuffled = np.random.default_rng((self.seed, epoch, 1)).permutation(len(sizes))
            begins, sizes = offsets[:-1][shuffled], sizes[shuffled]
            offsets = np.concatenate(([0], np.cumsum(sizes)))
            within = np.arange(len(segments)) - np.repeat(offsets[:-1], sizes)
            segments = segments[np.repeat(begins, sizes) + within]
        return RowPlan(starts[segments], lengths[segments], offsets)

    def _segments(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the starts and lengths of all segments, shape (S,) each. With a seed, the first segment of a document
        longer than a row has a random length."""
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
        """Return the tensors of some rows, each given by its plan and its index in the plan.

        Returns:
            Tensors of shape (B, T): `input_ids`, `labels` (already shifted; -100 for padding and for tokens that are
            not scored) and, if a row has several segments, `position_ids`, which restart at 0 in each segment.
        """
        return batch_of([(self, plan, row) for plan, row in rows])

    def ordered_batches(self, batch_size: int, process: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Iterate over the batches of one process in the order of epoch 0; each row occurs in one process.

        All processes get the same number of batches; if rows are missing at the end, a batch has only labels of -100.

        Args:
            batch_size: number of rows of a batch (B).
            process, processes: index of this process, and the number of processes.
        """
        plan = self.plan(0)
        for begin in range(0, len(plan), batch_size * processes):
            own = range(begin + process * batch_size, min(begin + (process + 1) * batch_size, len(plan)))
            if own:
                yield self.batch([(plan, row) for row in own])
            else:
                blank = self.batch([(plan, 0)])
                yield {**blank, "labels": torch.full_like(blank["labels"], -100)}


def _pack(lengths: np.ndarray, row_length: int) -> list[list[int]]:
    """Best-fit bin packing over a limited number of open rows: each segment goes to the row with the least room left.

    Returns the indices of the segments of each row."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), sorted
    for segment, length in enumerate(lengths.tolist()):
        found = bisect_left(open_rows, (length, -1))
        if found < len(open_rows):
            room, row = open_rows.pop(found)
            rows[row].append(segment)
        else:
            room, row = row_length, len(rows)
            rows.append([segment])
        if room > length:
            insort(open_rows, (room - length, row))
            if len(open_rows) > OPEN_ROWS:
                open_rows.pop(0)
    return rows


def batch_of(rows: list[tuple[PackedRows, RowPlan, int]]) -> Batch:
    """Return the tensors of some rows, which may be of several texts; see `PackedRows.batch`.

    Args:
        rows: for each row (B), the rows of its text, a plan of them, and its index in the plan.
    """
    first = rows[0][0]
    B, T = len(rows), first.row_length
    input_ids = np.full((B, T), first.pad_token_id, dtype=np.int64)
    labels = np.full((B, T), -100, dtype=np.int64)
    position_ids = np.zeros((B, T), dtype=np.int64)
    max_segments = 0
    for b, (source, plan, row) in enumerate(rows):
        position, shard = 0, source.shard
        max_segments = max(max_segments, plan.offsets[row + 1] - plan.offsets[row])
        for segment in range(plan.offsets[row], plan.offsets[row + 1]):
            start, length = plan.starts[segment], plan.lengths[segment]
            tokens = shard.tokens[start : start + length]
            input_ids[b, position] = first.bos_token_id
            input_ids[b, position + 1 : position + length] = tokens[:-1]
            scored = True if shard.scored is None else shard.scored[start : start + length]
            labels[b, position : position + length] = np.where(scored, tokens, -100)
            position_ids[b, position : position + length] = np.arange(length)
            position += length
        position_ids[b, position:] = np.arange(T - position)  # padding is a segment of its own
    batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
    if max_segments > 1:  # otherwise padding comes last, where causal attention does not see it
        batch["position_ids"] = torch.from_numpy(position_ids)
    return batch
