"""Input texts of commands: reading, checking, and printing them line by line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal import printable, printable_at_terminal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from ..data.readers.corpus import ReadCount

MAX_SHOWN = 10  # unknown characters or words in a message
BATCH_SIZE = 4096  # texts that are tokenized at a time


def read_file(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file, plain or compressed, without a byte order mark.

    A line ends at a line feed or at a carriage return and line feed, and at no other character.

    Raises:
        ScratchError: the file does not exist, or is not UTF-8 text.
    """
    from ..data.readers.files import read_lines
    from ..errors import ScratchError

    if not path.is_file():
        raise ScratchError(f"no such file: {path}")
    return list(read_lines(path))


def read_texts(texts: list[str] | None, file: Path | None) -> list[str]:
    """Return the texts of the command line, or the lines of a file.

    Raises:
        ScratchError: both or neither are given, or all texts are blank.
    """
    from ..errors import ScratchError

    if (file is None) == (not texts):
        raise ScratchError("give either texts or --file")
    found = read_file(file) if file is not None else list(texts or [])
    if not any(text.strip() for text in found):
        raise ScratchError(f"{file or 'the command line'} contains no text")
    return found


def report_skipped(name: str, count: ReadCount) -> None:
    """Report on standard error how many rows of a dataset were skipped, and why."""
    if count.skipped:
        message = f"{name}: {count.skipped.total():,} rows skipped ({count.described()})"
        print(printable(message), file=sys.stderr)


def one_line(text: str) -> str:
    """Replace the line breaks of a text, as `str.splitlines` defines them, by spaces."""
    return " ".join(part for part in text.splitlines() if part)


def print_data(text: str) -> None:
    """Print output of a model or tokenizer: unchanged to a file or pipe, with escaped control characters to a
    terminal."""
    print(printable_at_terminal(text))


def safe_streamer(tokenizer: PreTrainedTokenizerFast, skip_prompt: bool = False) -> Any:
    """Build a transformers streamer that writes to standard output as `print_data` does, with or without the prompt."""
    from transformers import TextStreamer

    class SafeStreamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            super().on_finalized_text(printable_at_terminal(text), stream_end)

    return SafeStreamer(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True)


def check_unicode(texts: list[str]) -> None:
    """Check that texts from the command line or standard input were UTF-8: Python escapes other bytes as surrogates.

    Raises:
        ScratchError: a text contains a surrogate.
    """
    from ..errors import ScratchError

    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ScratchError(f"{text!r:.60} is not UTF-8 text: {error.reason}") from error


def report_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str], limit: int | None = None) -> None:
    """Report on standard error the characters or words that are not in the vocabulary, and the number of texts that
    are truncated.

    Args:
        tokenizer: the tokenizer that will encode the texts.
        texts: the input texts.
        limit: number of tokens to which texts are truncated, special tokens included; None: no truncation.

    Raises:
        ScratchError: a text contains a surrogate.
    """
    check_unicode(texts)
    unknown: dict[str, None] = {}
    truncated = 0
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        encoded: Any = tokenizer(batch, return_offsets_mapping=True, truncation=False, padding=False, verbose=False)
        for text, ids, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            truncated += limit is not None and len(ids) > limit
            if tokenizer.unk_token_id in ids:
                pairs = zip(ids, offsets, strict=True)
                pieces = (text[begin:end] for token, (begin, end) in pairs if token == tokenizer.unk_token_id)
                unknown |= dict.fromkeys(piece for piece in pieces if piece not in ("", str(tokenizer.unk_token)))
    if unknown:
        print(printable(_describe_unknown(tokenizer, list(unknown))), file=sys.stderr)
    if truncated:
        subject = "1 text has" if truncated == 1 else f"{truncated:,} texts have"
        print(f"{subject} more tokens than the model's {limit} positions: truncated", file=sys.stderr)


def _describe_unknown(tokenizer: PreTrainedTokenizerFast, pieces: list[str]) -> str:
    unit = "word"
    if type(tokenizer.backend_tokenizer.model).__name__ not in ("WordLevel", "WordPiece") or max(map(len, pieces)) == 1:
        # adjacent unknown characters may be one token
        unit, pieces = "character", list(dict.fromkeys("".join(pieces)))
    shown = ", ".join(map(repr, pieces[:MAX_SHOWN])) + (", …" if len(pieces) > MAX_SHOWN else "")
    count = f"1 {unit} is" if len(pieces) == 1 else f"{len(pieces):,} {unit}s are"
    return f"{count} not in the vocabulary: {shown}"
