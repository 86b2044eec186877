"""What learning from preferences can be told, beside what every training run can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .arguments.training import DatasetArguments, TrainingArguments, argument


@dataclass
class PreferenceDataArguments(DatasetArguments):
    """Data arguments for preference optimisation."""

    dataset: str = argument(
        "",
        "Pairs: a table (.json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a pattern of such files, or a Hub "
        "dataset, with 'prompt', 'chosen' and 'rejected', each a text or a list of messages ('scratch-gpt pairs' makes "
        "them).",
    )
    validation_fraction: float = argument(0.1, "Fraction of the pairs to hold out if there is no validation split.")
    max_pairs: int | None = argument(None, "Maximum number of pairs to read. Default: all.")


@dataclass
class PreferenceArguments(TrainingArguments):
    """How to learn it."""

    output_dir: str = argument("runs/dpo", "Folder for the model, its checkpoints and the record of the run.")
    beta: float = argument(0.5, "DPO beta: strength of the KL constraint to the reference model.")
    tokens_per_batch: int = argument(4096, "Rows times length, of both sides, that a process takes at a time.")
    optimizer: Literal["adamw", "muon"] = argument("adamw", "'adamw', or 'muon' for matrices with AdamW for the rest.")
    epochs: float = argument(1.0, "Passes over the pairs, where max_steps is not given.")
    learning_rate: float | None = argument(2e-4, "Peak learning rate of AdamW.")
    weight_decay: float = argument(0.0, "Weight decay of matrices; embeddings, norms and biases have none.")
    warmup_steps: int = argument(10, "Steps in which the learning rate rises from 0.")
    precision: Literal["auto", "fp32", "bf16"] = argument(
        "fp32", "bf16 is faster, but then policy and reference round differently."
    )
    eval_every: int = argument(50, "Steps between evaluations on the held-out pairs; 0: only at the ends.")
    save_every: int | None = argument(0, "Steps between checkpoints; 0: only at the end.")
