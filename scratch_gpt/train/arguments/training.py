"""What a training run can be told. One field is one command-line argument, with its sentence of help."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import ScratchError


def argument(default: Any, help: str) -> Any:
    """A dataclass field that explains itself."""
    return field(default=default, metadata={"help": help})


@dataclass
class DatasetArguments:
    """Data arguments shared by all tasks."""

    dataset: str = argument("", "The data.")
    dataset_config: str | None = argument(None, "Configuration of a Hub dataset, where it has several.")
    dataset_split: str = argument("train", "Split of a folder or of a Hub dataset.")
    validation_dataset: str | None = argument(None, "Separate validation data; same values as --dataset.")
    validation_split: str | None = argument(
        None, "Validation split. Default: validation, valid, val or dev, if present; else data is held out."
    )
    split_seed: int = argument(0, "Seed of the train/validation split; independent of --seed.")
    delimiter: str | None = argument(None, "Delimiter of CSV and TSV files, such as ';' or 'tab'. Default: detected.")
    header: Literal["auto", "yes", "no"] = argument(
        "auto", "Whether the first row of CSV and TSV files names the columns; without it they are column_1, column_2."
    )
    quoting: Literal["auto", "csv", "backslash", "none"] = argument(
        "auto",
        "Quoting in CSV and TSV files: 'csv' (quotes are doubled in a quoted cell), 'backslash' (quotes are escaped "
        "with a backslash), or 'none' (quotes are ordinary characters, and each line is a row).",
    )
    max_bad_rows: float = argument(
        0.1, "Largest fraction of rows that may be skipped because they can't be used, such as rows without text."
    )
    dataset_license: str | None = argument(None, "License of the data, for the model card, such as 'cc-by-4.0'.")


@dataclass
class DataArguments(DatasetArguments):
    """Data arguments for language modelling."""

    dataset: str = argument(
        "stories",
        "The text: 'stories' (built in); a text file; a table (.jsonl, .json, .csv, .tsv, .parquet, .arrow); a folder "
        "or a pattern of such files; or a Hub dataset.",
    )
    text_column: str | None = argument(
        None,
        "Column that holds the text, or a nested field such as meta.body. Default: 'text', 'sentence', or the only one "
        "with text.",
    )
    streaming: bool = argument(False, "Stream the Hub dataset instead of downloading it first.")
    num_stories: int = argument(20_000, "Number of built-in stories, at most 10 million.")
    validation_fraction: float = argument(
        0.1, "Fraction of the documents, or of the end of a single text, to hold out if there is no validation split."
    )
    max_documents: int | None = argument(None, "Maximum number of documents to read. Default: all.")
    tokenizer: str | None = argument(
        None,
        "'char', 'word', 'bpe' or 'unigram', trained on the text; or the folder or Hub id of a tokenizer. "
        "Default: that of --init_from, else bpe.",
    )
    vocab_size: int | None = argument(None, "Vocabulary size of a new tokenizer. Default: up to 4096 for bpe, unigram.")


@dataclass
class ModelArguments:
    """What to train."""

    preset: str = argument(
        "llama",
        "Style: 'gpt2', 'llama', 'nanochat', or 'nanochat_ngram', which has vectors for runs of three tokens too (most "
        "of use on little text, in little time; no native twin); or 'bigram', a table without layers.",
    )
    init_from: str | None = argument(
        None, "Go on from this checkpoint (folder or Hub id), with its model and tokenizer."
    )
    trust_remote_code: bool = argument(False, "Run the code that the --init_from checkpoint brings. Read it first.")
    context_length: int | None = argument(
        None, "Longest text the model sees at once, in tokens. Default: 256, or less if the --init_from model has less."
    )
    hidden_size: int = argument(128, "Features of a token.")
    num_hidden_layers: int = argument(4, "Number of transformer blocks.")
    num_attention_heads: int = argument(2, "Heads of each attention; must divide the hidden size.")
    num_key_value_heads: int | None = argument(None, "Key-value heads (grouped-query attention). Default: as many.")
    intermediate_size: int | None = argument(
        None, "Width of the feed-forward network. Default: 4 times hidden, or 8/3."
    )
    dropout: float | None = argument(None, "Embedding, attention and residual dropout. Default: that of the preset.")
    attention_dropout: float | None = argument(
        None, "Attention dropout alone; on a processor it can take a third of a step. Default: as --dropout."
    )
    tie_word_embeddings: bool | None = argument(None, "Share embedding and head. Default: as the preset does.")


@dataclass
class TrainingArguments:
    """How to train, whatever the task."""

    output_dir: str = argument("runs/model", "Folder for the model, its checkpoints and the record of the run.")
    resume: bool = argument(False, "Go on with the run in output_dir from its newest checkpoint.")
    allow_changed_settings: bool = argument(
        False, "Let --resume go on with other settings than the run was begun with."
    )
    max_steps: int | None = argument(None, "Optimizer steps. Default: as many as --epochs gives.")
    epochs: float = argument(1.0, "Passes over the training text, where max_steps is not given.")
    gradient_accumulation_steps: int = argument(1, "Batches whose gradients are added before each step.")
    optimizer: Literal["adamw", "muon"] = argument("muon", "'adamw', or 'muon' for matrices with AdamW for the rest.")
    learning_rate: float | None = argument(None, "Peak learning rate of AdamW. Default: 1e-2 beside Muon, 2e-3 alone.")
    muon_learning_rate: float = argument(2e-2, "Peak learning rate of Muon, in AdamW's units.")
    weight_decay: float = argument(0.1, "Weight decay of matrices; embeddings, norms and biases have none.")
    adam_beta1: float = argument(0.9, "AdamW's memory of the gradient.")
    adam_beta2: float = argument(0.95, "AdamW's memory of the squared gradient.")
    schedule: Literal["cosine", "wsd", "constant", "inverse_sqrt"] = argument(
        "cosine",
        "After the warm-up: 'cosine' down, 'wsd' (stable, then straight down), 'constant', or 'inverse_sqrt' (falls "
        "with the root of the step, as in the Transformer of 2017).",
    )
    warmup_steps: int = argument(20, "Steps in which the learning rate rises from 0.")
    decay_fraction: float = argument(0.4, "Last share of the steps, in which 'wsd' falls.")
    min_learning_rate_ratio: float = argument(0.0, "Last learning rate as a share of the peak.")
    max_grad_norm: float = argument(1.0, "Gradients longer than this are shortened to it; 0 leaves them.")
    precision: Literal["auto", "fp32", "bf16"] = argument("auto", "'auto' is bf16 where the processor does it well.")
    compile: Literal["auto", "on", "off"] = argument(
        "auto", "Compile the blocks. 'auto' does where the run is long enough and there is a C++ compiler (g++)."
    )
    gradient_checkpointing: bool = argument(
        False, "Recompute activations instead of keeping them: less memory, slower."
    )
    log_every: int = argument(10, "Steps between rows of metrics.jsonl.")
    eval_every: int = argument(250, "Steps between evaluations on the whole validation split; 0: only at the end.")
    save_every: int | None = argument(None, "Steps between checkpoints. Default: eval_every; 0: only at the end.")
    average_decay: float | None = argument(
        None,
        "Evaluate and publish a moving average of the weights, which keeps this share at each step, such as 0.998.",
    )
    metric_for_best_model: str = argument(
        "val_loss", "The figure that picks the published model, such as val_loss, or val_bleu for translations."
    )
    keep_last: int = argument(2, "Checkpoints kept; older ones are removed.")
    early_stopping_patience: int | None = argument(None, "Stop after so many evaluations without a better one.")
    seed: int = argument(0, "Seed of weights, order, dropout and built-in stories.")
    num_threads: int | None = argument(None, "Processor threads of each process. Default: all cores, shared out.")
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = argument(
        None, "Also report to 'tensorboard', 'wandb' or 'trackio' (install the extra of that name first)."
    )


@dataclass
class PretrainingArguments(TrainingArguments):
    """How to train a language model."""

    output_dir: str = argument("runs/gpt", "Folder for the model, its checkpoints and the record of the run.")
    batch_size: int = argument(8, "Rows (of context_length tokens) a process takes at a time.")


@dataclass
class PairArguments(DatasetArguments):
    """Data arguments for translation."""

    dataset: str = argument(
        "grammar",
        "Parallel text: 'grammar' (built in, German and English); a folder with train.de and train.en (plain or "
        "compressed); a file with --target_file; a table (.jsonl, .csv, .tsv, .parquet, .arrow) with a column for "
        "each language, or a folder of tables; or a Hub dataset.",
    )
    target_file: str | None = argument(None, "File with the translation of each line of --dataset.")
    source_lang: str = argument("de", "Source language, as in the names of files and columns.")
    target_lang: str = argument("en", "Target language, as in the names of files and columns.")
    validation_fraction: float = argument(0.02, "Fraction of the pairs to hold out if there is no validation split.")
    num_pairs: int = argument(20_000, "Number of pairs from the built-in grammar, at most 1 million.")
    max_pairs: int | None = argument(None, "Maximum number of pairs to read. Default: all.")
    tokenizer: Literal["bpe", "unigram", "word", "char"] = argument("bpe", "Kind of tokenizer to train on the text.")
    vocab_size: int | None = argument(None, "Vocabulary size. Default: up to 4096 for bpe and unigram.")
    separate_vocabularies: bool = argument(False, "Train one tokenizer per language instead of a shared one.")
    max_length: int = argument(128, "Maximum sentence length in tokens; longer sentences are truncated and counted.")
    skip_long: bool = argument(False, "Skip pairs with a longer side instead of truncating them.")
    both_directions: bool = argument(
        False,
        "Train on both directions of each pair. With few pairs, such a model is a good starting point (--init_from) "
        "for training on one direction.",
    )


@dataclass
class Seq2SeqModelArguments:
    """What to train."""

    preset: str = argument("modern", "Style: 'vaswani2017' or 'modern'.")
    init_from: str | None = argument(
        None, "Go on from this checkpoint (folder or Hub id), with its model and tokenizer."
    )
    trust_remote_code: bool = argument(False, "Run the code that the --init_from checkpoint brings. Read it first.")
    hidden_size: int = argument(128, "Features of a token.")
    encoder_layers: int = argument(3, "Blocks of the encoder.")
    decoder_layers: int = argument(3, "Blocks of the decoder.")
    num_attention_heads: int = argument(4, "Heads of each attention; must divide the hidden size.")
    intermediate_size: int | None = argument(
        None, "Width of the feed-forward network. Default: 4 times hidden, or 8/3."
    )
    dropout: float | None = argument(None, "Embedding and residual dropout. Default: that of the preset.")
    label_smoothing: float | None = argument(None, "Label smoothing. Default: that of the preset.")
    share_encoder_decoder_embeddings: bool | None = argument(
        None, "One embedding for source and target. Default: yes, unless they have separate vocabularies."
    )
    tie_word_embeddings: bool = argument(True, "One matrix for the target's embedding and the head.")
    num_beams: int = argument(5, "Beams with which the finished model searches, unless told otherwise.")


@dataclass
class Seq2SeqTrainingArguments(TrainingArguments):
    """How to train an encoder-decoder."""

    output_dir: str = argument("runs/seq2seq", "Folder for the model, its checkpoints and the record of the run.")
    tokens_per_batch: int = argument(2048, "Rows times length, on one side, that a process takes at a time.")
    epochs: float = argument(10.0, "Passes over the training pairs, where max_steps is not given.")
    word_dropout: float = argument(
        0.0, "Share of the tokens of both sides that training hides, others in every pass; a help on few pairs."
    )
    eval_beams: int = argument(1, "Beams with which the validation sentences are decoded during training.")


# What a process takes at a time, at most: more than that no machine holds.
AT_ONCE = {"batch_size": 1 << 20, "tokens_per_batch": 1 << 26, "eval_beams": 1024, "num_threads": 1 << 14}


def check_training(args: TrainingArguments) -> None:
    """Raise ScratchError for numbers that no training can run with, all of them at once."""
    positive: tuple[str, ...] = (
        "batch_size",
        "tokens_per_batch",
        "gradient_accumulation_steps",
        "log_every",
        "keep_last",
        "epochs",
        "max_steps",
        "eval_beams",
    )
    positive += ("learning_rate", "muon_learning_rate", "num_threads")
    at_least_zero = ("eval_every", "save_every", "warmup_steps", "weight_decay", "max_grad_norm", "seed")
    given = {name: getattr(args, name, None) for name in (*positive, *at_least_zero)}
    numbers = {name: value for name, value in given.items() if value is not None}
    wrong = [
        f"{n} is {numbers[n]}, want more than 0" for n in positive if n in numbers and not 0 < numbers[n] < math.inf
    ]
    at_once = {name: getattr(args, name, None) or 0 for name in AT_ONCE}
    wrong += [f"{n} is {at_once[n]}, want at most {most:,}" for n, most in AT_ONCE.items() if at_once[n] > most]
    wrong += [
        f"{n} is {numbers[n]}, want 0 or more" for n in at_least_zero if n in numbers and not 0 <= numbers[n] < math.inf
    ]
    if not 0 < args.decay_fraction <= 1:
        wrong.append(f"decay_fraction is {args.decay_fraction}, want more than 0 and at most 1")
    for name in ("average_decay", "mask_probability"):
        if (share := getattr(args, name, None)) is not None and not 0 < share < 1:
            wrong.append(f"{name} is {share}, want a share between 0 and 1")
    for name in ("label_smoothing", "word_dropout"):
        if not 0 <= (share := getattr(args, name, 0.0)) < 1:
            wrong.append(f"{name} is {share}, want a share from 0 up to, not including, 1")
    if wrong:
        raise ScratchError("; ".join(wrong))
