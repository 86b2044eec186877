"""What instruction tuning can be told, beside what every training run can."""

from __future__ import annotations

from dataclasses import dataclass, field

from .arguments.training import DatasetArguments, TrainingArguments, argument


@dataclass
class ConversationArguments(DatasetArguments):
    """Data arguments for instruction tuning."""

    dataset: str = argument(
        "questions",
        "Conversations: 'questions' (built in, about the stories); a table (.json, .jsonl, .csv, .tsv, .parquet, "
        ".arrow), a folder or a pattern of such files, or a Hub dataset, with 'messages', 'conversations' (ShareGPT), "
        "'prompt' and 'completion', or 'instruction', 'input' and 'output'.",
    )
    messages_column: str | None = argument(
        None,
        "Column with the list of messages, or a nested field such as data.messages. Default: 'messages' or "
        "'conversations'.",
    )
    num_questions: int = argument(80_000, "Number of built-in questions, at most 1 million.")
    validation_fraction: float = argument(
        0.05, "Fraction of the conversations to hold out if there is no validation split."
    )
    test_fraction: float = argument(0.0, "Fraction held out as a test set, evaluated once after training.")
    max_conversations: int | None = argument(None, "Maximum number of conversations to read. Default: all.")


@dataclass
class TunedModelArguments:
    """What to tune."""

    init_from: str | None = argument(None, "The pre-trained model to tune (folder or Hub id), with its tokenizer.")
    trust_remote_code: bool = argument(False, "Run the code that the --init_from checkpoint brings. Read it first.")
    context_length: int | None = argument(
        None, "Tokens of a row; longer conversations are cut, and counted. Default: what the model takes, up to 256."
    )
    dropout: float | None = argument(None, "Embedding, attention and residual dropout. Default: that of the model.")
    lora_rank: int | None = argument(
        None,
        "Learn low-rank adapters of this rank (LoRA, by PEFT) with AdamW, instead of all weights. What is published "
        "has them merged into the weights.",
    )
    lora_alpha: float | None = argument(None, "Scale of the adapters, times 1/rank. Default: twice the rank.")
    lora_targets: list[str] = field(
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Matrices with adapters, such as q_proj v_proj; 'all-linear' means all of the blocks."},
    )


@dataclass
class InstructionArguments(TrainingArguments):
    """How to tune it."""

    output_dir: str = argument("runs/sft", "Folder for the model, its checkpoints and the record of the run.")
    batch_size: int = argument(8, "Rows (of context_length tokens) a process takes at a time.")
    epochs: float = argument(3.0, "Passes over the conversations, where max_steps is not given.")
    learning_rate: float | None = argument(2.5e-3, "Peak learning rate of AdamW.")
    muon_learning_rate: float = argument(5e-3, "Peak learning rate of Muon, in AdamW's units.")
    eval_every: int = argument(200, "Steps between evaluations on the held-out conversations; 0: only at the end.")
    save_every: int | None = argument(0, "Steps between checkpoints; 0: only at the end.")
