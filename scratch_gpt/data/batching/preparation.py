"""Tokenise the texts of a source into the files of a cache entry, by several processes, and continue after a kill.

The parts of the text (see `parts`) are kept in a folder whose name is a function of the text and the settings. A
preparation that is killed leaves the parts that are finished; the next one reads and counts their text, and tokenises
only the rest. Which documents are held out is known after the last one, so that their tokens are copied to the files of
the splits at the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import Timeout
from transformers import PreTrainedTokenizerFast

from ...cache import cache_lock
from ...hardware import available_cores, threads_of_user
from ...tokenization.special_tokens import end_token_id, unknown_token_id
from ..readers.sources import Piece, Source
from ..readers.text import SPLITS, Record, Sizes, parts_of
from .part_processes import ProcessDiedError, tokenise_here, tokenise_in_processes
from .parts import Part, PartIndex, Progress, read_index

DTYPES = ("<u2", "<u4")  # of token ids
PART_CHARACTERS = 1 << 22
FILE_TOKENS = 1 << 28  # a file of a split ends with the part that reaches this size
MAX_PROCESSES = 16  # by default; reading the text takes one core for about 50 that tokenise it

Report = Callable[[str], None]


class Preparation:
    """Write the files of a cache entry.

    Args:
        folder: folder of the parts, some of which may be finished.
        tokenizer: a fast tokenizer.
        progress: called with the number of characters tokenised since the last call.
        report: called with lines for the user.
        num_processes: number of processes that tokenise, each with one thread. None: the available cores, at most
            `MAX_PROCESSES`, or the threads of this process if the text is not longer than a part.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        progress: Progress,
        report: Report,
        num_processes: int | None = None,
    ):
        self.folder, self.progress, self.report, self.num_processes = folder, progress, report, num_processes
        self.dtype = np.dtype(DTYPES[max(tokenizer.get_vocab().values()) >= 1 << 16])
        self.settings = {
            "folder": str(folder),
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "dtype": self.dtype.str,
            "end": end_token_id(tokenizer),
            "unknown": unknown_token_id(tokenizer),
        }
        self.record = Record()
        self.kinds: list[str] = []  # of each part

    def write(
        self, entry: Path, source: Source, validation_source: Source | None, validation_fraction: float, seed: int
    ) -> dict[str, Any]:
        """Tokenise and split the texts.

        Args:
            entry: folder of the files of the splits.
            source, validation_source, validation_fraction, seed: see `token_shards.prepare_texts`.

        Returns:
            The content of `meta.json`.
        """
        self._tokenise(self._divide(parts_of(source, validation_source, validation_fraction)), source.name)
        held = self.record.held_out(source, validation_fraction, seed)
        meta = {}
        for split in SPLITS:
            selected = None if held is None else held if split == "validation" else ~held
            meta[split] = self._write_split(entry, split, split if held is None else "all", selected)
        return {**meta, "reading": self.record.reading(source, validation_source, held).to_json()}

    def _divide(self, texts: Iterator[tuple[str, Piece]]) -> Iterator[Part]:
        """Divide pieces into parts of `PART_CHARACTERS` characters and one kind, and record their sizes."""
        part: Part | None = None
        for kind, piece in texts:
            if part is not None and (part.kind != kind or part.characters >= PART_CHARACTERS):
                yield part
                part = None
            if part is None:
                part = Part(kind, len(self.kinds), [], [], 0)
                self.kinds.append(kind)
            part.texts.append(self.record.add(kind, piece))
            part.ends.append(piece.ends_document)
            part = part._replace(characters=part.characters + len(piece.text))
        if part is not None:
            yield part

    def _tokenise(self, parts: Iterator[Part], name: str) -> None:
        """Write the files of all parts that are not finished."""
        finished = 0

        def missing() -> Iterator[Part]:
            nonlocal finished
            for part in parts:
                if read_index(self.folder, part.number, self.dtype, part.digest()) is None:
                    yield part
                else:
                    finished += 1
                    self.progress(part.characters)

        rest = missing()
        first = list(islice(rest, 2))
        processes, threads = self.num_processes or 1, self.num_processes is None
        if self.num_processes is None and len(first) == 2:
            processes = min(threads_of_user() or available_cores(), MAX_PROCESSES)
        if processes > 1:
            self.report(f"tokenising {name} with {processes} processes (--data_processes)")
            tokenise_in_processes(chain(first, rest), self.settings, self.progress, processes)
        else:
            tokenise_here(chain(first, rest), self.settings, self.progress, threads)
        if finished:
            self.report(
                f"{finished:,} of the {len(self.kinds):,} parts of {name} were tokenised before, by a preparation "
                "that was interrupted"
            )

    def _index(self, number: int) -> PartIndex:
        found = read_index(self.folder, number, self.dtype)
        if found is None:
            raise OSError(f"part {number} in {self.folder} has disappeared: another program has changed the folder")
        return found

    def _write_split(self, entry: Path, split: str, kind: str, selected: np.ndarray | None) -> dict[str, Any]:
        """Copy the documents of a split to its files; return their sizes.

        The `<eos>` of a split with a single document is removed, because it may be a part of a longer document.

        Args:
            entry: folder of the files.
            split: name of the split.
            kind: kind of the parts that its documents come from.
            selected: boolean mask (D,) of the documents of these parts that belong to the split; None means all.
        """
        sizes = self.record.sizes.get(kind) or Sizes()
        keep = np.ones(len(sizes.keys), dtype=bool) if selected is None else selected
        lengths, unknown = np.zeros(len(keep) + 1, np.int64), np.zeros(len(keep) + 1, np.int64)
        document = 0  # the first one of the part
        with _SplitFiles(entry, split, self.dtype) as files:
            for number in (number for number, each in enumerate(self.kinds) if each == kind):
                index = self._index(number)
                own = slice(document, document + len(index.ends) + 1)
                in_part = np.diff(index.ends, prepend=0, append=index.tokens)
                lengths[own] += in_part
                unknown[own] += index.unknown
                files.add(self.folder / f"part-{number:05}.bin", np.repeat(np.append(keep, False)[own], in_part))
                document += len(index.ends)
            ends = np.cumsum(lengths[:-1][keep])
            if len(ends) == 1:
                ends = ends - 1
                files.remove_last()
        np.save(entry / f"{split}.ends.npy", ends)
        columns = {"characters": sizes.characters, "utf8_bytes": sizes.utf8_bytes, "unknown": unknown[:-1]}
        totals = {name: int(np.asarray(column, np.int64)[keep].sum()) for name, column in columns.items()}
        return {"dtype": self.dtype.str, "files": files.count, **totals}


class _SplitFiles:
    """The files of a split, `SPLIT-00000.bin` and so on, which are written one after the other."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype):
        self.folder, self.split, self.dtype = folder, split, dtype
        self.count, self.tokens = 0, 0  # number of files, and of tokens in the last one
        self.file: IO[bytes]

    def __enter__(self) -> _SplitFiles:
        self._open_next()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _open_next(self) -> None:
        self.file = self._path(self.count).open("wb")
        self.count, self.tokens = self.count + 1, 0

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.split}-{number:05}.bin"

    def _close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def add(self, path: Path, mask: np.ndarray) -> None:
        """Append the tokens of a file that a boolean mask (T,) selects."""
        if not mask.any():
            return
        if self.tokens >= FILE_TOKENS:
            self._close()
            self._open_next()
        tokens = np.fromfile(path, dtype=self.dtype)
        self.file.write((tokens if mask.all() else tokens[mask]).tobytes())
        self.tokens += int(np.count_nonzero(mask))

    def remove_last(self) -> None:
        """Remove the last token."""
        self.file.truncate((self.tokens - 1) * self.dtype.itemsize)
        if self.tokens == 1 and self.count > 1:
            self._close()
            self.count -= 1
            self._path(self.count).unlink()
            self.file = self._path(self.count - 1).open("ab")


@contextmanager
def exclusive_folder(folder: Path, report: Report) -> Iterator[Path]:
    """Yield the folder of the parts of a preparation, which no other process uses; a new temporary one if another
    process uses it.

    It is removed at the end, also if the text can't be used. It stays if the preparation is interrupted otherwise, so
    that the next one continues.
    """
    try:
        lock = cache_lock(folder.name).acquire(blocking=False)
    except Timeout:
        report("another process prepares the same text at this time: this one does not wait for it")
        with tempfile.TemporaryDirectory(
            prefix=f"{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
        ) as own:
            yield Path(own)
        return
    with lock:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException as error:
            if isinstance(error, ValueError) and not isinstance(error, ProcessDiedError):
                shutil.rmtree(folder, ignore_errors=True)
            raise
