"""The cache folder: prepared data, trained tokenizers, compiled code, and measurements of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock


def cache_directory() -> Path:
    """Return the cache folder: `$SCRATCH_GPT_CACHE`, by default `~/.cache/scratch_gpt`."""
    return Path(os.environ.get("SCRATCH_GPT_CACHE") or Path.home() / ".cache" / "scratch_gpt")


def make_cache(name: str) -> Path:
    """Create a folder in the cache, and the cache itself, if missing; only their owner can read and write them."""
    folder = cache_directory() / name
    cache_directory().parent.mkdir(parents=True, exist_ok=True)
    for place in (cache_directory(), folder):
        place.mkdir(mode=0o700, exist_ok=True)
    return folder


def cache_lock(name: str) -> FileLock:
    """A lock between the processes of a machine, which the system releases when its holder ends.

    Args:
        name: of the files in the cache that it protects.
    """
    return FileLock(make_cache("locks") / f"{name}.lock", mode=0o600)
