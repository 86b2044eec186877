"""Texts that a user gives to a command: how they are read, checked, and written line by line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal import printable, printable_at_terminal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from ..data.readers.corpus import ReadCount

SHOWN = 10  # of unknown characters or words
AT_ONCE = 4096  # texts


def read_file(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, plain or compressed, without a byte order mark. Only a line feed, with or without
    a carriage return before it, ends a line.

    Raises:
        ScratchError: there is no such file, or it is no UTF-8 text.
    """
    from ..data.readers.files import read_lines
    from ..errors import ScratchError

    if not path.is_file():
        raise ScratchError(f"no such file: {path}")
    return list(read_lines(path))


def read_texts(texts: list[str] | None, file: Path | None) -> list[str]:
    """The texts of the command line, or the lines of a file.

    Raises:
        ScratchError: both or neither are given, or there is no text in them.
    """
    from ..errors import ScratchError

    if (file is None) == (not texts):
        raise ScratchError("give either texts or --file")
    found = read_file(file) if file is not None else list(texts or [])
    if not any(text.strip() for text in found):
        raise ScratchError(f"{file or 'the command line'} holds no text")
    return found


def report_skipped(name: str, count: ReadCount) -> None:
    """Say which rows of a dataset were skipped, and why."""
    if count.skipped:
        said = f"{name}: {count.skipped.total():,} rows skipped ({count.described()})"
        print(printable(said), file=sys.stderr)


def one_line(text: str) -> str:
    """A text with spaces for its line ends, whichever characters `str.splitlines` takes for one."""
    return " ".join(part for part in text.splitlines() if part)


def print_data(text: str) -> None:
    """Print what a model or tokenizer makes: as it is into a file or pipe, with escapes for control characters at a
    terminal."""
    print(printable_at_terminal(text))


def safe_streamer(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A transformers streamer that writes to standard output as `print_data` does."""
    from transformers import TextStreamer

    class SafeStreamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            super().on_finalized_text(printable_at_terminal(text), stream_end)

    return SafeStreamer(tokenizer, skip_special_tokens=True)


def check_unicode(texts: list[str]) -> None:
    """Refuse what was no UTF-8 text on the command line or on standard input, where Python escapes bytes.

    Raises:
        ScratchError: a text has a surrogate in it.
    """
    from ..errors import ScratchError

    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ScratchError(f"{text!r:.60} is not UTF-8 text: {error.reason}") from error


def report_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str], limit: int | None = None) -> None:
    """Say on standard error which characters or words are not in the vocabulary, and how many texts are truncated.

    Args:
        tokenizer: that will encode them.
        texts: as the user gave them.
        limit: tokens to which a longer text is truncated, special tokens included; None where none is.

    Raises:
        ScratchError: a text is no Unicode text.
    """
    check_unicode(texts)
    unknown: dict[str, None] = {}
    long = 0
    for at in range(0, len(texts), AT_ONCE):
        encoded: Any = tokenizer(
            texts[at : at + AT_ONCE], return_offsets_mapping=True, truncation=False, padding=False, verbose=False
        )
        rows = zip(texts[at:], encoded["input_ids"], encoded["offset_mapping"], strict=False)
        for text, ids, offsets in rows:
            long += limit is not None and len(ids) > limit
            if tokenizer.unk_token_id in ids:
                pairs = zip(ids, offsets, strict=True)
                pieces = (text[begin:end] for token, (begin, end) in pairs if token == tokenizer.unk_token_id)
                unknown |= dict.fromkeys(piece for piece in pieces if piece not in ("", str(tokenizer.unk_token)))
    if unknown:
        print(printable(_unknown(tokenizer, list(unknown))), file=sys.stderr)
    if long:
        what = "1 text has" if long == 1 else f"{long:,} texts have"
        print(f"{what} more tokens than the model's {limit} positions: truncated", file=sys.stderr)


def _unknown(tokenizer: PreTrainedTokenizerFast, pieces: list[str]) -> str:
    unit = "word"
    if type(tokenizer.backend_tokenizer.model).__name__ not in ("WordLevel", "WordPiece") or max(map(len, pieces)) == 1:
        unit, pieces = "character", list(dict.fromkeys("".join(pieces)))  # neighbours may share one token
    shown = ", ".join(map(repr, pieces[:SHOWN])) + (", …" if len(pieces) > SHOWN else "")
    count = f"1 {unit} is" if len(pieces) == 1 else f"{len(pieces):,} {unit}s are"
    return f"{count} not in the vocabulary: {shown}"
