"""Arguments of supervised fine-tuning, in addition to those of every training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...arguments.default_rates import SFT, DefaultRates
from ...arguments.training import GENERAL_TEXT, MAX_BATCH_SIZE, DatasetArguments, TrainingArguments, argument
from ..text_arguments import CHAT_TEMPLATE, DROPOUT, TRUST


@dataclass
class ConversationArguments(DatasetArguments):
    """Data arguments for supervised fine-tuning."""

    dataset: str = argument(
        "questions",
        "Conversations: 'questions' (built in, about the stories); a table (.json, .jsonl, .csv, .tsv, .parquet, "
        ".arrow), a folder or a pattern of such files, or a Hub dataset, with 'messages', 'conversations' (ShareGPT), "
        "'prompt' and 'completion', or 'instruction', 'input' and 'output'.",
        private=True,
    )
    messages_column: str | None = argument(
        None,
        "Column with the list of messages, or a nested field such as data.messages. Default: 'messages' or "
        "'conversations'.",
    )
    num_questions: int = argument(80_000, "Number of built-in questions, at most 1 million.")
    validation_fraction: float = argument(
        0.05,
        "Fraction of the conversations to hold out if there is no validation split.",
        more_than=0,
        less_than=1,
    )
    test_fraction: float = argument(
        0.0, "Fraction held out as a test set, evaluated once after training.", at_least=0, less_than=1
    )
    max_conversations: int | None = argument(None, "Maximum number of conversations to read. Default: all.", at_least=1)


@dataclass
class TunedModelArguments:
    """The model to fine-tune."""

    _argument_group_name: ClassVar[str] = "model"

    init_from: str | None = argument(
        None,
        "The pre-trained model to fine-tune (directory or Hub id), with its tokenizer.",
        private=True,
        with_init_from=True,
    )
    chat_template: str | None = argument(None, CHAT_TEMPLATE, private=True, with_init_from=True)
    trust_remote_code: bool = argument(False, TRUST, resumable=True, with_init_from=True)
    context_length: int | None = argument(
        None,
        "Length of a packed sequence in tokens; longer conversations are truncated and counted. Default: that of the "
        "longest conversation, from 256 to the model's positions, at most 2048.",
        with_init_from=True,
    )
    dropout: float | None = argument(None, DROPOUT.format("model"), at_least=0, at_most=1, with_init_from=True)
    lora_rank: int | None = argument(
        None,
        "Train low-rank adapters of this rank (LoRA, with PEFT and AdamW) instead of all weights. The published model "
        "has them merged into its weights, and the folder 'adapter' has them as PEFT reads them.",
        more_than=0,
        with_init_from=True,
    )
    lora_alpha: float | None = argument(
        None,
        "LoRA alpha: the adapters are scaled by alpha/rank. Default: twice the rank.",
        more_than=0,
        with_init_from=True,
    )
    lora_targets: list[str] = argument(
        ["all-linear"],
        "Modules that get adapters, such as q_proj v_proj; 'all-linear': all linear layers of the blocks.",
        with_init_from=True,
    )
    adapter_only: bool = argument(
        False,
        "Publish only the LoRA adapter, in the folder 'adapter', and not the merged model. Requires lora_rank.",
        with_init_from=True,
    )


@dataclass
class InstructionArguments(TrainingArguments):
    """Training arguments of supervised fine-tuning."""

    default_rates: ClassVar[DefaultRates] = SFT

    output_dir: str = argument(
        "runs/sft", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    batch_size: int = argument(
        8, "Sequences (of context_length tokens) per process.", more_than=0, at_most=MAX_BATCH_SIZE, resumable=True
    )
    epochs: float = argument(3.0, "Passes over the conversations, if max_steps is not given.", more_than=0)
    learning_rate: float | None = argument(
        None,
        "Peak learning rate of AdamW. Default: 2.5e-3; to tune a model of over 10 million parameters 2e-5, or 2e-4 "
        "with LoRA.",
        more_than=0,
    )
    muon_learning_rate: float | None = argument(
        None,
        "Peak learning rate of Muon, scaled to match the RMS of AdamW's updates. Default: 5e-3; that of AdamW to tune "
        "a model of over 10 million parameters.",
        more_than=0,
    )
    general_text: str | None = argument(None, GENERAL_TEXT, private=True)
    eval_every: int = argument(
        200,
        "Steps between evaluations on the held-out conversations; 0: only at the end.",
        at_least=0,
        resumable=True,
    )
    save_every: int | None = argument(0, "Steps between checkpoints; 0: only at the end.", at_least=0, resumable=True)


ARGUMENTS = (ConversationArguments, TunedModelArguments, InstructionArguments)
