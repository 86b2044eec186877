"""Arguments of masked language modelling, in addition to those of every training run."""

from __future__ import annotations

from dataclasses import dataclass

from ...arguments.training import MAX_TOKENS_PER_BATCH, TrainingArguments, argument
from ..encoder_arguments import EncoderModelArguments
from ..text_arguments import DataArguments


@dataclass
class MaskedTrainingArguments(TrainingArguments):
    """Training arguments of masked language modelling."""

    output_dir: str = argument(
        "runs/encoder", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    tokens_per_batch: int = argument(
        2048, "Sequences times length per process.", more_than=0, at_most=MAX_TOKENS_PER_BATCH
    )
    mask_probability: float = argument(0.15, "Fraction of the tokens to predict.", more_than=0, less_than=1)


ARGUMENTS = (DataArguments, EncoderModelArguments, MaskedTrainingArguments)
