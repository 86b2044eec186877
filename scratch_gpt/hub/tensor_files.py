"""Tensors in safetensors files, written and read one at a time.

With sharded weights (FSDP2), every process writes a part of the tensors into a file of its own, without gathering the
others: `model-00001-of-00004.safetensors` and so on, with the index that `from_pretrained` reads. Each tensor is made
whole by all processes together, kept by the one that writes it, and freed before the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.distributed.tensor import DTensor, distribute_tensor

Tensors = dict[str, torch.Tensor]
Convert = Callable[[str, torch.Tensor], torch.Tensor]
Kind = tuple[torch.dtype, torch.Size]

SUFFIX = ".safetensors"
CODES = {  # of safetensors (https://huggingface.co/docs/safetensors)
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Writers:
    """The processes that write tensors together, each into a file of its own.

    Attributes:
        process: index of this process; it writes a file if it is less than `count`.
        count: number of processes that write.
    """

    process: int = 0
    count: int = 1


ALONE = Writers()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with all of its rows, if they are sharded over processes, all of which must then call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device of another one, and sharded as that one is, if it is."""
    tensor = tensor.to(target.device)
    if not isinstance(target, DTensor):
        return tensor
    return distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)


def first_of_tied(tensors: Tensors) -> Tensors:
    """Keep tied weights under the first of their names only, since a file has each tensor once."""
    first: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


@torch.no_grad()
def write_tensors(
    folder: Path,
    stem: str,
    tensors: Tensors,
    dtypes: Callable[[str, torch.Tensor], torch.dtype] = lambda name, tensor: tensor.dtype,
    convert: Convert = lambda name, tensor: tensor,
    writers: Writers = ALONE,
) -> dict[str, str]:
    """Write tensors into `STEM.safetensors` or, with several writers, `STEM-00001-of-0000N.safetensors` and an index.

    If a tensor is sharded, every process must call this, with the same names in the same order. A process whose file
    can't be written takes part to the end, since the others need its rows, and raises then.

    Args:
        folder: destination.
        stem: beginning of the file names.
        tensors: by name; tied ones must have one name.
        dtypes: data type of a tensor in the file.
        convert: a whole tensor in that data type.
        writers: the processes that write.

    Returns:
        SHA-256 of the files that this process has written, by name.

    Raises:
        OSError: a file can't be written.
    """
    # The largest first, which divides them evenly, and is aligned in the file.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), -tensors[name].numel(), name))
    count = max(1, min(writers.count, len(names)))
    files = [f"{stem}-{i + 1:05d}-of-{count:05d}{SUFFIX}" for i in range(count)] if count > 1 else [f"{stem}{SUFFIX}"]
    kinds = {name: (dtypes(name, tensors[name]), tensors[name].shape) for name in names}
    if count > 1:
        dist.barrier()  # the first process may still be preparing the folder
    error: Exception | None = None
    file = None
    try:
        if writers.process < count:
            own = {name: kinds[name] for name in names[writers.process :: count]}
            file = _TensorFile(folder / files[writers.process], own)
    except OSError as raised:
        error = raised
    for start in range(0, len(names), count):
        mine = None
        for writer, name in enumerate(names[start : start + count]):
            made = whole(tensors[name])
            if writer == writers.process:
                mine = name, made
        if file is not None and mine is not None and error is None:
            try:
                file.write(convert(*mine))
            except Exception as raised:  # raised below, once no other process waits for this one
                error = raised
    written = {}
    if file is not None:
        with file:
            if error is None:
                written[file.path.name] = file.finish()
    if error is not None:
        raise error
    if count > 1 and writers.process == 0:
        places = {name: files[i % count] for i, name in enumerate(names)}
        total = sum(dtype.itemsize * shape.numel() for dtype, shape in kinds.values())
        written |= write_index(folder / f"{stem}{SUFFIX}.index.json", total, places)
    return written


def write_index(path: Path, total: int, places: dict[str, str]) -> dict[str, str]:
    """Write the index of several files, which says where each tensor is.

    Args:
        path: the index.
        total: size of all tensors in bytes.
        places: the file of each tensor, by name.

    Returns:
        Its SHA-256, by name.
    """
    index = {"metadata": {"total_size": total}, "weight_map": places}
    text = (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
    path.write_bytes(text)
    return {path.name: hashlib.sha256(text).hexdigest()}


class _TensorFile:
    """A safetensors file whose tensors are written in a given order.

    Args:
        path: the file.
        kinds: data type and shape of each tensor, by name.
    """

    def __init__(self, path: Path, kinds: dict[str, Kind]):
        self.path = path
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, (dtype, shape) in kinds.items():
            begin, end = end, end + dtype.itemsize * shape.numel()
            header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that the tensors are aligned
        self.digest = hashlib.sha256()
        self.file = path.open("wb")
        self._append(len(text).to_bytes(8, "little") + text)

    def write(self, tensor: torch.Tensor) -> None:
        """Append the next tensor, which must be of the announced data type and shape."""
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self._append(flat.view(torch.uint8).numpy().data if flat.numel() else b"")

    def finish(self) -> str:
        """Flush the file to disk; return its SHA-256."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.digest.hexdigest()

    def _append(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.digest.update(data)

    def __enter__(self) -> _TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


class TensorFiles:
    """The tensors of the files that `write_tensors` has written, by any number of processes; each is read when it is
    asked for. A context manager.

    Args:
        folder, stem: as of `write_tensors`.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, folder: Path, stem: str):
        self.stack = ExitStack()
        paths = [path for path in (folder / f"{stem}{SUFFIX}",) if path.is_file()]
        paths = paths or sorted(folder.glob(f"{stem}-*-of-*{SUFFIX}"))
        if not paths:
            raise FileNotFoundError(f"{folder} has no {stem}{SUFFIX}")
        opened = [self.stack.enter_context(safe_open(path, "pt")) for path in paths]
        self.places = {name: file for file in opened for name in file.keys()}  # noqa: SIM118  (not a dict)

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self.places[name].get_tensor(name)
        return tensor

    def starting_with(self, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors whose names start with a prefix, each with the rest of its name."""
        for name in self:
            if name.startswith(prefix):
                yield name.removeprefix(prefix), self[name]


def load_tensors(folder: Path, stem: str) -> Tensors:
    """All tensors that `write_tensors` has written, in memory, by name."""
    with TensorFiles(folder, stem) as tensors:
        return {name: tensors[name] for name in tensors}
