"""Arguments of translation, in addition to those of every training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ....models.preset_descriptions import ENCODER_DECODERS
from ...arguments.default_rates import TRANSLATION, DefaultRates
from ...arguments.training import MAX_TOKENS_PER_BATCH, DatasetArguments, TrainingArguments, argument
from ..presets import preset_help
from ..text_arguments import HEADS, HIDDEN_SIZE, INIT_FROM, INTERMEDIATE, TRUST


@dataclass
class PairArguments(DatasetArguments):
    """Data arguments for translation."""

    dataset: str = argument(
        "grammar",
        "Parallel text: 'grammar' (built in, German and English); a folder with train.de and train.en (plain or "
        "compressed); a file with --target_file; a table (.jsonl, .csv, .tsv, .parquet, .arrow) with a column for "
        "each language, or a folder of tables; or a Hub dataset.",
        private=True,
    )
    target_file: str | None = argument(None, "File with the translation of each line of --dataset.", private=True)
    source_lang: str = argument("de", "Source language, as in the names of files and columns.")
    target_lang: str = argument("en", "Target language, as in the names of files and columns.")
    validation_fraction: float = argument(
        0.02, "Fraction of the pairs to hold out if there is no validation split.", more_than=0, less_than=1
    )
    num_pairs: int = argument(20_000, "Number of pairs from the built-in grammar, at most 1 million.", at_least=1)
    max_pairs: int | None = argument(None, "Maximum number of pairs to read. Default: all.", at_least=1)
    tokenizer: Literal["bpe", "unigram", "word", "char"] = argument(
        "bpe", "Kind of tokenizer to train on the text.", private=True, with_init_from=False, training_only=True
    )
    vocab_size: int | None = argument(
        None, "Vocabulary size. Default: up to 4096 for bpe and unigram.", with_init_from=False, training_only=True
    )
    separate_vocabularies: bool = argument(
        False, "Train one tokenizer per language instead of a shared one.", with_init_from=False, training_only=True
    )
    max_length: int = argument(
        128,
        "Maximum sentence length in tokens; longer sentences are truncated and counted.",
        at_least=2,
        training_only=True,
    )
    skip_long: bool = argument(False, "Skip pairs with a longer side instead of truncating them.", training_only=True)
    both_directions: bool = argument(
        False,
        "Train on both directions of each pair. With few pairs, such a model is a good starting point (--init_from) "
        "for training on one direction.",
        training_only=True,
    )


@dataclass
class Seq2SeqModelArguments:
    """Architecture of a new encoder-decoder, or the checkpoint to start from."""

    _argument_group_name: ClassVar[str] = "model"

    preset: str = argument("modern", preset_help("Architecture:", ENCODER_DECODERS))
    init_from: str | None = argument(None, INIT_FROM, private=True, with_init_from=True)
    trust_remote_code: bool = argument(False, TRUST, resumable=True, with_init_from=True)
    hidden_size: int = argument(128, HIDDEN_SIZE)
    encoder_layers: int = argument(3, "Number of encoder blocks.")
    decoder_layers: int = argument(3, "Number of decoder blocks.")
    num_attention_heads: int = argument(4, HEADS)
    intermediate_size: int | None = argument(None, INTERMEDIATE)
    dropout: float | None = argument(
        None,
        "Dropout of embeddings and residual branches. Default: the preset's.",
        at_least=0,
        at_most=1,
        with_init_from=True,
    )
    label_smoothing: float | None = argument(
        None, "Label smoothing. Default: the preset's.", at_least=0, less_than=1, with_init_from=True
    )
    share_encoder_decoder_embeddings: bool | None = argument(
        None, "One embedding for source and target. Default: yes, unless they have separate vocabularies."
    )
    tie_word_embeddings: bool | None = argument(
        None, "Share the weights of the target embedding and the language-model head. Default: the preset's."
    )
    num_beams: int = argument(5, "Default number of beams of the trained model.", at_least=1)


@dataclass
class Seq2SeqTrainingArguments(TrainingArguments):
    """Training arguments of translation."""

    default_rates: ClassVar[DefaultRates] = TRANSLATION

    output_dir: str = argument(
        "runs/seq2seq", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    tokens_per_batch: int = argument(
        2048, "Sequences times length, of one side, per process.", more_than=0, at_most=MAX_TOKENS_PER_BATCH
    )
    learning_rate: float | None = argument(
        None,
        "Peak learning rate of AdamW. Default: 1e-2 with Muon, 2e-3 without; 2e-5 to tune a model of over 10 million "
        "parameters.",
        more_than=0,
    )
    epochs: float = argument(10.0, "Passes over the training pairs, if max_steps is not given.", more_than=0)
    word_dropout: float = argument(
        0.0,
        "Word dropout: fraction of the tokens of both sides that are masked in training, sampled in every epoch; a "
        "strong regulariser on few pairs.",
        at_least=0,
        less_than=1,
    )
    eval_beams: int = argument(
        1,
        "Number of beams for the validation sentences during training.",
        more_than=0,
        at_most=1024,
        resumable=True,
    )


ARGUMENTS = (PairArguments, Seq2SeqModelArguments, Seq2SeqTrainingArguments)
