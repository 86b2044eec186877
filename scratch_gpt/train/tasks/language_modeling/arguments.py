"""Arguments of language modelling, in addition to those of every training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ....models.preset_descriptions import DECODERS
from ...arguments.training import MAX_BATCH_SIZE, TrainingArguments, argument
from ..presets import NUM_EXPERTS, NUM_EXPERTS_PER_TOK, SLIDING_WINDOW, preset_help
from ..text_arguments import DROPOUT, HEADS, HIDDEN_SIZE, INIT_FROM, INTERMEDIATE, TRUST, DataArguments

BIGRAM = {"bigram": "a table of the next token's logits for each token, without layers."}


@dataclass
class MixtureArguments(DataArguments):
    """Data arguments of language modelling: those of plain text, of one text or several."""

    dataset: list[str] = argument(  # type: ignore[assignment]  # the other families of plain text read one
        ["stories"],
        "The text: 'stories' (built in); a text file; a table (.jsonl, .json, .csv, .tsv, .parquet, .arrow); a folder "
        "or a pattern of such files; or a Hub dataset. Repeat it for a mixture, each with its share of the training "
        "tokens: --dataset A:0.7 --dataset B:0.3.",
        private=True,
    )

    def __post_init__(self) -> None:
        if isinstance(self.dataset, str):
            self.dataset = [self.dataset]


@dataclass
class ModelArguments:
    """Architecture of a new model, or the checkpoint to start from."""

    _argument_group_name: ClassVar[str] = "model"

    preset: str = argument("llama", preset_help("Architecture; patterns of layers are repeated:", BIGRAM | DECODERS))
    init_from: str | None = argument(None, INIT_FROM, private=True, with_init_from=True)
    trust_remote_code: bool = argument(False, TRUST, resumable=True, with_init_from=True)
    context_length: int | None = argument(
        None,
        "Context length in tokens. Default: 256; with --init_from, the length of the longest document, from 256 to "
        "1024 tokens, within the model's positions.",
        with_init_from=True,
    )
    hidden_size: int = argument(128, HIDDEN_SIZE)
    num_hidden_layers: int = argument(4, "Number of transformer blocks.")
    num_attention_heads: int = argument(2, HEADS)
    num_key_value_heads: int | None = argument(
        None, "Number of key-value heads (grouped-query attention). Default: num_attention_heads."
    )
    intermediate_size: int | None = argument(None, INTERMEDIATE)
    sliding_window: int | None = argument(None, SLIDING_WINDOW, at_least=1)
    num_experts: int | None = argument(None, NUM_EXPERTS, at_least=0)
    num_experts_per_tok: int | None = argument(None, NUM_EXPERTS_PER_TOK, at_least=1)
    dropout: float | None = argument(None, DROPOUT.format("preset"), at_least=0, at_most=1, with_init_from=True)
    attention_dropout: float | None = argument(
        None,
        "Dropout of attention weights alone; on a CPU it can take a third of a step. Default: as --dropout.",
        at_least=0,
        at_most=1,
        with_init_from=True,
    )
    tie_word_embeddings: bool | None = argument(
        None, "Share the weights of the token embedding and the language-model head. Default: the preset's."
    )


@dataclass
class PretrainingArguments(TrainingArguments):
    """Training arguments of language modelling."""

    output_dir: str = argument(
        "runs/gpt", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    batch_size: int = argument(
        8, "Sequences (of context_length tokens) per process.", more_than=0, at_most=MAX_BATCH_SIZE, resumable=True
    )
    baselines: bool = argument(
        True,
        "At the end, compare the model with gzip, xz, tables of token frequencies and an untrained model, in bits per "
        "byte of the validation text, and measure whether it memorises the training text. Takes a few seconds.",
        resumable=True,
        private=True,
    )


ARGUMENTS = (MixtureArguments, ModelArguments, PretrainingArguments)
