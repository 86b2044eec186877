"""A list of a folder's files with their sizes and checksums: a byte that changed, or is missing, is found.

The list is itself written in one possible way only and bears its own checksum, so that its bytes count too.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """List every file below `folder`."""
    files = {name: {"size": path.stat().st_size, "sha256": _sha256(path)} for name, path in _files(folder).items()}
    (folder / MANIFEST).write_bytes(_render(files))


def damage(folder: Path, sizes_only: bool = False) -> str | None:
    """What is wrong with a folder that has such a list, in a few words; None where every byte is as it was written.

    Args:
        sizes_only: compare the names and sizes of the files, and read none of them.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return f"has no {MANIFEST}"
    try:
        text = path.read_bytes()
        listed: dict[str, dict[str, Any]] = json.loads(text)["files"]
        if _render(listed) != text:
            return f"{MANIFEST} was changed"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} can't be read"
    found = _files(folder)
    if missing := sorted(listed.keys() - found.keys()):
        return f"{', '.join(missing)} missing"
    if strange := sorted(found.keys() - listed.keys()):
        return f"{', '.join(strange)} not listed in {MANIFEST}"
    for name, entry in listed.items():
        size = found[name].stat().st_size
        if size != entry["size"]:
            return f"{name} has {size:,} bytes, {entry['size']:,} were written"
    if sizes_only:
        return None
    changed = [name for name, entry in listed.items() if _sha256(found[name]) != entry["sha256"]]
    return f"the bytes of {', '.join(changed)} were changed" if changed else None


def sync(folder: Path) -> None:
    """Have the disk hold every file below `folder`, and the folders themselves."""
    for path in (*folder.rglob("*"), folder):
        sync_one(path)


def sync_one(path: Path) -> None:
    """Have the disk hold one file, or what stands in one folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> dict[str, Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in found if path != folder / MANIFEST}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _render(files: dict[str, dict[str, Any]]) -> bytes:
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return (json.dumps({"files": files, "sha256": own}, indent=1, sort_keys=True) + "\n").encode()
