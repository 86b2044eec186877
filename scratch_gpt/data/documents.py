"""Documents and how they are split: what was read, each document's size and key, and what is held out.

Of one text the end is held out; of several, a share of the documents (`splits.hold_out`).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from .corpus import ReadCount
from .sources import Piece, Source
from .splits import hold_out

SPLITS = ("train", "validation")
PROMPT_CHARACTERS = 200


@dataclass(frozen=True)
class TextReading:
    """What was met when texts were read.

    Attributes:
        count: documents that were read and skipped.
        documents: how many each split has; one text gives a part to both.
        characters: in all documents.
        duplicates: documents that equal an earlier one.
        shared: documents to validate on that equal one to train on.
        prompt: the beginning of the text to validate on.
    """

    count: ReadCount
    documents: dict[str, int]
    characters: int
    duplicates: int
    shared: int
    prompt: str

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        count = self.count
        counted = {"read": count.read, "skipped": dict(count.skipped), "first": count.first}
        return {**vars(self), "count": {**counted, "harmless": sorted(count.harmless)}}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TextReading:
        """What `to_json` gave."""
        count = content["count"]
        harmless = set(count["harmless"])
        return cls(
            **{**content, "count": ReadCount(count["read"], Counter(count["skipped"]), count["first"], harmless)}
        )


def read_texts(source: Source, validation_source: Source | None, validation_fraction: float, seed: int) -> TextReading:
    """What `prepare_texts` reads, without a tokenizer.

    Raises:
        ScratchError: too many rows can't be used.
    """
    record = Record()
    if validation_source is not None:
        for split, texts in (("train", source), ("validation", validation_source)):
            for piece in texts.pieces():
                record.add(split, piece)
        return record.reading(source.count + validation_source.count)
    if has_one_document(source):
        for split, piece in split_one_text(source, validation_fraction):
            record.add(split, piece)
        return record.reading(source.count)
    for piece in source.pieces():
        record.add("all", piece)
    count, held = source.count, held_out(record.sizes["all"].keys, validation_fraction, seed)
    begin = next(islice(beginnings(source), int(np.argmax(held)), None), "") if held.any() else ""
    return record.reading(count, held, begin)


def documents_of(source: Source) -> Iterator[str]:
    """The documents, each as a whole."""
    held: list[str] = []
    for piece in source.pieces():
        held.append(piece.text)
        if piece.ends_document:
            yield "".join(held)
            held = []


def has_one_document(source: Source) -> bool:
    """Whether there is one text only, of which the end is held out."""
    ends = (piece for piece in source.pieces() if piece.ends_document)
    return len(list(islice(ends, 2))) == 1


def beginnings(source: Source, length: int = PROMPT_CHARACTERS) -> Iterator[str]:
    """The beginning of each document."""
    begin = ""
    for piece in source.pieces():
        begin += piece.text[: max(0, length - len(begin))]
        if piece.ends_document:
            yield begin
            begin = ""


def held_out(keys: array, fraction: float, seed: int) -> np.ndarray:
    """Which documents are held out, by their keys; a fraction of 1 holds out all."""
    found = np.frombuffer(keys, dtype=np.uint64)
    return np.ones(len(found), dtype=bool) if fraction >= 1 else hold_out(found, fraction, seed)


def split_one_text(source: Source, validation_fraction: float) -> Iterator[tuple[str, Piece]]:
    """Each piece of the only text with the split that it belongs to."""
    characters = sum(len(piece.text) for piece in source.pieces())
    border = int(characters * (1 - validation_fraction))
    position = 0
    for piece in source.pieces():
        cut = min(max(border - position, 0), len(piece.text))
        if cut:
            yield "train", Piece(piece.text[:cut], position + cut == border)
        if cut < len(piece.text) or piece.ends_document:
            yield "validation", Piece(piece.text[cut:], piece.ends_document)
        position += len(piece.text)


class Sizes:
    """Of each document its key (a hash of its text), characters and bytes."""

    def __init__(self) -> None:
        self.keys, self.characters, self.utf8_bytes = array("Q"), array("q"), array("q")
        self.begin = ""
        self._digest: Any = None

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        data = piece.text.encode("utf-8", "surrogatepass")
        if self._digest is None:
            self._digest = hashlib.blake2b(digest_size=8)
            self.characters.append(0)
            self.utf8_bytes.append(0)
        self._digest.update(data)
        self.characters[-1] += len(piece.text)
        self.utf8_bytes[-1] += len(data)
        if len(self.begin) < PROMPT_CHARACTERS:
            self.begin += piece.text[: PROMPT_CHARACTERS - len(self.begin)]
        if piece.ends_document:
            self.keys.append(int.from_bytes(self._digest.digest(), "little"))
            self._digest = None


class Record:
    """The sizes of all documents, by the part that they were read for: "train", "validation", or "all"."""

    def __init__(self) -> None:
        self.sizes: dict[str, Sizes] = {}

    def add(self, part: str, piece: Piece) -> None:
        """Count a piece of a part."""
        self.sizes.setdefault(part, Sizes()).add(piece)

    def reading(
        self,
        count: ReadCount,
        held: np.ndarray | None = None,
        begin: str | None = None,
    ) -> TextReading:
        """What was read.

        Args:
            count: rows that were read and skipped.
            held: which of the documents of "all" are held out.
            begin: of the text that is held out of "all".
        """
        keys = np.concatenate([np.frombuffer(sizes.keys, np.uint64) for sizes in self.sizes.values() if sizes.keys])
        parts = {name: np.frombuffer(sizes.keys, np.uint64) for name, sizes in self.sizes.items() if sizes.keys}
        if held is not None:
            parts = {"train": parts["all"][~held], "validation": parts["all"][held]}
        parts = {split: parts.get(split, np.empty(0, np.uint64)) for split in SPLITS}
        if begin is None:
            begin = self.sizes["validation"].begin if "validation" in self.sizes else ""
        return TextReading(
            count=count,
            documents={split: len(part) for split, part in parts.items()},
            characters=sum(sum(sizes.characters) for sizes in self.sizes.values()),
            duplicates=len(keys) - len(np.unique(keys)) if count.read > 1 else 0,
            shared=int(np.isin(parts["validation"], parts["train"]).sum()) if count.read > 1 else 0,
            prompt=begin,
        )
