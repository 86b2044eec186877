"""Open compressed files, with a limit on their decompressed size."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ...errors import ScratchError


def _open_zstandard(path: Path, mode: str) -> Any:
    import pyarrow  # slow to import; the package zstandard would accept a truncated file

    return pyarrow.input_stream(str(path), compression="zstd")


OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstandard}
SUFFIXES = tuple(OPENERS)
ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)  # raised when a corrupt file is read
MAX_EXPANSION = 200  # decompressed size over file size; server logs reach about 50
FREE_EXPANSION = 16 << 20  # bytes that any file may expand to
BUFFER = 1 << 16


def open_decompressed(path: Path) -> IO[bytes]:
    """Open a compressed file for reading its decompressed bytes.

    Reading raises ScratchError if there are more of them than both `MAX_EXPANSION` times the file size and
    `FREE_EXPANSION`, and one of `ERRORS` if the file is corrupt or truncated.

    Raises:
        OSError: the file can't be opened.
    """
    stream = OPENERS[path.suffix.lower()](path, "rb")
    return io.BufferedReader(_Limited(stream, path), BUFFER)


class _Limited(io.RawIOBase):
    """The decompressed bytes of a file, up to a limit."""

    def __init__(self, stream: Any, path: Path):
        self.stream, self.path, self.count = stream, path, 0
        self.limit = max(MAX_EXPANSION * path.stat().st_size, FREE_EXPANSION)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self.stream.readinto(buffer)
        self.count += read
        if self.count > self.limit:
            raise ScratchError(
                f"{self.path} expands to more than {self.limit:,} bytes, {self.limit // self.path.stat().st_size:,} "
                "times its size: if this is intended, decompress it first"
            )
        return read

    def close(self) -> None:
        self.stream.close()
        super().close()
