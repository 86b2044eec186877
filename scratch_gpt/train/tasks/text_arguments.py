"""Arguments that several families share: of plain text, and of a model that is trained or fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments.training import DatasetArguments, argument

INIT_FROM = "Checkpoint to start from (directory or Hub id), with its model and tokenizer."
TRUST = "Run the code that the --init_from checkpoint contains. Read it first."
CHAT_TEMPLATE = (
    "Jinja file with a chat template that replaces the tokenizer's and is saved with it. It may mark the assistant's "
    "messages with {% generation %}; otherwise they are what follows the generation prompt."
)
VOCAB_SIZE = "Vocabulary size of a new tokenizer. Default: up to 4096 for bpe and unigram."
HIDDEN_SIZE = "Hidden size (model width)."
HEADS = "Number of attention heads; must divide the hidden size."
INTERMEDIATE = (
    "Intermediate size of the feed-forward network, or of each expert. Default: 4 times the hidden size, or 8/3 if "
    "gated."
)
DROPOUT = "Dropout of embeddings, attention weights and residual branches. Default: the {}'s."


@dataclass
class DataArguments(DatasetArguments):
    """Data arguments for language modelling."""

    dataset: str = argument(
        "stories",
        "The text: 'stories' (built in); a text file; a table (.jsonl, .json, .csv, .tsv, .parquet, .arrow); a folder "
        "or a pattern of such files; or a Hub dataset.",
        private=True,
    )
    text_column: str | None = argument(
        None,
        "Column that holds the text, or a nested field such as meta.body. Default: 'text', 'sentence', or the only one "
        "with text.",
    )
    streaming: bool = argument(False, "Stream the Hub dataset instead of downloading it first.")
    num_stories: int = argument(20_000, "Number of built-in stories, at most 10 million.")
    validation_fraction: float = argument(
        0.1,
        "Fraction of the documents, or of the end of a single text, to hold out if there is no validation split.",
        more_than=0,
        less_than=1,
    )
    max_documents: int | None = argument(None, "Maximum number of documents to read. Default: all.", at_least=1)
    data_processes: int | None = argument(
        None,
        "Number of processes that tokenise the text, of one thread each. Default: all cores, at most 16; for a text of "
        "less than 4 million characters, the threads of this process.",
        at_least=1,
        at_most=1 << 10,
        resumable=True,
        private=True,
        training_only=True,
        with_init_from=True,
    )
    tokenizer: str | None = argument(
        None,
        "'char', 'word', 'bpe' or 'unigram', trained on the text; or the directory or Hub id of a tokenizer. "
        "Default: that of --init_from, else bpe.",
        private=True,
        training_only=True,
    )
    vocab_size: int | None = argument(None, VOCAB_SIZE, with_init_from=False, training_only=True)
