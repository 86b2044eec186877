"""Manifests: a list of the files of a directory with their sizes and checksums, which reveals any changed byte.

The manifest itself has a canonical form and contains its own checksum, so that changes of it are detected too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...untrusted import parse_json, read_text

MANIFEST, MAX_MANIFEST = "manifest.json", 16 << 20  # bytes


def write_manifest(folder: Path, checksums: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write the manifest of all files below `folder`.

    Args:
        folder: the directory.
        checksums: SHA-256 of files that processes have just written, by name; these are not read again.

    Raises:
        OSError: one of those files is not there.
    """
    found = _files(folder)
    if missing := sorted(checksums.keys() - found.keys()):
        raise OSError(
            f"{folder} lacks {', '.join(missing)}, which another process has written: all machines must see the same "
            "output_dir"
        )
    files = {
        name: {"size": path.stat().st_size, "sha256": checksums.get(name) or _sha256(path)}
        for name, path in found.items()
    }
    (folder / MANIFEST).write_bytes(_render(files))


def find_corruption(folder: Path, sizes_only: bool = False) -> str | None:
    """Compare a directory with its manifest.

    Args:
        folder: the directory.
        sizes_only: compare names and sizes only, without reading the files.

    Returns:
        A short description of the first difference, or None if every byte is as it was written.
    """
    path = folder / MANIFEST
    try:
        text = read_text(path, MAX_MANIFEST)
        listed: dict[str, dict[str, Any]] = parse_json(text, MANIFEST)["files"]
        if _render(listed) != text.encode():
            return f"{MANIFEST} was changed"
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in listed.items()}
    except FileNotFoundError:
        return f"has no {MANIFEST}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{MANIFEST} can't be read"
    found = _files(folder)
    if missing := sorted(expected.keys() - found.keys()):
        return f"{', '.join(missing)} missing"
    if unlisted := sorted(found.keys() - expected.keys()):
        return f"{', '.join(unlisted)} not listed in {MANIFEST}"
    if irregular := sorted(name for name, file in found.items() if file.is_symlink() or not file.is_file()):
        return f"{', '.join(irregular)} is a link, or not a regular file"
    for name, (written, _) in expected.items():
        if (size := found[name].stat().st_size) != written:
            return f"{name} has {size:,} bytes, {written} were written"
    if sizes_only:
        return None
    changed = [name for name, (_, checksum) in expected.items() if _sha256(found[name]) != checksum]
    return f"the bytes of {', '.join(changed)} were changed" if changed else None


def sync(folder: Path) -> None:
    """Flush every file below `folder`, and the directories themselves, to disk (fsync)."""
    for path in (*folder.rglob("*"), folder):
        sync_one(path)


def sync_one(path: Path) -> None:
    """Flush one file, or the entries of one directory, to disk (fsync). Windows can't flush a directory, and flushes a
    file only if it is open for writing."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> dict[str, Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
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
