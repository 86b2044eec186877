"""Output folders of commands: checked before the work, and in place only when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ScratchError


def check_empty(folder: Path) -> None:
    """Check that a folder does not exist or is empty, and that it can be created.

    Raises:
        ScratchError: it exists and is not an empty folder, or a file is in the place of a parent.
    """
    if files := [parent for parent in folder.parents if parent.is_file()]:
        raise ScratchError(f"{folder} can't be created, since {files[0]} is a file: choose another")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ScratchError(f"{folder} already exists and is not an empty folder: delete it first, or choose another")


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Context with an empty folder to write to, which replaces `folder` at the end. If the block fails, nothing is left
    of it, nor of the missing parents that were created for it.

    Args:
        folder: must not exist, or be empty.
    """
    folder = folder.resolve()
    with _parents_of(folder), tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as temporary:
        staging_dir = Path(temporary) / "complete"
        staging_dir.mkdir()
        yield staging_dir
        if folder.exists():
            folder.rmdir()
        os.replace(staging_dir, folder)


@contextmanager
def _parents_of(folder: Path) -> Iterator[None]:
    """Create the missing parents of a folder, and remove them if the block fails."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in missing:
            parent.rmdir()
        raise
