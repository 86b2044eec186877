"""Split documents into training and validation data, and record their hashes and sizes.

If there is a single document, its end is held out; otherwise a fraction of the documents (`splits.hold_out`).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from ...errors import ScratchError
from ..splits import hold_out
from .corpus import ReadCount
from .sources import Piece, Source

SPLITS = ("train", "validation")
PROMPT_CHARACTERS = 200
BEGINNINGS = 1024  # documents whose beginnings are kept, among which is nearly always one that is held out


@dataclass(frozen=True)
class TextReading:
    """Statistics of the texts that were read.

    Attributes:
        count: number of documents read and skipped.
        documents: number of documents by split; a single document counts in both.
        characters: total number of characters.
        duplicates: number of documents that are equal to an earlier one.
        shared: number of validation documents that are equal to a training document.
        prompt: beginning of the validation text.
        validation_characters: number of characters of the validation text.
    """

    count: ReadCount
    documents: dict[str, int]
    characters: int
    duplicates: int
    shared: int
    prompt: str
    validation_characters: int

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that can be written as JSON."""
        count = self.count
        counted = {"read": count.read, "skipped": dict(count.skipped), "first": count.first}
        return {**vars(self), "count": {**counted, "harmless": sorted(count.harmless)}}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TextReading:
        """Restore a reading from the result of `to_json`, which may come from an untrusted file.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: the content is invalid.
        """
        count = content["count"]
        reading = cls(
            count=ReadCount(_number(count["read"]), Counter(_numbers(count["skipped"])), _numbers(count["first"])),
            documents={split: _number(content["documents"][split]) for split in SPLITS},
            characters=_number(content["characters"]),
            duplicates=_number(content["duplicates"]),
            shared=_number(content["shared"]),
            prompt=_text(content["prompt"]),
            validation_characters=_number(content["validation_characters"]),
        )
        reading.count.harmless = set(map(_text, count["harmless"]))
        return reading


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number of documents or characters")
    return value


def _numbers(values: Any) -> dict[str, int]:
    return {_text(name): _number(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def read_texts(source: Source, validation_source: Source | None, validation_fraction: float, seed: int) -> TextReading:
    """Read and split texts as `token_shards.prepare_texts` does, without tokenising them.

    Args:
        source: the texts.
        validation_source: separate validation texts, or None.
        validation_fraction: fraction to hold out if `validation_source` is None.
        seed: seed of the split.

    Raises:
        ScratchError: there is no text, or too many rows can't be used.
    """
    record = Record()
    for part, piece in parts_of(source, validation_source, validation_fraction):
        record.add(part, piece)
    return record.reading(source, validation_source, record.held_out(source, validation_fraction, seed))


def parts_of(
    source: Source, validation_source: Source | None, validation_fraction: float
) -> Iterator[tuple[str, Piece]]:
    """Iterate over the pieces of all texts, each with its part: "train", "validation", or "all" if the documents
    to hold out are only known after the last one (`Record.held_out`)."""
    if validation_source is not None:
        yield from (("train", piece) for piece in source.pieces())
        yield from (("validation", piece) for piece in validation_source.pieces())
    else:
        pieces = source.pieces()
        first = None if source.has_one_document() else list(_first_documents(pieces, 2))
        if first is None:  # a file can be larger than memory, and is read twice
            yield from _split_one_text(source.pieces, validation_fraction)
        elif sum(piece.ends_document for piece in first) == 1:
            yield from _split_one_text(lambda: iter(first), validation_fraction)
        else:
            yield from (("all", piece) for piece in chain(first, pieces))


def _first_documents(pieces: Iterator[Piece], count: int) -> Iterator[Piece]:
    """Take the pieces of the first documents."""
    while count and (piece := next(pieces, None)) is not None:
        yield piece
        count -= piece.ends_document


def documents_of(source: Source) -> Iterator[str]:
    """Iterate over complete documents."""
    pending: list[str] = []
    for piece in source.pieces():
        pending.append(piece.text)
        if piece.ends_document:
            yield "".join(pending)
            pending = []


def beginnings(source: Source, length: int = PROMPT_CHARACTERS) -> Iterator[str]:
    """Iterate over the first `length` characters of each document."""
    beginning = ""
    for piece in source.pieces():
        beginning += piece.text[: max(0, length - len(beginning))]
        if piece.ends_document:
            yield beginning
            beginning = ""


def _split_one_text(pieces: Callable[[], Iterator[Piece]], validation_fraction: float) -> Iterator[tuple[str, Piece]]:
    """Iterate over the pieces of a single document, each with its split; the end goes to "validation"."""
    characters = sum(len(piece.text) for piece in pieces())
    boundary = int(characters * (1 - validation_fraction))
    position = 0
    for piece in pieces():
        cut = min(max(boundary - position, 0), len(piece.text))
        if cut:
            yield "train", Piece(piece.text[:cut], position + cut == boundary)
        if cut < len(piece.text) or piece.ends_document:
            yield "validation", Piece(piece.text[cut:], piece.ends_document)
        position += len(piece.text)


class Sizes:
    """The key (a hash of the text), number of characters and number of UTF-8 bytes of each document, the beginnings of
    the first ones, and whether all of them are blank."""

    def __init__(self) -> None:
        self.keys, self.characters, self.utf8_bytes = array("Q"), array("q"), array("q")
        self.beginnings: list[str] = []
        self.blank = True
        self._digest: Any = None

    def add(self, piece: Piece) -> bytes:
        """Add the next piece, and return it in UTF-8."""
        data = piece.text.encode("utf-8", "surrogatepass")
        if self._digest is None:
            self._digest = hashlib.blake2b(digest_size=8)
            self.characters.append(0)
            self.utf8_bytes.append(0)
        self._digest.update(data)
        self.characters[-1] += len(piece.text)
        self.blank = self.blank and not piece.text.strip()
        self.utf8_bytes[-1] += len(data)
        if len(self.keys) < len(self.beginnings):
            self.beginnings[-1] += piece.text[: PROMPT_CHARACTERS - len(self.beginnings[-1])]
        elif len(self.beginnings) < BEGINNINGS:
            self.beginnings.append(piece.text[:PROMPT_CHARACTERS])
        if piece.ends_document:
            self.keys.append(int.from_bytes(self._digest.digest(), "little"))
            self._digest = None
        return data


class Record:
    """The sizes of all documents, by part: "train", "validation", or "all" before they are split."""

    def __init__(self) -> None:
        self.sizes: dict[str, Sizes] = {}

    def add(self, part: str, piece: Piece) -> bytes:
        """Add the next piece of a part, and return it in UTF-8."""
        return self.sizes.setdefault(part, Sizes()).add(piece)

    def held_out(self, source: Source, fraction: float, seed: int) -> np.ndarray | None:
        """Return a boolean mask (N,) of the documents of "all" to hold out; None if the parts are already known.

        Args:
            source: the source, for error messages.
            fraction: fraction to hold out; 1 holds out all documents.
            seed: seed of the split.

        Raises:
            ScratchError: there is no document, or only blank ones.
        """
        if not self.sizes:
            raise ScratchError(f"{source.name} has no text: {source.count.described() or 'it is empty'}")
        if all(sizes.blank for sizes in self.sizes.values()):
            raise ScratchError(f"{source.name} has no text: it has only spaces and line ends")
        if "all" not in self.sizes:
            return None
        keys = np.frombuffer(self.sizes["all"].keys, dtype=np.uint64)
        return np.ones(len(keys), dtype=bool) if fraction >= 1 else hold_out(keys, fraction, seed)

    def reading(self, source: Source, validation_source: Source | None, held: np.ndarray | None) -> TextReading:
        """Summarise the documents that were added.

        Args:
            source, validation_source: the sources they come from, which must not have been read again since.
            held: the result of `held_out`.
        """
        count = source.count if validation_source is None else source.count + validation_source.count
        parts = {name: np.frombuffer(sizes.keys, np.uint64) for name, sizes in self.sizes.items()}
        prompt = self.sizes["validation"].beginnings[0] if "validation" in self.sizes else ""
        held_out = sum(self.sizes["validation"].characters) if "validation" in self.sizes else 0
        if held is not None:
            parts = {"train": parts["all"][~held], "validation": parts["all"][held]}
            held_out = int(np.frombuffer(self.sizes["all"].characters, np.int64)[held].sum())
            kept, first = self.sizes["all"].beginnings, int(np.argmax(held))
            if held.any() and first < len(kept):
                prompt = kept[first]
            elif held.any():  # read the source again, up to the first document that is held out
                prompt = next(islice(beginnings(source), first, None), "")
        train, validation = (np.sort(parts.pop(split, np.empty(0, np.uint64))) for split in SPLITS)
        several = count.read > 1  # otherwise both parts belong to one text
        shared = _is_in(train, validation)
        return TextReading(
            count=count,
            documents={"train": len(train), "validation": len(validation)},
            characters=sum(sum(sizes.characters) for sizes in self.sizes.values()),
            duplicates=_repeated(train) + int(shared.sum()) + _repeated(validation[~shared]) if several else 0,
            shared=int(shared.sum()) if several else 0,
            prompt=prompt,
            validation_characters=held_out,
        )


def _repeated(keys: np.ndarray) -> int:
    """How many of the sorted keys are equal to the one before."""
    return int(np.count_nonzero(keys[1:] == keys[:-1]))


def _is_in(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the others are among the sorted keys, as a boolean mask. (`np.isin` would sort all of them again.)"""
    if not len(keys):
        return np.zeros(len(others), dtype=bool)
    return keys[np.minimum(np.searchsorted(keys, others), len(keys) - 1)] == others
