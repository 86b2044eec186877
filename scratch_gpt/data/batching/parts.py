"""Parts of a text that is tokenised: the unit of work of a process, and of what is kept when a preparation is killed.

The pieces of a text are divided into parts by their number of characters alone, so that the parts, and with them all
files, do not depend on the number of processes. The tokens of part 12 are `part-00012.bin`, and `part-00012.npy` has
the ends of its documents and a hash of its text. Each file is written beside its place and renamed, the first one
synced and the second one last: a part that has it, with the right hash, is complete.

The processes run this file by itself, without the package, which takes 0.2 seconds.
"""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

BATCH_PIECES, BATCH_CHARACTERS = 2048, 1 << 20  # of one call of the tokenizer
HASH_WORDS = 4  # of 8 bytes

Progress = Callable[[int], None]


class Part(NamedTuple):
    """Consecutive pieces of one kind.

    Attributes:
        kind: "train", "validation" or "all", as in `text.parts_of`.
        number: index of the part, counted over all kinds.
        texts: the pieces in UTF-8.
        ends: whether each piece ends a document.
        characters: number of characters of all pieces.
    """

    kind: str
    number: int
    texts: list[bytes]
    ends: list[bool]
    characters: int

    def digest(self) -> np.ndarray:
        """Return a hash of the pieces, shape (HASH_WORDS,), int64."""
        found = hashlib.blake2b(self.kind.encode(), digest_size=8 * HASH_WORDS)
        found.update(np.asarray([len(text) for text in self.texts], dtype="<i8").tobytes())
        found.update(bytes(self.ends))
        for text in self.texts:
            found.update(text)
        return np.frombuffer(found.digest(), dtype="<i8")


class PartIndex(NamedTuple):
    """What `part-N.npy` says of the tokens of a part, of D documents that end in it.

    Attributes:
        ends: end index (exclusive) of each document within the part, shape (D,).
        unknown: number of unknown tokens of each document within the part, and of the one that goes on in the next
            part, shape (D + 1,).
        tokens: number of tokens.
    """

    ends: np.ndarray
    unknown: np.ndarray
    tokens: int


class PartTokeniser:
    """Tokenise parts and write their files.

    Args:
        folder: where the files are written.
        tokenizer: a fast tokenizer as JSON (`Tokenizer.to_str`).
        dtype: data type of the token ids on disk.
        end: token that is appended to each document.
        unknown: token that counts as unknown; None if there is none.
    """

    def __init__(self, folder: str, tokenizer: str, dtype: str, end: int, unknown: int | None):
        self.folder, self.dtype, self.end, self.unknown = Path(folder), np.dtype(dtype), end, unknown
        self.backend = Tokenizer.from_str(tokenizer)
        self.backend.encode_special_tokens = True  # "<eos>" in a text is ordinary text
        self.backend.no_truncation()
        self.backend.no_padding()

    def write(self, part: Part, progress: Progress = lambda characters: None) -> None:
        """Write the files of a part.

        Args:
            part: the part.
            progress: called with the number of characters tokenised since the last call.

        Raises:
            OSError: a file can't be written.
        """
        tokens: list[np.ndarray] = []
        count, ends, unknown = 0, array("q"), array("q", [0])
        for texts, flags in _batches(part):
            encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
            for encoding, ends_document in zip(encoded, flags, strict=True):
                ids = encoding.ids
                unknown[-1] += ids.count(self.unknown) if self.unknown is not None else 0
                if ends_document:
                    ids.append(self.end)
                tokens.append(np.asarray(ids, dtype=self.dtype))
                count += len(ids)
                if ends_document:
                    ends.append(count)
                    unknown.append(0)
            progress(sum(map(len, texts)))
        _publish(self.folder / f"part-{part.number:05}.bin", lambda file: _write_synced(file, tokens))
        index = np.concatenate([part.digest(), np.asarray(ends, np.int64), np.asarray(unknown, np.int64)])
        _publish(self.folder / f"part-{part.number:05}.npy", lambda file: np.save(file, index))


def _batches(part: Part) -> Iterator[tuple[list[str], list[bool]]]:
    """Divide the pieces of a part into batches of at most `BATCH_PIECES` and about `BATCH_CHARACTERS` characters."""
    texts: list[str] = []
    start, characters = 0, 0
    for number, (data, _) in enumerate(zip(part.texts, part.ends, strict=True), 1):
        texts.append(data.decode("utf-8", "surrogatepass"))
        characters += len(texts[-1])
        if len(texts) == BATCH_PIECES or characters >= BATCH_CHARACTERS or number == len(part.texts):
            yield texts, part.ends[start:number]
            texts, start, characters = [], number, 0


def _publish(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file beside its place, and rename it. Another process may write the same file at this time."""
    staged = path.with_name(f"{path.name}.{os.getpid()}")
    with staged.open("wb") as file:
        write(file)
    staged.replace(path)


def _write_synced(file: Any, arrays: list[np.ndarray]) -> None:
    for array_ in arrays:
        file.write(array_)
    file.flush()
    os.fsync(file.fileno())


def read_index(folder: Path, number: int, dtype: np.dtype, digest: np.ndarray | None = None) -> PartIndex | None:
    """Read the index of a part; None if the part is missing or invalid. The files may be those of somebody else.

    Args:
        folder: the folder of the parts.
        number: index of the part.
        dtype: data type of the token ids.
        digest: hash of the text that the part must have; None does not check it.
    """
    path = folder / f"part-{number:05}.npy"
    binary = path.with_suffix(".bin")
    try:
        if path.is_symlink() or binary.is_symlink() or not (path.is_file() and binary.is_file()):
            return None
        # Memory-mapped first: a header that declares an array larger than the file then allocates no memory.
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.dtype != np.int64 or found.ndim != 1 or len(found) <= HASH_WORDS or len(found) % 2 == 0:
            return None
        documents = (len(found) - HASH_WORDS) // 2
        ends, unknown = np.array(found[HASH_WORDS : HASH_WORDS + documents]), np.array(found[HASH_WORDS + documents :])
        tokens, rest = divmod(binary.stat().st_size, dtype.itemsize)
    except (OSError, ValueError, EOFError):
        return None
    bounds = np.concatenate(([0], ends, [tokens]))
    if rest or np.any(np.diff(bounds) < 0) or (digest is not None and not np.array_equal(found[:HASH_WORDS], digest)):
        return None
    return PartIndex(ends, unknown, tokens)


def serve() -> None:
    """Tokenise the parts that arrive on standard input until it ends: the main function of a process.

    The first message is the settings of `PartTokeniser`; the answer to each part is one line, empty or an error of the
    operating system: its number and its text.
    """
    import pickle
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that sends the parts stops this one
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        tokeniser = PartTokeniser(**pickle.load(sys.stdin.buffer))
        while True:
            try:
                part = Part(*pickle.load(sys.stdin.buffer))
            except (EOFError, pickle.UnpicklingError):  # the latter if the process that sends it was killed
                return
            try:
                tokeniser.write(part)
                answer = ""
            except OSError as error:
                answer = f"{error.errno} {error.strerror}: {error.filename}"
            try:
                answers.write(answer + "\n")
                answers.flush()
            except BrokenPipeError:  # the process that sends the parts was killed
                os._exit(1)


if __name__ == "__main__":
    serve()
