"""`scratch-gpt tokenizer …`: train, look at, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import app

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

tokenizer_app = typer.Typer(help="Train tokenizers, look at what they do, compare them.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")

COLOURS = ("black on #a6dcef", "black on #f2cfa5", "black on #b7e4b0", "black on #e6b8d4", "black on #d9d4f0")
Text = Annotated[str, typer.Argument(help="The text, or '-' to read it from standard input.")]
Tokenizer = Annotated[str, typer.Argument(metavar="TOKENIZER", help="Folder or Hub id of a tokenizer or model.")]


@tokenizer_app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="'stories', a text file, a folder, a table, or a Hub dataset.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder for the tokenizer.")],
    kind: Annotated[str, typer.Option(help="'char', 'word', 'bpe' or 'unigram'.")] = "bpe",
    vocab_size: Annotated[
        int | None, typer.Option("--vocab_size", help="Tokens. Default: up to 4096 for bpe and unigram.")
    ] = None,
    template: Annotated[
        str, typer.Option(help="Around a text: 'causal' <bos> …, 'seq2seq' … <eos>, 'encoder' <bos> … <eos>.")
    ] = "causal",
    text_column: Annotated[
        str | None, typer.Option("--text_column", help="Column of a table that holds the text.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a Hub dataset.")] = "train",
    streaming: Annotated[bool, typer.Option(help="Read a Hub dataset as it comes, without storing it.")] = False,
) -> None:
    """Train a tokenizer that `AutoTokenizer` opens.

    Example: `scratch-gpt tokenizer train stories runs/tokenizer --kind bpe --vocab_size 600`
    """
    from ..data.sources import open_source
    from ..errors import ScratchError
    from ..tokenization.training import train_tokenizer

    if (output_dir / "tokenizer.json").exists():
        raise ScratchError(f"{output_dir} holds a tokenizer already: name another folder")
    source = open_source(dataset, text_column=text_column, split=split, streaming=streaming)
    tokenizer = train_tokenizer(source.documents(), kind, vocab_size, template, show_progress=True)  # type: ignore[arg-type]
    tokenizer.save_pretrained(output_dir)
    _print(f"{len(tokenizer):,} tokens in {output_dir}")


@tokenizer_app.command()
def encode(tokenizer: Tokenizer, text: Text) -> None:
    """Show the pieces of a text in colour, and their ids.

    Example: `scratch-gpt tokenizer encode runs/gpt "One day, Anna has two old lamps."`
    """
    from rich.text import Text as RichText

    opened = _open(tokenizer)
    ids = opened(_read(text)).input_ids
    pieces, numbers = RichText(), RichText()
    for i, token in enumerate(ids):
        piece = str(opened.decode([token])).replace("\n", "⏎\n") or "∅"
        colour = COLOURS[i % len(COLOURS)]
        pieces.append(piece, colour)
        numbers.append(f"{token} ", colour.split(" on ")[1])
    _print(pieces)
    _print(numbers)
    _print(f"{len(ids)} tokens")


@tokenizer_app.command()
def decode(tokenizer: Tokenizer, ids: Annotated[list[int], typer.Argument(help="Token ids.")]) -> None:
    """Turn token ids back into text.

    Example: `scratch-gpt tokenizer decode runs/gpt 1 300 301`
    """
    from ..errors import ScratchError

    opened = _open(tokenizer)
    wrong = [i for i in ids if not 0 <= i < len(opened)]
    if wrong:
        raise ScratchError(f"no such tokens: {', '.join(map(str, wrong))}; this vocabulary ends at {len(opened) - 1}")
    print(opened.decode(ids))


@tokenizer_app.command()
def compare(
    text: Text,
    tokenizers: Annotated[list[str], typer.Argument(metavar="TOKENIZER...", help="Folders or Hub ids.")],
) -> None:
    """Put several tokenizers beside each other on one text, or on a file of that name.

    Example: `scratch-gpt tokenizer compare README.md runs/gpt runs/tokenizer`
    """
    from rich.table import Table

    sample = Path(text).read_text(encoding="utf-8") if Path(text).is_file() else _read(text)
    table = Table("tokenizer", "vocabulary", "tokens", "characters a token", "comes back")
    for name in tokenizers:
        opened = _open(name)
        ids = opened(sample, add_special_tokens=False).input_ids
        exact = "exactly" if opened.decode(ids) == sample else "changed"
        ratio = f"{len(sample) / max(1, len(ids)):.2f}"
        table.add_row(name, f"{len(opened):,}", f"{len(ids):,}", ratio, exact)
    _print(table)


def _open(name: str) -> PreTrainedTokenizerFast:
    from ..hub.opening import open_tokenizer

    return open_tokenizer(name)


def _read(text: str) -> str:
    import sys

    return sys.stdin.read() if text == "-" else text


def _print(what: Any) -> None:
    from rich.console import Console

    Console(highlight=False).print(what)
