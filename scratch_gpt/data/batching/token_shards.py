"""Tokenised text on disk: cached by content and settings, and read through memory maps.

A cache entry is a folder with `meta.json` and, for each split, `SPLIT-00000.bin`, `SPLIT-00001.bin`, … (token ids,
little endian, uint16 or uint32 depending on the vocabulary size) and `SPLIT.ends.npy` (the end of each document). It is
written beside its place and renamed when complete, so that an incomplete entry is never used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from ...cache import make_cache
from ...errors import ScratchError
from ...tokenization.special_tokens import end_token_id
from ...untrusted import check_regular, read_json
from ..readers.sources import Source
from ..readers.text import SPLITS, TextReading
from .parts import Progress
from .preparation import DTYPES, Preparation, Report, exclusive_folder
from .token_files import TokenFiles

FORMAT = 5
SIZES = ("characters", "utf8_bytes", "unknown")
MAX_FILES = 1 << 16  # of a split


@dataclass(frozen=True)
class Shard:
    """The tokens of one split.

    Attributes:
        tokens: concatenated token ids of all documents, shape (T,); `TokenFiles`, which is indexed like an array, if
            they are in several files. If there are several documents, each ends with `<eos>`.
        ends: end index (exclusive) of each document, shape (D,).
        characters, utf8_bytes: size of the text before tokenisation.
        unknown: number of `<unk>` tokens.
        scored: boolean mask (T,) of the tokens that contribute to the loss; None means all.
        key: a name of these tokens in the cache; empty if they are not in it.
    """

    tokens: np.ndarray
    ends: np.ndarray
    characters: int
    utf8_bytes: int
    unknown: int = 0
    scored: np.ndarray | None = None
    key: str = ""


def prepare(
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    validation_fraction: float = 0.1,
    validation_source: Source | None = None,
    progress: Progress | None = None,
    splits: tuple[str, ...] = SPLITS,
    seed: int = 0,
    num_processes: int | None = None,
) -> dict[str, Shard]:
    """Return only the shards of `prepare_texts`.

    Args:
        source, tokenizer, validation_fraction, validation_source, progress, splits, seed, num_processes: see
            `prepare_texts`.
    """
    first = source, tokenizer, validation_fraction, validation_source
    return prepare_texts(*first, progress, splits, seed, num_processes)[0]


def prepare_texts(
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    validation_fraction: float = 0.1,
    validation_source: Source | None = None,
    progress: Progress | None = None,
    splits: tuple[str, ...] = SPLITS,
    seed: int = 0,
    num_processes: int | None = None,
    report: Report | None = None,
) -> tuple[dict[str, Shard], TextReading]:
    """Tokenise and split a source, or load the result from the cache.

    If the source is a single document, its end is held out; otherwise a fraction of the documents
    (`splits.hold_out`). A preparation that is killed is continued by the next call (see `preparation`). The result does
    not depend on the number of processes.

    Args:
        source: the texts.
        tokenizer: a fast tokenizer; its `end_token_id` is appended to each document.
        validation_fraction: fraction to hold out if `validation_source` is None; 1 holds out everything.
        validation_source: separate validation texts; all of `source` is then training data.
        progress: called with the number of characters tokenised since the last call.
        splits: the splits to return; each must contain text.
        seed: seed of the split.
        num_processes: number of processes that tokenise, each with one thread. None: the available cores, at most
            `preparation.MAX_PROCESSES`, or the threads of this process for a short text.
        report: called with lines for the user; None omits them.

    Returns:
        A shard for each of `splits`, and statistics of the texts.

    Raises:
        ScratchError: a requested split is empty, or too many rows can't be used.
        OSError: a file can't be written.
    """
    progress = progress or (lambda characters: None)
    report = report or (lambda line: None)
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
    entry = make_cache("shards") / key
    parts = entry.with_name(f"{key}.parts")
    prepared = _open_entry(entry, splits)
    if prepared is None or parts.exists():  # the latter if an earlier preparation was killed at its very end
        with exclusive_folder(parts, report) as folder:
            prepared = _open_entry(entry, splits)  # another process may have written it
            if prepared is None:
                _discard(entry)
                preparation = Preparation(folder, tokenizer, progress, report, num_processes)
                _write_entry(entry, preparation, source, validation_source, validation_fraction, seed, splits)
                prepared = _open_entry(entry, splits)
    if prepared is None:
        raise ScratchError(
            f"{entry} is corrupt and can't be replaced: remove it, or set SCRATCH_GPT_CACHE to another folder"
        )
    shards, reading = prepared
    reading.count.check(source.name, source.max_bad_rows)  # the limit may be lower than when the entry was written
    return shards, reading


def _write_entry(
    entry: Path,
    preparation: Preparation,
    source: Source,
    validation_source: Source | None,
    validation_fraction: float,
    seed: int,
    splits: tuple[str, ...],
) -> None:
    """Write a cache entry beside its place, and rename it. See `prepare_texts` for the arguments."""
    staged = preparation.folder / "entry"
    _discard(staged)
    staged.mkdir(mode=0o700)
    meta = preparation.write(staged, source, validation_source, validation_fraction, seed)
    _check_filled(staged, source, splits)
    (staged / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    try:
        staged.rename(entry)
    except OSError:
        if not (entry / "meta.json").exists():  # otherwise another process has written the same entry
            raise


def _discard(entry: Path) -> None:
    """Remove a cache entry. Of a symbolic link, only the link itself is removed."""
    if entry.is_symlink() or entry.is_file():
        entry.unlink()
    elif entry.exists():
        shutil.rmtree(entry)


def _check_filled(folder: Path, source: Source, splits: tuple[str, ...]) -> None:
    for split in splits:
        if not (folder / f"{split}-00000.bin").stat().st_size:
            advice = "give more text" if split == "train" else "give more text or a larger validation_fraction"
            raise ScratchError(f"{source.name} leaves no text for {split}: {advice}")


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
    if type(meta["files"]) is not int or not 0 < meta["files"] <= MAX_FILES:
        raise ValueError(f"{entry} has {meta['files']!r} files of {split}, want a number from 1 to {MAX_FILES}")
    names = [f"{split}-{number:05}.bin" for number in range(meta["files"])]
    for name in (*names, f"{split}.ends.npy"):
        check_regular(entry / name)
    arrays = [np.memmap(entry / name, dtype=meta["dtype"], mode="r") for name in names]
    tokens: Any = arrays[0] if len(arrays) == 1 else TokenFiles(arrays)
    # Memory-mapped first: a header that declares an array larger than the file then allocates no memory.
    ends = np.load(entry / f"{split}.ends.npy", mmap_mode="r", allow_pickle=False)
    if ends.dtype != np.int64 or ends.ndim != 1 or not len(ends):
        raise ValueError(f"{entry} has no valid document ends for {split}")
    ends = ends.view(np.ndarray)  # faster to index; still on disk, and shared by the processes of a machine
    if ends[0] < 0 or np.any(ends[1:] < ends[:-1]) or ends[-1] != len(tokens):
        raise ValueError(f"{entry} has document ends that do not match its tokens")
    sizes = {name: meta[name] for name in SIZES}
    if not all(type(size) is int and size >= 0 for size in sizes.values()):
        raise ValueError(f"{entry} has sizes that are not numbers")
    return Shard(tokens=tokens, ends=ends, key=f"{entry.name}.{split}", **sizes)


def shard_sizes(shard: Shard) -> dict[str, int]:
    """Return the number of tokens, documents, characters, UTF-8 bytes and unknown tokens."""
    sizes = {name: getattr(shard, name) for name in SIZES}
    return {"tokens": len(shard.tokens), "documents": len(shard.ends), **sizes}
