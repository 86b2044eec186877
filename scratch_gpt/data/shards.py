"""Texts as token ids on disk: tokenised once, cached by content and settings, read through memory maps.

A cache entry is a folder with, for each split, `SPLIT.bin` (token ids, little endian, the smallest unsigned type that
holds the vocabulary), `SPLIT.ends.npy` (where each document ends) and `meta.json`. It is written beside its place and
renamed, so that a half-written one is never used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from ..errors import ScratchError
from ..tokenization.training import encode_batch
from .sources import Piece, Source

SPLITS = ("train", "validation")
FORMAT = 1
BATCH_PIECES = 2048
BATCH_CHARACTERS = 1 << 23

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Shard:
    """The tokens of one split.

    Attributes:
        tokens: ids of all documents one after the other, each closed by `<eos>` where there are several.
        ends: index behind the last token of each document.
        characters, utf8_bytes: size of the text that the tokens stand for.
        unknown: how many tokens are `<unk>`.
        scored: which tokens are to be learned; None is all.
    """

    tokens: np.ndarray
    ends: np.ndarray
    characters: int
    utf8_bytes: int
    unknown: int = 0
    scored: np.ndarray | None = None


def cache_directory() -> Path:
    """Where prepared data lies: `$SCRATCH_GPT_CACHE`, by default `~/.cache/scratch_gpt`."""
    return Path(os.environ.get("SCRATCH_GPT_CACHE") or Path.home() / ".cache" / "scratch_gpt")


def is_validation(index: int, fraction: float) -> bool:
    """Whether document number `index` is held out: evenly spread, so that sorted corpora are split fairly."""
    return int((index + 1) * fraction) > int(index * fraction)


def prepare(
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    validation_fraction: float = 0.1,
    validation_source: Source | None = None,
    progress: Progress | None = None,
    splits: tuple[str, ...] = SPLITS,
) -> dict[str, Shard]:
    """Tokenise a source, or find it in the cache.

    One text is split by position, the last part held out; many documents are split by document.

    Args:
        source: the texts.
        tokenizer: a fast tokenizer; its `<eos>` closes each document.
        validation_fraction: share held out, if there is no source of its own for that; 1 leaves nothing to train on.
        validation_source: texts to validate on; then all of `source` is trained on.
        progress: called with the number of characters that have been tokenised since the last call.
        splits: those that are wanted, and must hold text.

    Returns:
        A shard for each of `splits`.

    Raises:
        ScratchError: nothing to train on or nothing held out.
    """
    settings = {
        "format": FORMAT,
        "source": source.fingerprint(),
        "validation_source": validation_source.fingerprint() if validation_source else None,
        "validation_fraction": 0.0 if validation_source else validation_fraction,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "eos_token_id": tokenizer.eos_token_id,
        "splits": splits,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    entry = cache_directory() / "shards" / key
    if not (entry / "meta.json").exists():
        entry.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=entry.parent))
        try:
            texts = split_pieces(source, validation_fraction, validation_source)
            _write(beside, texts, tokenizer, progress or (lambda characters: None))
            _check_filled(beside, source, splits)
            beside.rename(entry)
        except OSError:
            if not (entry / "meta.json").exists():  # else another process was faster with the same
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return {split: _open(entry, split) for split in splits}


def split_pieces(
    source: Source, validation_fraction: float, validation_source: Source | None = None
) -> Iterator[tuple[str, Piece]]:
    """Each piece of text with the split that it belongs to."""
    if validation_source is not None:
        yield from (("train", piece) for piece in source.pieces())
        yield from (("validation", piece) for piece in validation_source.pieces())
        return
    ends = (piece for piece in source.pieces() if piece.ends_document)
    if len(list(islice(ends, 2))) == 1:
        yield from _split_one_text(source, validation_fraction)
        return
    index = 0
    for piece in source.pieces():
        yield ("validation" if is_validation(index, validation_fraction) else "train"), piece
        index += piece.ends_document


def _split_one_text(source: Source, validation_fraction: float) -> Iterator[tuple[str, Piece]]:
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


def _write(
    folder: Path,
    texts: Iterator[tuple[str, Piece]],
    tokenizer: PreTrainedTokenizerFast,
    progress: Progress,
) -> None:
    largest = max(tokenizer.get_vocab().values())
    dtype = np.dtype("<u2") if largest < 1 << 16 else np.dtype("<u4")
    writers = {split: _Writer(folder / f"{split}.bin", dtype) for split in SPLITS}
    try:
        for batch in _batches(texts):
            encoded = encode_batch(tokenizer, [piece.text for _, piece in batch])
            for (split, piece), ids in zip(batch, encoded, strict=True):
                writers[split].add(ids, piece, tokenizer.eos_token_id, tokenizer.unk_token_id)
            progress(sum(len(piece.text) for _, piece in batch))
    finally:
        for writer in writers.values():
            writer.file.close()
    for split, writer in writers.items():
        writer.finish(folder / f"{split}.ends.npy")
    meta = {split: {"dtype": dtype.str, **writer.sizes} for split, writer in writers.items()}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _check_filled(folder: Path, source: Source, splits: tuple[str, ...]) -> None:
    for split in splits:
        if not (folder / f"{split}.bin").stat().st_size:
            advice = "give more text" if split == "train" else "give more text or a larger validation_fraction"
            raise ScratchError(f"{source.name} leaves no text for {split}: {advice}")


class _Writer:
    """Appends documents to a file of token ids, each closed by `<eos>`. A split of one document gets none: it may have
    been cut from a longer one, and one `<eos>` teaches nothing."""

    def __init__(self, path: Path, dtype: np.dtype):
        self.path, self.dtype = path, dtype
        self.file = path.open("wb")
        self.count = 0
        self.ends: list[int] = []
        self.sizes = {"characters": 0, "utf8_bytes": 0, "unknown": 0}

    def add(self, ids: list[int], piece: Piece, eos: int, unk: int | None) -> None:
        self.sizes["unknown"] += ids.count(unk) if unk is not None else 0
        if piece.ends_document:
            ids = [*ids, eos]
        self.file.write(np.asarray(ids, dtype=self.dtype).tobytes())
        self.count += len(ids)
        self.sizes["characters"] += len(piece.text)
        self.sizes["utf8_bytes"] += len(piece.text.encode("utf-8", "surrogatepass"))
        if piece.ends_document:
            self.ends.append(self.count)

    def finish(self, path: Path) -> None:
        if len(self.ends) == 1:
            self.ends[0] -= 1
            with self.path.open("r+b") as file:
                file.truncate(self.ends[0] * self.dtype.itemsize)
        np.save(path, np.asarray(self.ends, dtype=np.int64))


def _batches(pieces: Iterator[tuple[str, Piece]]) -> Iterator[list[tuple[str, Piece]]]:
    """Enough pieces at a time to keep every core busy, few enough to stay small."""
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


def _open(entry: Path, split: str) -> Shard:
    meta = json.loads((entry / "meta.json").read_text())[split]
    tokens = np.memmap(entry / f"{split}.bin", dtype=meta.pop("dtype"), mode="r")
    return Shard(tokens=tokens, ends=np.load(entry / f"{split}.ends.npy"), **meta)


def shard_sizes(shard: Shard) -> dict[str, int]:
    """Counts for logs and cards: tokens, documents, characters, bytes."""
    sizes = {k: v for k, v in asdict(shard).items() if isinstance(v, int)}
    return {"tokens": len(shard.tokens), "documents": len(shard.ends), **sizes}
