"""Write files so that nothing is written through a link: into a new file, which then takes the name.

A symbolic or hard link of that name is replaced and what it led to stays as it was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a new file in the same folder, with the same suffix, that takes the name `path` if the block
    ends without an error, and is removed otherwise. Its name can't be guessed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    staged = Path(name)
    try:
        staged.chmod(0o666 & ~umask())  # mkstemp lets only its owner read
        yield staged
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by one with this text."""
    with replacing(path) as staged:
        staged.write_text(text, encoding="utf-8")


def umask() -> int:
    """Permissions that this process withholds from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
