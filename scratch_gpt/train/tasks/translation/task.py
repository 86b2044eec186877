"""The task of translation: predict the target sentence, given the source sentence."""

from __future__ import annotations

import math

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerFast

from ....data.batching.bucketing import PairBatches, drop_words
from ....data.batching.encoding import Pairs
from ....errors import ScratchError
from ....evaluation.processes import sum_over_processes
from ....evaluation.translation import translate, translation_scores
from ....hub.loading import Tokenizers
from ....metrics import Metric
from ....models.linear_cross_entropy import shift_right
from ...checkpoints.snapshot import unwrapped
from ...engine.task import Batch, BucketTask

METRICS = (
    Metric("val_bleu", "BLEU (13a, cased)", format=".2f", higher_is_better=True, show="BLEU", plot=True),
    Metric("val_bleu_lowercase", "BLEU, lower-cased", format=".2f", higher_is_better=True, index=False),
    Metric("val_chrf", "chrF", format=".2f", higher_is_better=True),
    Metric(
        "val_exact",
        "exact matches of the reference, fraction",
        format=".1%",
        higher_is_better=True,
        show="exact",
        index=False,
    ),
    Metric("val_loss", "loss", "nats per target token"),
    Metric("val_perplexity", "perplexity", index=False),
)


class Translation(BucketTask):
    """Translation; the loss is the cross-entropy of every target token.

    Args:
        accelerator: processes and device.
        train, validation: tokenised pairs.
        texts: source and reference sentences of the validation pairs, for decoding and scoring.
        tokenizers: tokenizers of both sides.
        tokens_per_batch: rows times length, of one side, of a batch of one process.
        seed: seed of the order of the batches and of word dropout.
        eval_beams: number of beams of the validation sentences.
        word_dropout: fraction of the tokens of both sides replaced by `<bos>`, which has no other use, in the inputs of
            encoder and decoder; sampled in every epoch.
        decoder_start_token_id: first input of the decoder, for word dropout. Default: padding.

    Raises:
        ScratchError: word dropout is requested, and a tokenizer has no separate `<bos>`.
    """

    metrics: tuple[Metric, ...] = METRICS
    unit = "token"
    evaluates_whole = True

    def __init__(
        self,
        accelerator: Accelerator,
        train: Pairs,
        validation: Pairs,
        texts: tuple[list[str], list[str]],
        tokenizers: Tokenizers,
        tokens_per_batch: int,
        seed: int,
        eval_beams: int,
        word_dropout: float = 0.0,
        decoder_start_token_id: int | None = None,
    ):
        for side in tokenizers if word_dropout else ():
            if side.bos_token_id in (None, side.eos_token_id, side.pad_token_id):
                raise ScratchError(
                    f"word_dropout is {word_dropout}, but the tokenizer has no separate <bos> to replace words with: "
                    "set it to 0"
                )
        self.accelerator, self.tokenizers, self.eval_beams = accelerator, tokenizers, eval_beams
        self.sources, self.references = texts
        self.seed, self.word_dropout = seed, word_dropout
        pad = tokenizers.source.pad_token_id
        self.decoder_start_token_id = pad if decoder_start_token_id is None else decoder_start_token_id
        self.train: PairBatches = PairBatches(train, tokens_per_batch, pad, seed)
        self.validation = PairBatches(validation, tokens_per_batch, pad)

    def make_batch(self, epoch: int, number: int) -> Batch:
        """Build the batch with this number in the plan of an epoch, with word dropout."""
        batch = self.train.batch(*self.train.plan(epoch)[number])
        if self.word_dropout:
            generator = np.random.default_rng((self.seed, epoch, number))
            source, target = self.tokenizers
            decoder_input_ids = shift_right(batch["labels"], self.decoder_start_token_id, target.pad_token_id)
            batch["input_ids"] = self._hide(batch["input_ids"], source, generator)
            batch["decoder_input_ids"] = self._hide(decoder_input_ids, target, generator)
        return batch

    def _hide(
        self, ids: torch.Tensor, tokenizer: PreTrainedTokenizerFast, generator: np.random.Generator
    ) -> torch.Tensor:
        return drop_words(ids, self.word_dropout, tokenizer.bos_token_id, tokenizer.all_special_ids, generator)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the losses of the scored tokens."""
        return model(**batch, num_items_in_batch=1, skip_logits=True, use_cache=False).loss

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss of every target token of the validation pairs, and scores of their translations."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        own = unwrapped(self.accelerator, model)  # processes have different numbers of batches
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in self.validation.ordered_batches(process, processes):
                count += self.count(batch)
                batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
                total += self.loss(own, batch).item()
        mine = translate(
            own,
            self.tokenizers.source,
            self.sources[process::processes],
            self.tokenizers.target,
            num_beams=self.eval_beams,
        )
        losses, scored = sum_over_processes(self.accelerator, total, count)
        self.translations = [""] * len(self.sources)
        for number, texts in enumerate(gather_object([mine])):
            self.translations[number::processes] = texts
        scores = translation_scores(self.translations, self.references)
        loss = losses / scored
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(min(loss, 700)),
            **{f"val_{name}": value for name, value in scores.items()},
        }

    def sample(self, model: torch.nn.Module) -> str | None:
        """The first validation sentence, as it was just translated."""
        return f"{self.sources[0]} → {self.translations[0]}"
