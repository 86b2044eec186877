"""Loss, perplexity and bits per byte of a causal language model on a text."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..data.batching.packing import PackedRows
from ..data.batching.token_shards import Shard, prepare_texts
from ..data.readers.sources import Source
from ..data.readers.text import SPLITS
from ..models.configuration_scratch_gpt import ScratchGPTConfig
from .positions import position_limit
from .processes import sum_over_processes

DEFAULT_WINDOW = 256


def language_metrics(
    accelerator: Accelerator | None,
    model: torch.nn.Module,
    rows: PackedRows,
    shard: Shard,
    batch_size: int,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Score every token of a shard once, sharded over the processes.

    Args:
        accelerator: the processes, all of which must call this; None if this one scores all tokens by itself.
        model: in evaluation mode; may be wrapped by accelerate.
        rows: the windows of the shard.
        shard: the tokens, and the size of their text in bytes and characters.
        batch_size: rows per batch.
        device: device of the model. Default: the accelerator's, or that of the weights.

    Returns:
        "val_loss" in nats per token, "val_perplexity", "val_bits_per_byte" (comparable between tokenizers, if they
        have no unknown words), "val_loss_per_character" in nats, and "val_unk_share", the fraction of `<unk>` tokens.
    """
    own: Any = model
    device = device or (own.device if accelerator is None else accelerator.device)
    place = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in rows.ordered_batches(batch_size, *place):
            count += int((batch["labels"] != -100).sum())
            total += sum_of_losses(model, {name: tensor.to(device) for name, tensor in batch.items()}).item()
    losses, scored = sum_over_processes(accelerator, total, count)
    loss = losses / scored if scored else math.nan
    return {
        "val_loss": loss,
        "val_perplexity": math.exp(min(loss, 700)),
        "val_bits_per_byte": losses / math.log(2) / shard.utf8_bytes,
        "val_loss_per_character": losses / shard.characters,
        "val_unk_share": shard.unknown / len(shard.tokens),
    }


def sum_of_losses(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of the cross-entropies of all scored tokens in nats; the labels (B, T) are already shifted."""
    inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if name != "labels"}
    labels = batch["labels"]
    plain: Any = getattr(model, "module", model)  # wrapped if there are several processes
    if plain.config.model_type == ScratchGPTConfig.model_type:
        inputs["skip_logits"] = True
    return model(**inputs, labels=labels, shift_labels=labels, num_items_in_batch=1, use_cache=False).loss


class ScoredText(NamedTuple):
    """A text that a language model was evaluated on.

    Attributes:
        metrics: those of `language_metrics` without "val_", the numbers of scored "tokens" and "characters", and
            "rows_skipped" if there are any.
        shards: tokens of "validation", the scored text, and of "train", the rest of it, if a part was held out.
        row_length: tokens per window.
    """

    metrics: dict[str, float]
    shards: dict[str, Shard]
    row_length: int


def score_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    source: Source,
    held_out: float = 1.0,
    context_length: int | None = None,
    batch_size: int = 16,
    split_seed: int = 0,
) -> ScoredText:
    """Evaluate a language model on a text, on the model's device.

    Args:
        model: a causal language model.
        tokenizer: the model's tokenizer.
        source: the text.
        held_out: fraction of the text to score, selected as in training; 1 scores all.
        context_length: tokens per window. Default: the model's positions, at most `DEFAULT_WINDOW`.
        batch_size: windows per batch.
        split_seed: seed of the held-out split.
    """
    splits = SPLITS if held_out < 1 else ("validation",)
    shards, reading = prepare_texts(source, tokenizer, held_out, splits=splits, seed=split_seed)
    shard = shards["validation"]
    window = context_length or min(DEFAULT_WINDOW, position_limit(model.config) or DEFAULT_WINDOW)
    rows = PackedRows.for_tokenizer(shard, window, tokenizer)
    metrics = language_metrics(None, model, rows, shard, batch_size)
    scored = {name.removeprefix("val_"): value for name, value in metrics.items()}
    skipped = {"rows_skipped": reading.count.skipped.total()} if reading.count.skipped else {}
    sizes = {"tokens": len(shard.tokens), "characters": shard.characters}
    return ScoredText({**scored, **sizes, **skipped}, shards, window)
