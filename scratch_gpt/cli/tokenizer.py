"""`scratch-gpt tokenizer`: train, inspect and compare tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import app, refuse_unused
from .texts import check_unicode, print_data, read_file, report_skipped, report_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

tokenizer_app = typer.Typer(help="Train, inspect and compare tokenizers.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")

COLOURS = ("black on #a6dcef", "black on #f2cfa5", "black on #b7e4b0", "black on #e6b8d4", "black on #d9d4f0")
Text = Annotated[str, typer.Argument(help="The text, or '-' for standard input.")]
Tokenizer = Annotated[str, typer.Argument(metavar="TOKENIZER", help="Folder or Hub id of a tokenizer or model.")]


@tokenizer_app.command()
def train(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="'stories', a text file, a folder, a table, or a Hub dataset.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder to write the tokenizer to.")],
    kind: Annotated[str, typer.Option(help="Model: 'char', 'word', 'bpe' or 'unigram'.")] = "bpe",
    vocab_size: Annotated[
        int | None, typer.Option("--vocab_size", help="Vocabulary size. Default: up to 4096 for bpe and unigram.")
    ] = None,
    template: Annotated[
        str,
        typer.Option(help="Special tokens: 'causal' <bos> …, 'seq2seq' … <eos>, 'encoder' <bos> … <eos>."),
    ] = "causal",
    text_column: Annotated[str | None, typer.Option("--text_column", help="Column of a table with the text.")] = None,
    split: Annotated[str, typer.Option(help="Split of a Hub dataset.")] = "train",
    dataset_config: Annotated[
        str | None, typer.Option("--dataset_config", help="Configuration of a Hub dataset that has several.")
    ] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming/--no-streaming", help="Stream a Hub dataset instead of downloading it.")
    ] = False,
) -> None:
    """Train a tokenizer that `AutoTokenizer` can load.

    Example:

    ```
    scratch-gpt tokenizer train stories runs/tokenizer --kind bpe --vocab_size 600
    ```
    """
    from ..data.readers.files import kind_of
    from ..data.readers.sources import open_source
    from ..data.readers.tables import ReadOptions
    from ..errors import ScratchError
    from ..tokenization.saving import save_tokenizer
    from ..tokenization.training import train_tokenizer
    from ..untrusted import find_links

    hub_options = ("split", "dataset_config", "streaming")
    if dataset == "stories":
        refuse_unused(context, dict.fromkeys((*hub_options, "text_column"), "with the built-in stories"))
    elif Path(dataset).is_file():
        unused = dict.fromkeys(hub_options, "with a single file")
        if kind_of(Path(dataset)) in ("text", None):
            unused["text_column"] = "with a text file"
        refuse_unused(context, unused)
    if (output_dir / "tokenizer.json").exists():
        raise ScratchError(f"{output_dir} already contains a tokenizer: choose another folder")
    for link in find_links(output_dir):
        raise ScratchError(f"{link} is a link, which could redirect writes elsewhere: choose another folder")
    options = ReadOptions(split=split, config=dataset_config, streaming=streaming)
    source = open_source(dataset, options, text_column=text_column)
    tokenizer = train_tokenizer(source.documents(), kind, vocab_size, template, show_progress=True)  # type: ignore[arg-type]
    save_tokenizer(tokenizer, output_dir)
    report_skipped(source.name, source.count)
    _print(f"{len(tokenizer):,} tokens in {output_dir}")


@tokenizer_app.command()
def encode(tokenizer: Tokenizer, text: Text) -> None:
    """Tokenize a text: show its tokens in colour, and their ids.

    Example:

    ```
    scratch-gpt tokenizer encode runs/gpt "One day, Anna has two old lamps."
    ```
    """
    from rich.text import Text as RichText

    from ..terminal import printable

    opened, text = _open(tokenizer), _read(text)
    report_texts(opened, [text])
    ids = opened(text, verbose=False).input_ids
    pieces, numbers = RichText(), RichText()
    for i, token in enumerate(ids):
        piece = printable(str(opened.decode([token]))).replace("\n", "⏎\n") or "∅"
        colour = COLOURS[i % len(COLOURS)]
        pieces.append(piece, colour)
        numbers.append(f"{token} ", colour.split(" on ")[1])
    _print(pieces)
    _print(numbers)
    _print(f"{len(ids)} tokens")


@tokenizer_app.command()
def decode(tokenizer: Tokenizer, ids: Annotated[list[int], typer.Argument(help="Token ids.")]) -> None:
    """Decode token ids into text.

    Example:

    ```
    scratch-gpt tokenizer decode runs/gpt 1 300 301
    ```
    """
    from ..errors import ScratchError

    opened = _open(tokenizer)
    invalid = [i for i in ids if not 0 <= i < len(opened)]
    if invalid:
        raise ScratchError(f"no such token ids: {', '.join(map(str, invalid))}; the largest is {len(opened) - 1}")
    print_data(str(opened.decode(ids)))


@tokenizer_app.command()
def compare(
    text: Text,
    tokenizers: Annotated[list[str], typer.Argument(metavar="TOKENIZER...", help="Folders or Hub ids.")],
) -> None:
    """Compare tokenizers on a text, or on the UTF-8 file of that name: vocabulary, tokens, and lossless round trip.

    Example:

    ```
    scratch-gpt tokenizer compare README.md runs/gpt runs/tokenizer
    ```
    """
    from rich.table import Table

    sample = "\n".join(read_file(Path(text))) if _is_file(text) else _read(text)
    check_unicode([sample])
    table = Table("tokenizer", "vocabulary", "tokens", "characters per token", "round trip")
    for name in tokenizers:
        opened = _open(name)
        ids = opened(sample, add_special_tokens=False, verbose=False).input_ids
        exact = "exact" if opened.decode(ids) == sample else "changed"
        ratio = f"{len(sample) / max(1, len(ids)):.2f}"
        table.add_row(name, f"{len(opened):,}", f"{len(ids):,}", ratio, exact)
    _print(table)


def _open(name: str) -> PreTrainedTokenizerFast:
    from ..auto import register
    from ..hub.loading import open_tokenizer

    register()  # without it, transformers warns about the unknown model type
    return open_tokenizer(name, trust_remote_code=False)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # the text is too long to be a file name
        return False


def _read(text: str) -> str:
    import sys

    from ..errors import ScratchError

    try:
        return sys.stdin.read() if text == "-" else text
    except UnicodeDecodeError as error:
        raise ScratchError(f"standard input is not UTF-8 text: {error.reason}") from error


def _print(content: Any) -> None:
    from ..terminal import SafeConsole

    SafeConsole().print(content)
