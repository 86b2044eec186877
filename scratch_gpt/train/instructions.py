"""The task of instructions: say what the assistant says in conversations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from ..data.conversations import Conversation
from ..data.shards import Shard
from ..tokenization.chat import ChatTokens
from .language_modeling import LanguageModeling


class Instructions(LanguageModeling):
    """Conversations, packed into rows in which they do not see each other; the loss is the cross-entropy of what the
    assistant says, its end included.

    Args:
        accelerator: knows the processes and the device.
        tokens: tokenised conversations, "train" and "validation".
        held_out: those to validate on, as messages; the first is asked for a sample.
        tokenizer: with its chat template.
        row_length, batch_size: tokens of a row, and rows that a process takes at a time.
        seed: of the order of the rows.
    """

    figures = ("val_loss", "val_perplexity")

    def __init__(
        self,
        accelerator: Accelerator,
        tokens: dict[str, ChatTokens],
        held_out: list[Conversation],
        tokenizer: PreTrainedTokenizerFast,
        row_length: int,
        batch_size: int,
        seed: int,
    ):
        shards = {split: shard_of(part) for split, part in tokens.items()}
        start = tokens["train"].start
        super().__init__(accelerator, shards, tokenizer, row_length, batch_size, seed, bos_token_id=start)
        messages = held_out[0]
        answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        self.asked = messages[:answer]
        self.loss_before: float | None = None

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss of every token that the assistant says in the validation conversations, and, beside it, the same of the
        model that was tuned, if `remember_loss` was called."""
        figures = {name: value for name, value in super().evaluate(model).items() if name in self.figures}
        return figures | ({} if self.loss_before is None else {"val_loss_before": self.loss_before})

    def remember_loss(self, model: torch.nn.Module) -> None:
        """Evaluate the model that is about to be tuned."""
        training = model.training
        self.loss_before = super().evaluate(model.eval())["val_loss"]
        model.train(training)

    def sample(self, model: torch.nn.Module) -> str | None:
        """The first question of the validation conversations, and the answer."""
        if not self.asked:
            return None
        inputs: Any = self.tokenizer.apply_chat_template(
            self.asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        inputs = inputs.to(self.accelerator.device)
        length = inputs["input_ids"].shape[1]
        most = max(1, min(60, self.rows.row_length - length))
        tokens = model.generate(**inputs, max_new_tokens=most, do_sample=False)  # type: ignore[operator]
        answer = str(self.tokenizer.decode(tokens[0, length:], skip_special_tokens=True)).strip()
        return f"{self.asked[-1]['content']} → {answer}"

    def state_dict(self) -> dict[str, Any]:
        return {"loss_before": self.loss_before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss_before = state["loss_before"]


def shard_of(tokens: ChatTokens) -> Shard:
    """Conversations as the documents of a shard; the text that counts is what the assistant says."""
    ends = np.cumsum([len(ids) for ids in tokens.ids], dtype=np.int64)
    ids, scored = np.concatenate(tokens.ids), np.concatenate(tokens.scored)
    return Shard(ids, ends, tokens.characters, tokens.utf8_bytes, scored=scored)
