"""Open compressed files, and refuse those that expand without end."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..errors import ScratchError

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = (*OPENERS, ".zst")
MOST_EXPANSION = 200  # times its size that a compressed file may expand to; logs of a server reach about 50
FREE_EXPANSION = 16 << 20  # bytes that every file may expand to
BUFFER = 1 << 16


def open_decompressed(path: Path) -> IO[bytes]:
    """Open a compressed file for reading its decompressed bytes.

    Reading raises ScratchError once there are more of them than `MOST_EXPANSION` times the size of the file and than
    `FREE_EXPANSION`, and one of `errors_of_compression` where the file is corrupt.

    Raises:
        ScratchError: there is no module that reads Zstandard.
        OSError: the file can't be opened.
    """
    stream = opener_of(path)(path, "rb")
    return io.BufferedReader(_Limited(stream, path), BUFFER)


def opener_of(path: Path) -> Callable[..., Any]:
    """Return the function that opens a compressed file, from its suffix.

    Raises:
        ScratchError: there is no module that reads Zstandard.
    """
    suffix = path.suffix.lower()
    if suffix in OPENERS:
        return OPENERS[suffix]
    if (module := zstandard()) is None:
        raise ScratchError(f"{path} is compressed with Zstandard: pip install zstandard, or unpack it first")
    return module.open


def zstandard() -> Any:
    """Return a module that reads Zstandard: `compression.zstd` (Python 3.14 or later) or `zstandard`; else None."""
    for name in ("compression.zstd", "zstandard"):
        try:
            if importlib.util.find_spec(name):
                return importlib.import_module(name)
        except ModuleNotFoundError:  # the parent package does not exist
            continue
    return None


def errors_of_compression(path: Path) -> tuple[type[Exception], ...]:
    """Return the types of the errors that reading a corrupt file raises."""
    found: tuple[type[Exception], ...] = (OSError, EOFError, lzma.LZMAError, zlib.error)
    return (*found, zstandard().ZstdError) if path.suffix.lower() == ".zst" and zstandard() else found


class _Limited(io.RawIOBase):
    """The decompressed bytes of a file, as many as it may have."""

    def __init__(self, stream: Any, path: Path):
        self.stream, self.path, self.count = stream, path, 0
        self.limit = max(MOST_EXPANSION * path.stat().st_size, FREE_EXPANSION)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self.stream.readinto(buffer)
        self.count += read
        if self.count > self.limit:
            raise ScratchError(
                f"{self.path} expands to more than {self.limit:,} bytes, {self.limit // self.path.stat().st_size:,} "
                "times its size: if its content is meant to be read, unpack it first"
            )
        return read

    def close(self) -> None:
        self.stream.close()
        super().close()
