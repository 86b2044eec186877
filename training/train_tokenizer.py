"""Train a tokenizer from a file, a folder, a dataset column or the built-in stories.

    python training/train_tokenizer.py --dataset my_text.txt --kind bpe --vocab_size 4096 --output_dir runs/tokenizer
    python training/train_tokenizer.py --dataset user/corpus --text_column text --streaming --kind unigram

The folder that it leaves opens with `AutoTokenizer.from_pretrained`, and with
`pretrain_gpt.py --tokenizer runs/tokenizer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from scratch_gpt.data.sources import open_source
from scratch_gpt.data.tables import ReadOptions
from scratch_gpt.errors import ScratchError
from scratch_gpt.tokenization.training import encode_batch, train_tokenizer
from scratch_gpt.train.arguments.training import argument
from scratch_gpt.train.engine.command import run_command
from scratch_gpt.train.engine.parsing import parse_arguments

SAMPLE_TEXTS = 50


@dataclass
class TokenizerArguments:
    """What to train a tokenizer on, and which kind."""

    dataset: str = argument("stories", "'stories', a text file, a folder, a table with a column, or a Hub dataset.")
    dataset_config: str | None = argument(None, "Configuration of the Hub dataset, where it has several.")
    dataset_split: str = argument("train", "Split of the Hub dataset.")
    text_column: str | None = argument(None, "Column that holds the text. Default: 'text', or the only one with text.")
    streaming: bool = argument(False, "Read the Hub dataset as it comes, without storing it first.")
    kind: Literal["char", "word", "bpe", "unigram"] = argument("bpe", "One of the four kinds.")
    vocab_size: int | None = argument(None, "Tokens, special ones included. Default: up to 4096 for bpe and unigram.")
    template: Literal["causal", "seq2seq", "encoder"] = argument(
        "causal", "What is put around a text: '<bos> text', 'text <eos>', or '<bos> text <eos>'."
    )
    output_dir: str = argument("runs/tokenizer", "Folder for the tokenizer.")


def main() -> None:
    (args,) = parse_arguments((TokenizerArguments,), __doc__ or "")
    folder = Path(args.output_dir)
    if (folder / "tokenizer.json").exists():
        raise ScratchError(f"{folder} holds a tokenizer already: name another --output_dir")
    options = ReadOptions(split=args.dataset_split, config=args.dataset_config, streaming=args.streaming)
    source = open_source(args.dataset, options, text_column=args.text_column)
    tokenizer = train_tokenizer(source.documents(), args.kind, args.vocab_size, args.template, show_progress=True)
    tokenizer.save_pretrained(folder)

    sample = list(islice(source.documents(), SAMPLE_TEXTS))
    encoded = encode_batch(tokenizer, sample)
    exact = sum(tokenizer.decode(ids) == text for ids, text in zip(encoded, sample, strict=True))
    table = Table(title=f"{args.kind} tokenizer in {folder}", show_header=False)
    table.add_row("vocabulary", f"{len(tokenizer):,}")
    table.add_row("characters a token", f"{sum(map(len, sample)) / max(1, sum(map(len, encoded))):.2f}")
    table.add_row("texts that come back exactly", f"{exact} of {len(sample)}")
    Console().print(table)


if __name__ == "__main__":
    run_command(main)
