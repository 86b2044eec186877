"""Tokenised text on disk: cached by content and settings, and read through memory maps.

A cache entry is a folder with `meta.json` and, for each split, `SPLIT.bin` (token ids, little endian, uint16 or uint32
depending on the vocabulary size) and `SPLIT.ends.npy` (the end of each document). It is written to a temporary folder
that is renamed when complete, so that an incomplete entry is never used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from ...cache import cache_directory, make_cache
from ...errors import ScratchError
from ...tokenization.special_tokens import end_token_id, unknown_token_id
from ...tokenization.training import encode_batch
from ...untrusted import check_regular, read_json
from ..readers.sources import Piece, Source
from ..readers.text import SPLITS, Record, Sizes, TextReading, parts_of

FORMAT = 4
DTYPES = ("<u2", "<u4")  # of token ids
SIZES = ("characters", "utf8_bytes", "unknown")
BATCH_PIECES = 2048
BATCH_CHARACTERS = 1 << 23
COPIED_DOCUMENTS = 1 << 15

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Shard:
    """The tokens of one split.

    Attributes:
        tokens: concatenated token ids of all documents, shape (T,). If there are several documents, each ends with
            `<eos>`.
        ends: end index (exclusive) of each document, shape (D,).
        characters, utf8_bytes: size of the text before tokenisation.
        unknown: number of `<unk>` tokens.
        scored: boolean mask (T,) of the tokens that contribute to the loss; None means all.
    """

    tokens: np.ndarray
    ends: np.ndarray
    characters: int
    utf8_bytes: int
    unknown: int = 0
    scored: np.ndarray | None = None


def prepare(
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    validation_fraction: float = 0.1,
    validation_source: Source | None = None,
    progress: Progress | None = None,
    splits: tuple[str, ...] = SPLITS,
    seed: int = 0,
) -> dict[str, Shard]:
    """Return only the shards of `prepare_texts`.

    Args:
        source, tokenizer, validation_fraction, validation_source, progress, splits, seed: see `prepare_texts`.
    """
    return prepare_texts(source, tokenizer, validation_fraction, validation_source, progress, splits, seed)[0]


def prepare_texts(
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    validation_fraction: float = 0.1,
    validation_source: Source | None = None,
    progress: Progress | None = None,
    splits: tuple[str, ...] = SPLITS,
    seed: int = 0,
) -> tuple[dict[str, Shard], TextReading]:
    """Tokenise and split a source, or load the result from the cache.

    If the source is a single document, its end is held out; otherwise a fraction of the documents
    (`splits.hold_out`).

    Args:
        source: the texts.
        tokenizer: a fast tokenizer; its `end_token_id` is appended to each document.
        validation_fraction: fraction to hold out if `validation_source` is None; 1 holds out everything.
        validation_source: separate validation texts; all of `source` is then training data.
        progress: called with the number of characters tokenised since the last call.
        splits: the splits to return; each must contain text.
        seed: seed of the split.

    Returns:
        A shard for each of `splits`, and statistics of the texts.

    Raises:
        ScratchError: a requested split is empty, or too many rows can't be used.
    """
    settings = {
        "format": FORMAT,
        "source": source.fingerprint(),
        "validation_source": validation_source.fingerprint() if validation_source else None,
        "validation_fraction": 0.0 if validation_source else validation_fraction,
        "seed": seed,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "end_token_id": end_token_id(tokenizer),
        "splits": splits,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    entry = cache_directory() / "shards" / key
    prepared = _open_entry(entry, splits)
    if prepared is None:
        _discard(entry)
        staging = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=make_cache("shards")))
        try:
            preparation = _Preparation(staging, tokenizer, progress or (lambda characters: None))
            meta = preparation.write(source, validation_source, validation_fraction, seed)
            _check_filled(staging, source, splits)
            (staging / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
            staging.rename(entry)
        except OSError:
            if not (entry / "meta.json").exists():  # otherwise another process has written the same entry
                raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        prepared = _open_entry(entry, splits)
    if prepared is None:
        raise ScratchError(
            f"{entry} is corrupt and can't be replaced: remove it, or set SCRATCH_GPT_CACHE to another folder"
        )
    shards, reading = prepared
    reading.count.check(source.name, source.max_bad_rows)  # the limit may be lower than when the entry was written
    return shards, reading


def _discard(entry: Path) -> None:
    """Remove a cache entry. Of a symbolic link, only the link itself is removed."""
    if entry.is_symlink() or entry.is_file():
        entry.unlink()
    elif entry.exists():
        shutil.rmtree(entry)


class _Writer:
    """Append documents to a file of token ids, each followed by the token that ends a text."""

    def __init__(self, path: Path, dtype: np.dtype):
        self.path, self.dtype = path, dtype
        self.file = path.open("wb")
        self.count = 0
        self.ends, self.unknown = array("q"), array("q", [0])

    def add(self, ids: list[int], piece: Piece, end: int, unk: int | None) -> None:
        self.unknown[-1] += ids.count(unk) if unk is not None else 0
        if piece.ends_document:
            ids = [*ids, end]
        self.file.write(np.asarray(ids, dtype=self.dtype).tobytes())
        self.count += len(ids)
        if piece.ends_document:
            self.ends.append(self.count)
            self.unknown.append(0)


class _Preparation:
    """Write the files of a cache entry."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast, progress: Progress):
        self.folder, self.tokenizer, self.progress = folder, tokenizer, progress
        largest = max(tokenizer.get_vocab().values())
        self.dtype = np.dtype(DTYPES[largest >= 1 << 16])
        self.record = Record()

    def write(
        self, source: Source, validation_source: Source | None, validation_fraction: float, seed: int
    ) -> dict[str, Any]:
        """Tokenise and split the texts; return the content of `meta.json`."""
        writers = self._tokenise(parts_of(source, validation_source, validation_fraction))
        held = self.record.held_out(source, validation_fraction, seed)
        meta = {}
        if held is None:
            for split in SPLITS:
                everything = np.ones(len(writers[split].ends), dtype=bool)
                meta[split] = self._finish(split, writers[split], split, everything)
        else:
            for split, selected in (("train", ~held), ("validation", held)):
                self._copy(writers["all"], split, selected)
                meta[split] = self._finish(split, writers["all"], "all", selected)
        writers["all"].path.unlink()
        return {**meta, "reading": self.record.reading(source, validation_source, held).to_json()}

    def _tokenise(self, texts: Iterator[tuple[str, Piece]]) -> dict[str, _Writer]:
        """Write the token ids of all texts, one file per part."""
        writers = {part: _Writer(self.folder / f"{part}.bin", self.dtype) for part in (*SPLITS, "all")}
        end: Any = end_token_id(self.tokenizer)
        unk = unknown_token_id(self.tokenizer)
        try:
            for batch in _batches(texts):
                encoded = encode_batch(self.tokenizer, [piece.text for _, piece in batch])
                for (part, piece), ids in zip(batch, encoded, strict=True):
                    writers[part].add(ids, piece, end, unk)
                    self.record.add(part, piece)
                self.progress(sum(len(piece.text) for _, piece in batch))
        finally:
            for writer in writers.values():
                writer.file.close()
        return writers

    def _copy(self, written: _Writer, split: str, selected: np.ndarray) -> None:
        """Copy the documents selected by a boolean mask (D,) from the file of all documents to that of a split."""
        ends = np.asarray(written.ends, dtype=np.int64)
        lengths = np.diff(ends, prepend=0)
        tokens = np.memmap(written.path, dtype=self.dtype, mode="r") if written.count else np.empty(0, self.dtype)
        with (self.folder / f"{split}.bin").open("wb") as file:
            for start in range(0, len(ends), COPIED_DOCUMENTS):
                some = slice(start, start + COPIED_DOCUMENTS)
                begin, end = ends[start] - lengths[start], ends[some][-1]
                file.write(tokens[begin:end][np.repeat(selected[some], lengths[some])].tobytes())

    def _finish(self, split: str, written: _Writer, part: str, selected: np.ndarray) -> dict[str, Any]:
        """Save the ends of the documents of a split; return their sizes.

        The `<eos>` of a split with a single document is removed, because it may be a part of a longer document.

        Args:
            split: name of the split.
            written: the file of the part that the documents come from.
            part: name of that part: "train", "validation" or "all".
            selected: boolean mask (D,) of the documents of the part that belong to the split.
        """
        ends = np.cumsum(np.diff(np.asarray(written.ends, dtype=np.int64), prepend=0)[selected])
        if len(ends) == 1:
            ends = ends - 1
            with (self.folder / f"{split}.bin").open("r+b") as file:
                file.truncate(int(ends[0]) * self.dtype.itemsize)
        np.save(self.folder / f"{split}.ends.npy", ends)
        sizes = self.record.sizes.get(part) or Sizes()
        columns = {"characters": sizes.characters, "utf8_bytes": sizes.utf8_bytes, "unknown": written.unknown}
        totals = {
            name: int(np.asarray(column, np.int64)[: len(selected)][selected].sum()) for name, column in columns.items()
        }
        return {"dtype": self.dtype.str, **totals}


def _check_filled(folder: Path, source: Source, splits: tuple[str, ...]) -> None:
    for split in splits:
        if not (folder / f"{split}.bin").stat().st_size:
            advice = "give more text" if split == "train" else "give more text or a larger validation_fraction"
            raise ScratchError(f"{source.name} leaves no text for {split}: {advice}")


def _batches(pieces: Iterator[tuple[str, Piece]]) -> Iterator[list[tuple[str, Piece]]]:
    """Group pieces into batches of at most `BATCH_PIECES` pieces and about `BATCH_CHARACTERS` characters."""
    batch: list[tuple[str, Piece]] = []
    characters = 0
    for item in pieces:
        batch.append(item)
        characters += len(item[1].text)
        if len(batch) == BATCH_PIECES or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _open_entry(entry: Path, splits: tuple[str, ...]) -> tuple[dict[str, Shard], TextReading] | None:
    """Open a cache entry; None if it does not exist or is invalid. Entries are untrusted: others may have write access
    to the folder."""
    try:
        if _has_link(entry):
            return None
        meta = read_json(entry / "meta.json")
        reading = TextReading.from_json(meta["reading"])
        return {split: _open(entry, split, meta[split]) for split in splits}, reading
    except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError):
        return None


def _has_link(entry: Path) -> bool:
    """Whether an entry is, or contains, a symbolic link."""
    return entry.is_symlink() or (entry.is_dir() and any(path.is_symlink() for path in entry.iterdir()))


def _open(entry: Path, split: str, meta: dict[str, Any]) -> Shard:
    """Open the shard of a split.

    Raises:
        ValueError: its files or sizes are invalid.
    """
    if meta["dtype"] not in DTYPES:
        raise ValueError(f"{entry} has tokens of type {meta['dtype']!r}, want one of {', '.join(DTYPES)}")
    for name in (f"{split}.bin", f"{split}.ends.npy"):
        check_regular(entry / name)
    tokens = np.memmap(entry / f"{split}.bin", dtype=meta["dtype"], mode="r")
    # Memory-mapped first: a header that declares an array larger than the file then allocates no memory.
    ends = np.load(entry / f"{split}.ends.npy", mmap_mode="r", allow_pickle=False)
    if ends.dtype != np.int64 or ends.ndim != 1 or not len(ends):
        raise ValueError(f"{entry} has no valid document ends for {split}")
    ends = np.array(ends)
    if ends[0] < 0 or np.any(ends[1:] < ends[:-1]) or ends[-1] != len(tokens):
        raise ValueError(f"{entry} has document ends that do not match its tokens")
    sizes = {name: meta[name] for name in SIZES}
    if not all(type(size) is int and size >= 0 for size in sizes.values()):
        raise ValueError(f"{entry} has sizes that are not numbers")
    return Shard(tokens=tokens, ends=ends, **sizes)


def shard_sizes(shard: Shard) -> dict[str, int]:
    """Return the number of tokens, documents, characters, UTF-8 bytes and unknown tokens."""
    sizes = {name: getattr(shard, name) for name in SIZES}
    return {"tokens": len(shard.tokens), "documents": len(shard.ends), **sizes}
