"""Weights of a checkpoint as they are stored: each is mapped into memory on its own, and takes up memory from its first
use until the last tensor that shares it is deleted.

The loader of transformers maps whole files instead, so that a file that has been read stays in memory until all of its
weights are deleted: a converted copy of them would double the memory.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from ...errors import ScratchError
from ..tensor_files import CODES, write_index

DTYPES = {code: dtype for dtype, code in CODES.items()}
MIN_SHARD = 256 << 20  # bytes


@dataclass(frozen=True)
class StoredWeight:
    """A weight in a safetensors file. transformers loads it as it loads the slices of such a file: `weight[...]`.

    Attributes:
        path: the file.
        begin: its first byte there.
        shape: its shape.
        dtype: its data type.
    """

    path: Path
    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> torch.Tensor:
        if not self.num_bytes:
            return torch.empty(self.shape, dtype=self.dtype)[index]
        # "c": a tensor that is modified does not change the file.
        stored = np.memmap(self.path, dtype=np.uint8, mode="c", offset=self.begin, shape=(self.num_bytes,))
        raw = torch.from_numpy(stored)
        if self.begin % self.dtype.itemsize:
            raw = raw.clone()  # in this file, it is not aligned
        return raw.view(self.dtype).reshape(self.shape)[index]


def stored_weights(name: str | Path) -> dict[str, StoredWeight]:
    """The weights of a checkpoint, which are downloaded if it is on the Hub.

    Args:
        name: folder or Hub id.

    Raises:
        ScratchError: it has no safetensors, or one of its files is corrupt.
    """
    found: dict[str, StoredWeight] = {}
    for path in _weight_files(name):
        try:
            with safe_open(path, "pt") as file:  # checks the header
                names = set(file.keys())
        except (SafetensorError, OSError) as error:
            raise ScratchError(f"{path.name} is corrupt or truncated: {error}") from error
        with path.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(length))
        for weight in names:
            kind, shape, (begin, _) = (header[weight][key] for key in ("dtype", "shape", "data_offsets"))
            if kind not in DTYPES:
                raise ScratchError(f"{path.name} holds numbers of type {kind}, want floating point")
            found[weight] = StoredWeight(path, 8 + length + begin, tuple(shape), DTYPES[kind])
    return found


def _weight_files(name: str | Path) -> list[Path]:
    optional: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    if single := cached_file(name, SAFE_WEIGHTS_NAME, **optional):
        return [Path(single)]
    if index := cached_file(name, SAFE_WEIGHTS_INDEX_NAME, **optional):
        return [Path(part) for part in get_checkpoint_shard_files(str(name), index)[0]]
    raise ScratchError(
        f"{name} has no {SAFE_WEIGHTS_NAME}, and no {SAFE_WEIGHTS_INDEX_NAME}: only safetensors are loaded"
    )


class ShardWriter:
    """Writes weights to a folder in shards of limited size, each as soon as it is full; `finish` renames the shards.

    Args:
        folder: the folder.
        total: expected size of all weights in bytes. A file has at most a sixteenth of them, or `MIN_SHARD`.
    """

    def __init__(self, folder: Path, total: int):
        self.folder, self.limit = folder, max(MIN_SHARD, total // 16)
        self.waiting: dict[str, torch.Tensor] = {}
        self.shards: list[list[str]] = []  # names of the weights in each file
        self.waiting_bytes = self.total_bytes = 0

    def add(self, name: str, weight: torch.Tensor) -> None:
        """Add a weight; it is written with the next ones."""
        if self.waiting and self.waiting_bytes + weight.nbytes > self.limit:
            self._write()
        self.waiting[name] = weight
        self.waiting_bytes += weight.nbytes
        self.total_bytes += weight.nbytes

    def finish(self) -> None:
        """Write the remaining weights, and the index if there are several files."""
        self._write()
        count = len(self.shards)
        names = [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
        names = names if count > 1 else [SAFE_WEIGHTS_NAME]
        for number, name in enumerate(names):
            self._part(number).rename(self.folder / name)
        if count > 1:
            placed = {weight: name for name, shard in zip(names, self.shards, strict=True) for weight in shard}
            write_index(self.folder / SAFE_WEIGHTS_INDEX_NAME, self.total_bytes, placed)

    def _write(self) -> None:
        save_file(self.waiting, self._part(len(self.shards)), metadata={"format": "pt"})
        self.shards.append(list(self.waiting))
        self.waiting.clear()
        self.waiting_bytes = 0

    def _part(self, number: int) -> Path:
        return self.folder / f"{number}.part"
