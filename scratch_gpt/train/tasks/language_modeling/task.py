"""The task of language modelling: predict each token from the tokens before it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ....data.batching.packing import PackedRows
from ....data.batching.row_plans import RowPlan
from ....data.batching.token_shards import Shard
from ....evaluation.language_modeling import language_metrics, sum_of_losses
from ....evaluation.positions import generate
from ....evaluation.text_report import METRICS as TEXT_REPORT_METRICS
from ....metrics import Metric, Panel
from ...checkpoints.random_state import forked_random_state
from ...engine.task import Batch, DataState, items_left

METRICS = (
    Metric("val_loss", "loss", "nats per token"),
    Metric("val_perplexity", "perplexity"),
    Metric("val_bits_per_byte", "bits per byte", show="bits/byte"),
    Metric("val_loss_per_character", "loss", "nats per character", index=False),
)
DETAILS = (
    Metric("entropy_floor", "entropy of the text (lower bound of the loss)", "nats per token", show="floor"),
    *TEXT_REPORT_METRICS,
)


class LanguageModeling:
    """Language modelling on packed rows of text; the loss is the cross-entropy of every token.

    Args:
        accelerator: processes and device.
        shards: tokenised text, "train" and "validation".
        tokenizer: provides `<bos>` and padding, and decodes samples.
        row_length: length of a row in tokens.
        batch_size: rows per batch of a process.
        seed: seed of the order of the rows.
        entropy_floor: entropy of the text in nats per token, if known: the loss of the best possible model.
        bos_token_id: token before each text. Default: the tokenizer's `<bos>`.
    """

    metrics: tuple[Metric, ...] = METRICS
    details: tuple[Metric, ...] = DETAILS
    panels: tuple[Panel, ...] = ()
    unit = "token"
    evaluates_first = False
    fixed_shape = True
    evaluates_whole = False

    def __init__(
        self,
        accelerator: Accelerator,
        shards: dict[str, Shard],
        tokenizer: PreTrainedTokenizerBase,
        row_length: int,
        batch_size: int,
        seed: int,
        entropy_floor: float | None = None,
        bos_token_id: int | None = None,
    ):
        self.accelerator, self.shards, self.tokenizer = accelerator, shards, tokenizer
        self.batch_size, self.entropy_floor = batch_size, entropy_floor
        self.rows = PackedRows.for_tokenizer(shards["train"], row_length, tokenizer, seed, bos_token_id)
        self.validation_rows = PackedRows.for_tokenizer(shards["validation"], row_length, tokenizer, None, bos_token_id)

    def batches_left(self, state: DataState, epochs: float) -> int:
        """Number of batches per process from `state` to the end of `epochs`."""
        rows = items_left(lambda epoch: len(self.rows.plan(epoch)), state, epochs)
        return math.ceil(rows / (self.batch_size * self.accelerator.num_processes))

    def batches(self, state: DataState) -> Iterator[tuple[Batch, DataState]]:
        """Iterate over batches of the stream of all epochs, divided among the processes."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        epoch, row = state.epoch, state.row
        while True:
            rows: list[tuple[RowPlan, int]] = []
            while len(rows) < self.batch_size * processes:
                plan = self.rows.plan(epoch)
                take = min(len(plan) - row, self.batch_size * processes - len(rows))
                rows += [(plan, row + i) for i in range(take)]
                row += take
                if row == len(plan):
                    epoch, row = epoch + 1, 0
            mine = rows[process * self.batch_size : (process + 1) * self.batch_size]
            yield self.rows.batch(mine), DataState(epoch, row)

    def count(self, batch: Batch) -> int:
        """Number of scored labels of the batch."""
        return int((batch["labels"] != -100).sum())

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the losses of the scored tokens."""
        return sum_of_losses(model, batch)

    def training_metrics(self) -> dict[str, float]:
        """Empty: no metrics other than the loss."""
        return {}

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss on the validation split, with every token scored once, and the derived metrics."""
        shard = self.shards["validation"]
        metrics = language_metrics(self.accelerator, model, self.validation_rows, shard, self.batch_size)
        if self.entropy_floor is not None:
            metrics["entropy_floor"] = self.entropy_floor
        return metrics

    def sample(self, model: torch.nn.Module) -> str | None:
        """One text generated from `<bos>`, at most 60 tokens long; every process calls it, for sharded weights."""
        start = torch.tensor([[self.rows.bos_token_id]], device=self.accelerator.device)
        length = max(1, min(60, self.rows.row_length - 1))
        with forked_random_state(self.accelerator.device):
            torch.manual_seed(0)
            inputs = {"input_ids": start, "attention_mask": torch.ones_like(start)}
            tokens = generate(model, **inputs, max_new_tokens=length, do_sample=True)
        return str(self.tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()

    def state_dict(self) -> dict[str, Any]:
        """Empty: there is no state to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Ignore the state, which is empty."""
