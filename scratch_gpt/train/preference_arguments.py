"""What learning from preferences can be told, beside what every training run can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .arguments import TrainingArguments, argument


@dataclass
class PreferenceDataArguments:
    """What is preferred."""

    dataset: str | None = argument(
        None,
        "Pairs: a .json, .jsonl, .csv, .tsv, .parquet file, a folder with train.jsonl or the like, or a Hub dataset, "
        "with 'prompt', 'chosen' and 'rejected', each a text or a list of messages ('scratch-gpt pairs' makes them).",
    )
    dataset_config: str | None = argument(None, "Configuration of the Hub dataset, where it has several.")
    dataset_split: str = argument("train", "Split of the folder or of the Hub dataset.")
    validation_fraction: float = argument(0.1, "Share of the pairs held out, drawn by --seed.")
    max_pairs: int | None = argument(None, "Read only so many. Default: all.")
    dataset_license: str | None = argument(None, "Licence of the text, for the card, such as 'cc-by-4.0'.")


@dataclass
class PreferenceArguments(TrainingArguments):
    """How to learn it."""

    output_dir: str = argument("runs/dpo", "Folder for the model, its checkpoints and the record of the run.")
    beta: float = argument(0.5, "How dear it is to leave the reference: the less, the farther preferences lead.")
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
