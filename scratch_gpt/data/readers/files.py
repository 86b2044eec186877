"""Determine the kind of data files from their suffix, and read text files, plain or compressed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO

from ...errors import ScratchError
from ...untrusted import check_regular
from .compressed import ERRORS, SUFFIXES, open_decompressed

KINDS = {".txt": "text", ".text": "text", ".md": "text", ".csv": "csv", ".tsv": "csv", ".tab": "csv"}
KINDS |= {".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet", ".arrow": "arrow"}
TABLE_SUFFIXES = ".jsonl, .json, .csv, .tsv, .parquet or .arrow"
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
UNSUPPORTED = {".xlsx": "a spreadsheet", ".xls": "a spreadsheet", ".ods": "a spreadsheet", ".pdf": "a PDF"}
UNSUPPORTED |= {".docx": "a word processor's file", ".doc": "a word processor's file", ".db": "a database"}
UNSUPPORTED |= dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".safetensors", ".bin"), "binary data")


def kind_of(path: PurePath) -> str | None:
    """Return the kind of a file from its suffix, ignoring case and compression.

    None if the suffix is unknown, or if the file is a compressed Parquet or Arrow file, which is not supported."""
    kind = KINDS.get(plain_suffix(path))
    return None if kind in ("parquet", "arrow") and path.suffix.lower() in SUFFIXES else kind


def plain_suffix(path: PurePath) -> str:
    """Return the lower-case suffix, ignoring a compression suffix: ".csv" for `a.CSV.gz`."""
    suffix = path.suffix.lower()
    return PurePath(path.stem).suffix.lower() if suffix in SUFFIXES else suffix


def why_unsupported(path: Path) -> str | None:
    """Return the reason why a file in a folder is not supported; None if it is."""
    if kind_of(path) is not None:
        return None
    if plain_suffix(path) in KINDS:
        return f"a compressed {KINDS[plain_suffix(path)]} file: unpack it first"
    return UNSUPPORTED.get(path.suffix.lower(), f"unknown format ({path.suffix or 'no suffix'})")


def kind_of_named_file(path: Path, tables_only: bool) -> str:
    """Return the kind of a file given by path; an unknown suffix is read as text.

    Raises:
        ScratchError: the file is empty, or in a format that can't be read.
    """
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise ScratchError(f"{path} is empty: want a file with text")
    if suffix in ARCHIVES or path.name.lower().endswith(".tar.gz"):
        raise ScratchError(f"{path} is a {suffix[1:]} archive: unpack it, and give the folder")
    if suffix in UNSUPPORTED:
        raise ScratchError(f"{path} is {UNSUPPORTED[suffix]}: save its text as .txt, or its table as {TABLE_SUFFIXES}")
    kind = kind_of(path) or "text"
    if kind_of(path) is None and plain_suffix(path) in KINDS:
        raise ScratchError(f"{path} is a compressed {KINDS[plain_suffix(path)]} file: unpack it first")
    if tables_only and kind == "text":
        raise ScratchError(f"{path} is plain text, want a table: a {TABLE_SUFFIXES} file")
    return kind


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a UTF-8 text file, plain or compressed (.gz, .bz2, .xz, .zst), for reading.

    Args:
        path: the file.
        newline: newline handling, as for the built-in `open`.

    Raises:
        ScratchError: the file is not a regular file; or, while it is read, it is not UTF-8, is corrupt, or exceeds the
            limit of `open_decompressed`.
    """
    try:
        check_regular(path)
        compressed = path.suffix.lower() in SUFFIXES
        with (
            open_decompressed(path) if compressed else path.open("rb") as data,
            io.TextIOWrapper(data, encoding="utf-8-sig", newline=newline) as file,
        ):
            yield file
    except UnicodeDecodeError as error:
        raise ScratchError(
            f"{path} is not UTF-8 text: {error.reason} (byte {error.object[error.start]:#x}); convert it first, for "
            "example with iconv"
        ) from error
    except ERRORS as error:
        raise ScratchError(f"{path} can't be read: {error}") from error


def read_lines(path: Path) -> Iterator[str]:
    """Iterate over the lines of a text file, without line endings. Lines end with LF or CRLF only.

    Raises:
        ScratchError: see `open_text`.
    """
    with open_text(path, newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n")
