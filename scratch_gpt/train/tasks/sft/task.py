"""The task of supervised fine-tuning: predict the assistant's messages in conversations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerFast

from ....data.batching.token_shards import Shard
from ....data.readers.conversations import Conversation
from ....evaluation.chat import answer, exchange
from ....metrics import Metric
from ....tokenization.chat import ChatTokens
from ...checkpoints.snapshot import unwrapped
from ..language_modeling.task import LanguageModeling

METRICS = (
    Metric("val_loss", "loss", "nats per token of the answers"),
    Metric("val_perplexity", "perplexity of the answers"),
    Metric(
        "val_exact", "exactly right answers, fraction", format=".1%", higher_is_better=True, show="exact", index=False
    ),
)


class Instructions(LanguageModeling):
    """Conversations, packed into rows without attention between them; the loss is the cross-entropy of the assistant's
    messages, end tokens included.

    Args:
        accelerator: processes and device.
        tokens: tokenised conversations, "train" and "validation".
        held_out: validation conversations, as messages; the first one is used for samples.
        tokenizer: with a chat template.
        row_length: length of a row in tokens.
        batch_size: rows per batch of a process.
        seed: seed of the order of the rows.
        exact: whether each question has one correct answer, so that exact matches are a metric.
    """

    metrics: tuple[Metric, ...] = METRICS
    details: tuple[Metric, ...] = ()

    def __init__(
        self,
        accelerator: Accelerator,
        tokens: dict[str, ChatTokens],
        held_out: list[Conversation],
        tokenizer: PreTrainedTokenizerFast,
        row_length: int,
        batch_size: int,
        seed: int,
        exact: bool = False,
    ):
        shards = {split: shard_of(part) for split, part in tokens.items()}
        start = tokens["train"].start
        self.chat_tokenizer = tokenizer
        super().__init__(accelerator, shards, tokenizer, row_length, batch_size, seed, bos_token_id=start)
        messages = held_out[0]
        answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        self.sample_prompt, self.sample_answer = messages[:answer], messages[answer]["content"]
        self.held_out = held_out if exact else []
        self.evaluates_whole = exact  # each process answers a part of the questions
        if not exact:
            self.metrics = METRICS[:2]
        self.before: dict[str, float] = {}

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss of every token of the assistant's messages in the validation conversations, the fraction of exactly
        correct answers if these can be checked, and the same metrics of the model before fine-tuning."""
        known = {metric.name for metric in self.metrics}
        metrics = {name: value for name, value in super().evaluate(model).items() if name in known}
        if self.held_out:
            metrics["val_exact"] = self.exact_fraction(model)
        return metrics | {f"{name}_before": value for name, value in self.before.items()}

    def exact_fraction(self, model: torch.nn.Module) -> float:
        """Fraction of the held-out questions with exactly the reference answer; divided among the processes."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        mine = self.held_out[process::processes]
        own: Any = unwrapped(self.accelerator, model)
        answers = answer(own, self.chat_tokenizer, [messages[:-1] for messages in mine])
        correct = [text == messages[-1]["content"] for text, messages in zip(answers, mine, strict=True)]
        return sum(gather_object([sum(correct)])) / len(self.held_out)

    def evaluate_before(self, model: torch.nn.Module) -> None:
        """Evaluate the model before it is fine-tuned; later evaluations return these metrics too."""
        training = model.training
        self.before = {name: v for name, v in self.evaluate(model.eval()).items() if name != "val_perplexity"}
        model.train(training)

    def sample(self, model: torch.nn.Module) -> str | None:
        """The first question of the validation conversations, the model's answer and the expected one, a line each."""
        if not self.sample_prompt:
            return None
        reply = answer(model, self.chat_tokenizer, [self.sample_prompt])[0]
        return exchange(self.sample_prompt[-1]["content"], reply, self.sample_answer)

    def state_dict(self) -> dict[str, Any]:
        """The metrics of the model before fine-tuning."""
        return {"before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the metrics of the model before fine-tuning."""
        self.before = state["before"]


def shard_of(tokens: ChatTokens) -> Shard:
    """Conversations as the documents of a shard; its text sizes are those of the assistant's messages."""
    ends = np.cumsum([len(ids) for ids in tokens.ids], dtype=np.int64)
    ids, scored = np.concatenate(tokens.ids), np.concatenate(tokens.scored)
    return Shard(ids, ends, tokens.characters, tokens.utf8_bytes, scored=scored)
