"""Language modelling on a mixture of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ....data.batching.mixture import MixedRows
from ....data.batching.packing import PackedRows
from ....data.batching.token_shards import Shard
from ....evaluation.language_modeling import language_metrics
from ....metrics import Metric
from .task import DETAILS, LanguageModeling


class MixedLanguageModeling(LanguageModeling):
    """Language modelling on rows of several texts; the metrics are those of their mixture.

    Args:
        accelerator: processes and device.
        shards: "train" and "validation" of each text.
        weights: share of each text in the training tokens; they add up to 1.
        names: name of each text.
        tokenizer, row_length, batch_size, seed: see `LanguageModeling`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        shards: Sequence[dict[str, Shard]],
        weights: Sequence[float],
        names: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        row_length: int,
        batch_size: int,
        seed: int,
    ):
        super().__init__(accelerator, shards[0], tokenizer, row_length, batch_size, seed)
        self.weights, self.all_shards = list(weights), list(shards)
        parts = [PackedRows.for_tokenizer(found["train"], row_length, tokenizer, seed) for found in shards]
        self.rows: MixedRows = MixedRows(parts, weights, seed)  # type: ignore[assignment]  # with the same methods
        self.rows_to_evaluate = [
            PackedRows.for_tokenizer(found["validation"], row_length, tokenizer) for found in shards
        ]
        self.details = (
            *DETAILS,
            *(
                Metric(f"val_loss_{number}", f"loss on {name}", "nats per token", show=f"loss {number}")
                for number, name in enumerate(names, 1)
            ),
        )

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss on the validation text of each source, with every token scored once, and the metrics of a text that is
        mixed of them by the weights."""
        metrics: dict[str, float] = {}
        loss = utf8_bytes = characters = unknown = 0.0  # per token of the mixture
        for number, (weight, rows, shards) in enumerate(
            zip(self.weights, self.rows_to_evaluate, self.all_shards, strict=True), 1
        ):
            shard = shards["validation"]
            found = language_metrics(self.accelerator, model, rows, shard, self.batch_size)
            metrics[f"val_loss_{number}"] = found["val_loss"]
            loss += weight * found["val_loss"]
            utf8_bytes += weight * shard.utf8_bytes / len(shard.tokens)
            characters += weight * shard.characters / len(shard.tokens)
            unknown += weight * found["val_unk_share"]
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(min(loss, 700)),
            "val_bits_per_byte": loss / math.log(2) / utf8_bytes,
            "val_loss_per_character": loss / characters,
            "val_unk_share": unknown,
            **metrics,
        }
