"""Arguments of classification, in addition to those of every training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ....models.preset_descriptions import DECODERS, ENCODERS
from ...arguments.default_rates import CLASSIFICATION, DefaultRates
from ...arguments.training import MAX_TOKENS_PER_BATCH, DatasetArguments, TrainingArguments, argument
from ..encoder_arguments import EncoderModelArguments
from ..presets import NUM_EXPERTS, NUM_EXPERTS_PER_TOK, SLIDING_WINDOW, preset_help
from ..text_arguments import VOCAB_SIZE


@dataclass
class LabelledArguments(DatasetArguments):
    """Data arguments for classification."""

    dataset: str = argument(
        "languages",
        "Labelled text: 'languages' (built in: German or English); a table (.tsv, .csv, .jsonl, .parquet, .arrow); a "
        "folder with train.tsv or the like, or a pattern of files; or a Hub dataset.",
        private=True,
    )
    text_column: str | None = argument(
        None,
        "Column with the text, or a nested field such as meta.body. Default: 'text', 'sentence', or the only one with "
        "text.",
    )
    label_column: str | None = argument(None, "Column with the label. Default: 'label', or the other of two columns.")
    label_names: list[str] | None = argument(None, "Names of numeric labels, in order, such as: negative positive.")
    validation_fraction: float = argument(
        0.1,
        "Fraction of the texts to hold out, stratified by label, if there is no validation split.",
        more_than=0,
        less_than=1,
    )
    num_texts: int = argument(2_000, "Number of built-in texts, at most 1 million.", at_least=1)
    max_texts: int | None = argument(None, "Maximum number of texts to read. Default: all.", at_least=1)
    tokenizer: str = argument(
        "bpe",
        "'char', 'word', 'bpe' or 'unigram', trained on the text; or the directory or Hub id of a tokenizer.",
        private=True,
        with_init_from=False,
        training_only=True,
    )
    vocab_size: int | None = argument(None, VOCAB_SIZE, with_init_from=False, training_only=True)


@dataclass
class ClassifierModelArguments(EncoderModelArguments):
    """Architecture of a new classifier, or the checkpoint to start from."""

    preset: str = argument(
        "modern",
        preset_help("Architecture; patterns of layers are repeated. Encoders:", ENCODERS)
        + preset_help("\nGPTs:", DECODERS),
    )
    sliding_window: int | None = argument(None, SLIDING_WINDOW, at_least=1)
    num_experts: int | None = argument(None, NUM_EXPERTS, at_least=0)
    num_experts_per_tok: int | None = argument(None, NUM_EXPERTS_PER_TOK, at_least=1)
    ngram_sizes: list[int] | None = argument(
        None,
        "For 'fasttext': the sizes of the n-grams with embeddings of their own, such as 2 3 4 5 6 with --tokenizer "
        "char. Default: 2.",
    )
    classifier_dropout: float | None = argument(
        None, "Dropout before the classification head. Default: as --dropout.", with_init_from=True
    )
    classifier_pooling: Literal["cls", "mean", "sum"] | None = argument(
        None,
        "Pooling of an encoder's hidden states: of the first token ('cls'), their mean, or their sum divided by the "
        "square root of their number ('sum'). Default: the preset's.",
        with_init_from=True,
    )


@dataclass
class ClassifierTrainingArguments(TrainingArguments):
    """Training arguments of classification."""

    default_rates: ClassVar[DefaultRates] = CLASSIFICATION

    output_dir: str = argument(
        "runs/classifier", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    tokens_per_batch: int = argument(
        1024, "Sequences times length per process.", more_than=0, at_most=MAX_TOKENS_PER_BATCH
    )
    learning_rate: float | None = argument(
        None,
        "Peak learning rate of AdamW. Default: 1e-2 with Muon, 2e-3 without; 2e-5 to tune a model of over 10 million "
        "parameters.",
        more_than=0,
    )
    epochs: float = argument(5.0, "Passes over the training texts, if max_steps is not given.", more_than=0)
    eval_every: int = argument(
        50, "Steps between evaluations on all validation texts; 0: only at the end.", at_least=0, resumable=True
    )
    save_every: int | None = argument(0, "Steps between checkpoints; 0: only at the end.", at_least=0, resumable=True)
    class_weights: Literal["none", "balanced"] = argument(
        "none", "'balanced' weights the loss of each text by the inverse frequency of its label."
    )
    label_smoothing: float = argument(0.0, "Label smoothing of the training loss.", at_least=0, less_than=1)
    word_dropout: float = argument(
        0.0,
        "Word dropout: fraction of the words replaced by <mask> in training, sampled in every epoch; a strong "
        "regulariser on few texts.",
        at_least=0,
        less_than=1,
    )
    metric_for_best_model: str = argument(
        "val_accuracy", "Metric that selects the published model: val_accuracy, val_f1 or val_loss."
    )


ARGUMENTS = (LabelledArguments, ClassifierModelArguments, ClassifierTrainingArguments)
