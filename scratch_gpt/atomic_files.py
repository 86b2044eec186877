"""Replace files atomically: write to a temporary file, then rename it.

A symbolic or hard link of that name is replaced; its target is not changed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file in the same folder, with the same suffix and an unpredictable name. It is
    renamed to `path` if the block succeeds, and removed otherwise."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    staged = Path(name)
    try:
        staged.chmod(0o666 & ~umask())  # mkstemp restricts access to the owner
        yield staged
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically with a UTF-8 text."""
    with replacing(path) as staged:
        staged.write_text(text, encoding="utf-8")


def umask() -> int:
    """Permission bits that this process removes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
