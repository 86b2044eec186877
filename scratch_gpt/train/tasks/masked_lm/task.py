"""The task of masked language modelling: predict the masked tokens."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from ....data.batching.bucketing import MaskedBatches
from ....data.batching.token_lists import Tokens
from ....evaluation.processes import sum_over_processes
from ....metrics import Metric
from ....models.configuration_scratch_encoder import ScratchEncoderConfig
from ....tokenization.special_tokens import special_token_ids, surrounding_tokens
from ...checkpoints.snapshot import unwrapped
from ...engine.task import Batch, BucketTask

EXAMPLE_TOKENS = 24
IGNORED = -100  # label of a token that is not masked

METRICS = (
    Metric("val_loss", "loss", "nats per masked token"),
    Metric("val_perplexity", "perplexity", index=False),
    Metric(
        "val_accuracy", "accuracy of the masked tokens", format=".2%", higher_is_better=True, show="accuracy", plot=True
    ),
)


class MaskedLanguageModeling(BucketTask):
    """Masked language modelling; the loss is the cross-entropy of the masked tokens.

    Args:
        accelerator: processes and device.
        train, validation: tokenised texts, special tokens included.
        tokenizer: with a mask token.
        tokens_per_batch: rows times length of a batch of one process.
        mask_probability: fraction of the tokens to predict.
        seed: seed of the order of the batches and of the choice of tokens.
    """

    metrics: tuple[Metric, ...] = METRICS
    unit = "token"

    def __init__(
        self,
        accelerator: Accelerator,
        train: Tokens,
        validation: Tokens,
        tokenizer: PreTrainedTokenizerFast,
        tokens_per_batch: int,
        mask_probability: float,
        seed: int,
    ):
        self.accelerator, self.tokenizer = accelerator, tokenizer
        special = special_token_ids(tokenizer)
        vocab_size = max([*tokenizer.get_vocab().values(), *special]) + 1
        known = special, tokenizer.mask_token_id, tokenizer.pad_token_id, vocab_size
        self.train: MaskedBatches = MaskedBatches(train, tokens_per_batch, *known, mask_probability, seed)
        self.validation = MaskedBatches(validation, tokens_per_batch, *known, mask_probability, seed, shuffle=False)
        ids = torch.from_numpy(validation[0][: whole_words(tokenizer, validation[0])].astype("int64"))
        self.position = len(ids) // 2
        ids[self.position] = tokenizer.mask_token_id
        self.ids = ids[None]
        before, after = surrounding_tokens(tokenizer)
        inner = [number for number in ids.tolist() if number not in (*before, *after)]
        text = str(tokenizer.decode(inner))
        mask = str(tokenizer.mask_token)
        self.example = re.sub(rf"\s*{re.escape(mask)}", lambda found: f" {mask}", text).strip()

    def make_batch(self, epoch: int, number: int) -> Batch:
        """Build the batch with this number in the plan of an epoch."""
        return self.train.batch(epoch, number)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the losses of the scored tokens."""
        return masked_losses(model, batch)

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss and accuracy on the masked tokens of the validation texts, which are the same in every evaluation; NaN
        if there are none."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        own = unwrapped(self.accelerator, model)  # processes have different numbers of batches
        total, correct, count = 0.0, 0, 0
        with torch.no_grad():
            for number in range(process, len(self.validation.plan(0)), processes):
                batch = {n: t.to(self.accelerator.device) for n, t in self.validation.batch(0, number).items()}
                labels = batch.pop("labels")
                logits = own(**batch).logits
                total += sum_of_masked(logits, labels).item()
                correct += int((logits.argmax(-1) == labels).sum())
                count += int((labels != IGNORED).sum())
        losses, hits, scored = sum_over_processes(self.accelerator, total, correct, count)
        loss = losses / scored if scored else math.nan
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(min(loss, 700)),
            "val_accuracy": hits / scored if scored else math.nan,
        }

    def sample(self, model: torch.nn.Module) -> str | None:
        """The beginning of the first validation text with a token masked, and the most probable token for it."""
        with torch.no_grad():
            prediction = model(input_ids=self.ids.to(self.accelerator.device)).logits[0, self.position].argmax()
        return f"{self.example} → {str(self.tokenizer.decode(prediction)).strip()}"


def whole_words(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray) -> int:
    """The number of the first tokens, at most `EXAMPLE_TOKENS`, that end with a whole word; without spaces, so many."""
    if len(ids) <= EXAMPLE_TOKENS:
        return len(ids)
    texts = [str(tokenizer.decode(ids[:count].tolist())) for count in range(EXAMPLE_TOKENS + 2)]
    ends = [n for n in range(1, EXAMPLE_TOKENS + 1) if texts[n + 1].removeprefix(texts[n])[:1].isspace()]
    return ends[-1] if ends else EXAMPLE_TOKENS


def masked_losses(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Sum of the cross-entropies of the masked tokens in nats.

    transformers' own encoders return the mean over the masked tokens of a batch, which batches of different sizes can't
    be averaged from; their loss is computed from the logits.

    Args:
        model: a masked language model; may be wrapped by accelerate.
        batch: `input_ids`, `attention_mask` and `labels`, each (B, T).
    """
    plain: Any = getattr(model, "module", model)  # wrapped if there are several processes
    if plain.config.model_type == ScratchEncoderConfig.model_type:
        return model(**batch, num_items_in_batch=1, skip_logits=True).loss
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return sum_of_masked(model(**inputs).logits, batch["labels"])


def sum_of_masked(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies of logits (B, T, V) at the labels (B, T) that are not -100."""
    scored = labels != IGNORED
    return F.cross_entropy(logits[scored].float(), labels[scored], reduction="sum")
