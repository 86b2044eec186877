"""The task of knowledge distillation (Hinton et al. 2015, arXiv:1503.02531): match the teacher's next-token
distribution."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ....data.batching.token_shards import Shard
from ....evaluation.language_modeling import language_metrics
from ....evaluation.processes import sum_over_processes
from ....metrics import Metric, Panel
from ...engine.task import Batch
from ..language_modeling.task import DETAILS as LANGUAGE_MODELING_DETAILS
from ..language_modeling.task import LanguageModeling
from .arguments import DistillationArguments

DETAILS = (*LANGUAGE_MODELING_DETAILS, Metric("teacher_loss", "loss of the teacher", "nats per token", show="teacher"))
PANELS = (
    Panel("cross-entropy, nats per token", "train_cross_entropy", "val_loss"),
    Panel("distillation loss, nats per token", "train_loss"),
)
IGNORED = -100  # label of a position that is not scored


class Distillation(LanguageModeling):
    """Rows of text; the loss combines the KL divergence from the teacher and the cross-entropy of the text.

    Args:
        accelerator: processes and device.
        teacher: with the same vocabulary as the student.
        shards: "train" and "validation".
        tokenizer: of both models.
        row_length: length of a row in tokens.
        args: batch size, seed, and the weight and temperature of the KL divergence.
        entropy_floor: entropy of the text in nats per token, where it is known.
    """

    details: tuple[Metric, ...] = DETAILS
    panels: tuple[Panel, ...] = PANELS

    def __init__(
        self,
        accelerator: Accelerator,
        teacher: PreTrainedModel,
        shards: dict[str, Shard],
        tokenizer: PreTrainedTokenizerBase,
        row_length: int,
        args: DistillationArguments,
        entropy_floor: float | None = None,
    ):
        super().__init__(accelerator, shards, tokenizer, row_length, args.batch_size, args.seed, entropy_floor)
        self.teacher: Any = teacher.to(accelerator.device).eval().requires_grad_(False)
        self.weight, self.temperature = args.distillation_weight, args.distillation_temperature
        self.teacher_loss: float | None = None
        self._cross_entropy, self._tokens = 0.0, 0

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sum over the scored tokens of weight * T^2 * KL(teacher || student) + (1 - weight) * cross-entropy."""
        labels = batch["labels"].flatten()  # (B * L,)
        inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with torch.no_grad():
            teacher = self.teacher(**inputs, use_cache=False).logits.float().flatten(0, 1)  # (B * L, V)
        student = model(**inputs, use_cache=False).logits.float().flatten(0, 1)  # (B * L, V)
        scored = labels != IGNORED
        losses = distillation_loss(student, teacher, labels, self.weight, self.temperature)
        with torch.no_grad():
            self._cross_entropy += F.cross_entropy(student, labels, ignore_index=IGNORED, reduction="sum").item()
            self._tokens += int(scored.sum())
        return losses.masked_fill(~scored, 0.0).sum()

    def training_metrics(self) -> dict[str, float]:
        """Cross-entropy of the training text of all processes since the last call, comparable with `val_loss`."""
        total, tokens = sum_over_processes(self.accelerator, self._cross_entropy, self._tokens)
        self._cross_entropy, self._tokens = 0.0, 0
        return {"train_cross_entropy": total / tokens} if tokens else {}

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """The metrics of language modelling, and the loss of the teacher on the same text."""
        if self.teacher_loss is None:
            shard = self.shards["validation"]
            found = language_metrics(self.accelerator, self.teacher, self.validation_rows, shard, self.batch_size)
            self.teacher_loss = found["val_loss"]
        return {**super().evaluate(model), "teacher_loss": self.teacher_loss}


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weight: float, temperature: float
) -> torch.Tensor:
    """The loss of each token (N,) (Hinton et al. 2015, section 2).

    Args:
        student: logits (N, V).
        teacher: logits (N, V).
        labels: next tokens (N,); where they are -100, only the KL divergence counts.
        weight: of the KL divergence; the cross-entropy has the rest.
        temperature: of both softmaxes in the KL divergence, whose gradient is scaled back by its square.
    """
    log_probs = F.log_softmax(student / temperature, dim=-1)
    targets = F.log_softmax(teacher / temperature, dim=-1)
    divergence = F.kl_div(log_probs, targets, reduction="none", log_target=True).sum(dim=-1)  # (N,)
    cross_entropy = F.cross_entropy(student, labels, ignore_index=IGNORED, reduction="none")  # (N,)
    return weight * temperature**2 * divergence + (1 - weight) * cross_entropy
