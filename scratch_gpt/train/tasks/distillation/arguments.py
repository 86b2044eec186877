"""Arguments of knowledge distillation, in addition to those of every training run."""

from __future__ import annotations

from dataclasses import dataclass

from ...arguments.training import argument
from ..language_modeling.arguments import ModelArguments, PretrainingArguments
from ..text_arguments import DataArguments


@dataclass
class StudentArguments(ModelArguments):
    """Architecture of the student, and its teacher."""

    teacher: str | None = argument(
        None,
        "The model to learn from (directory or Hub id), with its tokenizer, which is the student's too.",
        private=True,
        with_init_from=True,
    )
    context_length: int | None = argument(
        None,
        "Context length in tokens. Default: 256, or less if the teacher or the --init_from model has fewer positions.",
        with_init_from=True,
    )
    hidden_size: int = argument(56, "Hidden size (model width) of the student.")
    num_attention_heads: int = argument(1, "Number of attention heads of the student; must divide the hidden size.")


@dataclass
class DistillationArguments(PretrainingArguments):
    """Training arguments of knowledge distillation."""

    output_dir: str = argument(
        "runs/student", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    distillation_weight: float = argument(
        1.0,
        "Weight of the KL divergence from the teacher; the cross-entropy of the text has the rest.",
        more_than=0,
        at_most=1,
    )
    distillation_temperature: float = argument(
        1.0, "Softmax temperature of teacher and student in the KL divergence.", more_than=0
    )


ARGUMENTS = (DataArguments, StudentArguments, DistillationArguments)
