"""What a classifier and the pre-training of an encoder can be told, beside what every training run can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .arguments.training import DatasetArguments, TrainingArguments, argument


@dataclass
class LabelledArguments(DatasetArguments):
    """Data arguments for classification."""

    dataset: str = argument(
        "languages",
        "Labelled text: 'languages' (built in: German or English); a table (.tsv, .csv, .jsonl, .parquet, .arrow); a "
        "folder with train.tsv or the like, or a pattern of files; or a Hub dataset.",
    )
    text_column: str | None = argument(
        None,
        "Column with the text, or a nested field such as meta.body. Default: 'text', 'sentence', or the only one with "
        "text.",
    )
    label_column: str | None = argument(None, "Column with the label. Default: 'label', or the other of two columns.")
    label_names: list[str] | None = argument(None, "Names of numeric labels, in order, such as: negative positive.")
    validation_fraction: float = argument(
        0.1, "Fraction of the texts to hold out, stratified by label, if there is no validation split."
    )
    num_texts: int = argument(2_000, "Number of built-in texts, at most 1 million.")
    max_texts: int | None = argument(None, "Maximum number of texts to read. Default: all.")
    tokenizer: str = argument(
        "bpe", "'char', 'word', 'bpe' or 'unigram', trained on the text; or the folder or Hub id of a tokenizer."
    )
    vocab_size: int | None = argument(None, "Vocabulary size of a new tokenizer. Default: up to 4096 for bpe, unigram.")


@dataclass
class EncoderModelArguments:
    """What to train."""

    preset: str = argument("modern", "Style of an encoder: 'bert' or 'modern'.")
    init_from: str | None = argument(
        None, "Go on from this checkpoint (folder or Hub id), with its model and tokenizer."
    )
    trust_remote_code: bool = argument(False, "Run the code that the --init_from checkpoint brings. Read it first.")
    context_length: int = argument(128, "Longest text in tokens, special ones included.")
    hidden_size: int = argument(128, "Features of a token.")
    num_hidden_layers: int | None = argument(None, "Number of transformer blocks. Default: 2, of 'fasttext' none.")
    num_attention_heads: int = argument(4, "Heads of each attention; must divide the hidden size.")
    intermediate_size: int | None = argument(
        None, "Width of the feed-forward network. Default: 4 times hidden, or 8/3."
    )
    dropout: float | None = argument(None, "Embedding, attention and residual dropout. Default: that of the preset.")


@dataclass
class ClassifierModelArguments(EncoderModelArguments):
    """What to train."""

    preset: str = argument(
        "modern",
        "Style: 'bert', 'modern' or 'fasttext' (a bag of tokens and runs of them, for a few thousand texts) of an "
        "encoder; 'gpt2', 'llama', 'nanochat' or 'nanochat_ngram' of a GPT.",
    )
    ngram_sizes: list[int] | None = argument(
        None,
        "Of 'fasttext': the lengths of the runs of tokens that have vectors of their own, such as 2 3 4 5 6 beside "
        "--tokenizer char. Default: 2.",
    )
    classifier_dropout: float | None = argument(None, "Dropout before the classifier. Default: as --dropout.")
    classifier_pooling: Literal["cls", "mean", "sum"] | None = argument(
        None,
        "What an encoder reads the label from: the first token, the mean of all, or their sum over the root of their "
        "number. Default: that of the preset.",
    )


@dataclass
class ClassifierTrainingArguments(TrainingArguments):
    """How to train a classifier."""

    output_dir: str = argument("runs/classifier", "Folder for the model, its checkpoints and the record of the run.")
    tokens_per_batch: int = argument(1024, "Rows times length that a process takes at a time.")
    epochs: float = argument(5.0, "Passes over the training texts, where max_steps is not given.")
    eval_every: int = argument(50, "Steps between evaluations on all validation texts; 0: only at the end.")
    save_every: int | None = argument(0, "Steps between checkpoints; 0: only at the end.")
    class_weights: Literal["none", "balanced"] = argument(
        "none", "'balanced' weighs texts of rare labels more, so that all labels weigh the same together."
    )
    label_smoothing: float = argument(0.0, "Share of the target's probability spread over all labels in training.")
    word_dropout: float = argument(
        0.0, "Share of the words that training hides behind <mask>, others in every pass; a great help on few texts."
    )
    metric_for_best_model: str = argument(
        "val_accuracy", "The figure that picks the published model: val_accuracy, val_f1 or val_loss."
    )


@dataclass
class MaskedTrainingArguments(TrainingArguments):
    """How to train an encoder to guess masked words."""

    output_dir: str = argument("runs/encoder", "Folder for the model, its checkpoints and the record of the run.")
    tokens_per_batch: int = argument(2048, "Rows times length that a process takes at a time.")
    mask_probability: float = argument(0.15, "Share of the tokens that are to be guessed.")
