"""The task of translation: write the target sentence, given the source sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerFast

from ..data.buckets import PairBatches, Plan
from ..data.pairs import Pairs
from ..evaluation.translation import translate, translation_scores
from .checkpoint import unwrapped
from .task import Batch, DataState, items_left


class Tokenizers(NamedTuple):
    """Of source and target; one and the same, where they share a vocabulary."""

    source: PreTrainedTokenizerFast
    target: PreTrainedTokenizerFast


class Translation:
    """Pairs of sentences; the loss is the cross-entropy of every target token.

    Args:
        accelerator: knows the processes and the device.
        train, validation: tokenised pairs.
        texts: the validation pairs as text, sources and references, to be decoded and scored.
        tokenizers: of both sides.
        tokens_per_batch: rows times length, of one side, that a process takes at a time.
        seed: of the order of the batches.
        eval_beams: beams of the decoding during training.
    """

    figures = ("val_loss", "val_perplexity", "val_bleu", "val_bleu_lowercase", "val_chrf", "val_exact")

    def __init__(
        self,
        accelerator: Accelerator,
        train: Pairs,
        validation: Pairs,
        texts: tuple[list[str], list[str]],
        tokenizers: Tokenizers,
        tokens_per_batch: int,
        seed: int,
        eval_beams: int = 1,
    ):
        self.accelerator, self.tokenizers, self.eval_beams = accelerator, tokenizers, eval_beams
        self.sources, self.references = texts
        pad = tokenizers.source.pad_token_id
        self.train = PairBatches(train, tokens_per_batch, pad, seed)
        self.validation = PairBatches(validation, tokens_per_batch, pad)

    def batches_left(self, state: DataState, epochs: float) -> int:
        batches = items_left(lambda epoch: len(self.train.plan(epoch)), state, epochs)
        return math.ceil(batches / self.accelerator.num_processes)

    def batches(self, state: DataState) -> Iterator[tuple[Batch, DataState]]:
        """Batches in the order of the stream of all epochs, dealt out in turn; `row` of the state counts batches."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        epoch, number = state.epoch, state.row
        while True:
            dealt: Plan = []
            while len(dealt) < processes:
                plan = self.train.plan(epoch)
                dealt.append(plan[number])
                epoch, number = (epoch + 1, 0) if number + 1 == len(plan) else (epoch, number + 1)
            yield self.train.batch(*dealt[process]), DataState(epoch, number)

    def count(self, batch: Batch) -> int:
        return int((batch["labels"] != -100).sum())

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
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
        if processes > 1:
            total, count = (sum(numbers) for numbers in zip(*gather_object([(total, count)]), strict=True))
        self.translations = [""] * len(self.sources)
        for number, texts in enumerate(gather_object([mine])):
            self.translations[number::processes] = texts
        scores = translation_scores(self.translations, self.references)
        loss = total / count
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(min(loss, 700)),
            **{f"val_{name}": value for name, value in scores.items()},
        }

    def sample(self, model: torch.nn.Module) -> str | None:
        """The first validation sentence, as it was just translated."""
        return f"{self.sources[0]} → {self.translations[0]}"

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
