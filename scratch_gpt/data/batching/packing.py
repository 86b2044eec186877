"""Pack documents into rows of fixed length, for causal language modelling.

A row consists of segments. A segment is a contiguous part of one document, at most as long as a row. Its inputs are
`<bos>` and all of its tokens except the last, and its labels are all of its tokens. So each token is predicted once
per epoch, only documents longer than a row are split, and every segment starts with `<bos>`, as a prompt does.

The rows of an epoch are a pure function of (seed, epoch): the segments are shuffled, and a document longer than a row
is split at different positions in each epoch.

Letters: B rows of a batch, T tokens of a row, S segments of an epoch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...tokenization.special_tokens import first_token_id
from . import row_plans
from .row_plans import RowPlan
from .token_shards import Shard

FORMAT = 1  # of the plans; a change of how they are built increments it
DOCUMENTS = 1 << 20  # that are split into segments at a time

Batch = dict[str, torch.Tensor]


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
        self.longest = int(np.diff(shard.ends, prepend=0).max(initial=0))

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
        """Return the plan of an epoch, which the processes of a machine share if it is large."""
        tokens = len(self.shard.tokens)
        if not self.shard.key or len(self.shard.ends) + tokens // self.row_length < row_plans.SHARED_SEGMENTS:
            return self._build_plan(epoch)
        settings = [FORMAT, self.shard.key, len(self.shard.ends), tokens, self.row_length, self.seed]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
        return row_plans.shared_plan(key, epoch, lambda: self._build_plan(epoch), self.row_length, tokens)

    def _build_plan(self, epoch: int) -> RowPlan:
        """Split the documents into segments, shuffle them and pack them into rows."""
        starts, lengths = self._segments(epoch)
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch, 0)).permutation(len(starts))
            starts, lengths = starts[order], lengths[order]
            del order
        full = np.flatnonzero(lengths == self.row_length)
        short = np.flatnonzero(lengths < self.row_length)
        packed, counts = row_plans.pack(lengths[short], self.row_length)
        segments = np.concatenate([full, short[packed]])
        sizes = np.concatenate([np.ones(len(full), np.int64), counts])
        del full, short, packed, counts
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        if self.seed is not None:
            shuffled = np.random.default_rng((self.seed, epoch, 1)).permutation(len(sizes))
            begins, sizes = offsets[:-1][shuffled], sizes[shuffled]
            offsets = np.concatenate(([0], np.cumsum(sizes)))
            places = np.repeat(begins - offsets[:-1], sizes)
            places += np.arange(len(segments))
            segments = segments[places]
        return RowPlan(starts[segments], lengths[segments], offsets)

    def _segments(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the starts (int64) and lengths (int32) of all segments, shape (S,) each.

        With a seed, the first segment of a document longer than a row has a random length."""
        T, ends = self.row_length, self.shard.ends
        shift = None
        if self.seed is not None:
            shift = np.random.default_rng((self.seed, epoch, 2)).integers(1, T + 1, len(ends))
        found = [self._segments_of(start, shift) for start in range(0, len(ends), DOCUMENTS)]
        starts = np.concatenate([np.empty(0, np.int64), *(starts for starts, _ in found)])
        return starts, np.concatenate([np.empty(0, np.int32), *(lengths for _, lengths in found)])

    def _segments_of(self, document: int, shift: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the segments of the `DOCUMENTS` documents from one on, so that little memory is used at a time.

        Args:
            document: index of the first document.
            shift: length of the first segment of each document that is longer than a row, shape (D,), or None.
        """
        T = self.row_length
        ends = self.shard.ends[document : document + DOCUMENTS]
        begins = np.concatenate(([self.shard.ends[document - 1] if document else 0], ends[:-1]))
        first = np.full(len(ends), T)
        if shift is not None:
            first = np.where(ends - begins > T, shift[document : document + DOCUMENTS], T)
        counts = np.where(ends > begins, 1 + -(-np.maximum(ends - begins - first, 0) // T), 0)
        which = np.repeat(np.arange(len(ends)), counts)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = begins[which] + np.where(number > 0, first[which] + (number - 1) * T, 0)
        stops = np.minimum(begins[which] + first[which] + number * T, ends[which])
        return starts, (stops - starts).astype(np.int32)

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
