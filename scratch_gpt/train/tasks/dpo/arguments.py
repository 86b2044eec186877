"""Arguments of direct preference optimization, in addition to those of every training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...arguments.default_rates import DPO, DefaultRates
from ...arguments.training import GENERAL_TEXT, MAX_TOKENS_PER_BATCH, DatasetArguments, TrainingArguments, argument
from ..policy_arguments import PolicyModelArguments


@dataclass
class PreferenceDataArguments(DatasetArguments):
    """Data arguments for direct preference optimization."""

    dataset: str = argument(
        "",
        "Pairs: a table (.json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a pattern of such files, or a Hub "
        "dataset, with 'prompt', 'chosen' and 'rejected', each a text or a list of messages ('scratch-gpt pairs' "
        "creates them).",
        private=True,
    )
    validation_fraction: float = argument(
        0.1, "Fraction of the pairs to hold out if there is no validation split.", more_than=0, less_than=1
    )
    max_pairs: int | None = argument(None, "Maximum number of pairs to read. Default: all.", at_least=1)


@dataclass
class PreferenceArguments(TrainingArguments):
    """Training arguments of direct preference optimization."""

    default_rates: ClassVar[DefaultRates] = DPO
    auto_precision: ClassVar[Literal["auto", "fp32"]] = "fp32"

    output_dir: str = argument(
        "runs/dpo", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    beta: float = argument(0.5, "DPO beta: strength of the KL constraint to the reference model.", more_than=0)
    tokens_per_batch: int = argument(
        4096,
        "Sequences times length, of chosen and rejected together, per process.",
        more_than=0,
        at_most=MAX_TOKENS_PER_BATCH,
    )
    optimizer: Literal["adamw", "muon"] | None = argument(
        None,
        "Optimizer: 'adamw' (default), or 'muon' for the matrices of the blocks with AdamW for all other parameters.",
    )
    epochs: float = argument(1.0, "Passes over the pairs, if max_steps is not given.", more_than=0)
    learning_rate: float | None = argument(
        None,
        "Peak learning rate of AdamW. Default: 2e-4; 1e-6 to tune a model of over 10 million parameters.",
        more_than=0,
    )
    weight_decay: float = argument(0.0, "Weight decay of matrices; embeddings, norms and biases have none.", at_least=0)
    warmup_steps: int = argument(10, "Steps of linear warm-up of the learning rate.", at_least=0)
    precision: Literal["auto", "fp32", "bf16"] = argument(
        "auto",
        "Mixed precision: 'fp32', 'bf16', or 'auto': that of 'accelerate launch --mixed_precision', else fp32; bf16 is "
        "faster, but policy and reference are then rounded differently.",
    )
    general_text: str | None = argument(None, GENERAL_TEXT, private=True)
    eval_every: int = argument(
        50, "Steps between evaluations on the held-out pairs; 0: only at start and end.", at_least=0, resumable=True
    )
    save_every: int | None = argument(0, "Steps between checkpoints; 0: only at the end.", at_least=0, resumable=True)


ARGUMENTS = (PreferenceDataArguments, PolicyModelArguments, PreferenceArguments)
