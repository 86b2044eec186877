"""Checks of a model directory before it is opened: its files, its links, and the sizes that its configs specify.

Nothing here loads weights or runs code from the directory. A directory that passes can still contain an invalid model,
but no small file in it can exhaust the machine's memory or block a reader.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch.nn.modules import module as torch_module
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from ..errors import ScratchError
from ..untrusted import MAX_BYTES, check_regular, leads_into, read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WEIGHTS, INDEX = "model*.safetensors", "model.safetensors.index.json"
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
MAX_FILES = 100_000  # in a directory, at any depth
# Files that transformers reads into memory, and the maximum size of each; tokenizers of 260,000 tokens have 35 MB.
CONFIGS = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", INDEX),
    *("added_tokens.json", "processor_config.json", "preprocessor_config.json", "chat_template.json"),
)
MAX_SIZES = dict.fromkeys(CONFIGS, MAX_BYTES) | {"*.jinja": 1 << 18, "*.py": 1 << 20}
MAX_SIZES |= dict.fromkeys(("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "*.model"), 64 << 20)
# Buffers that transformers stored with older models, as integers or booleans, and no longer reads: ids of positions and
# token types, and causal masks of GPT-2, GPT-Neo, GPT-NeoX and GPT-J.
BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids|(attn|attention)\.(masked_)?bias)$")
MAX_HEADER = 16 << 20  # bytes of the header of a safetensors file

# Integers of a config. One that counts parts of a model creates that many objects before the first weight.
COUNT_SUFFIXES = (
    "layers",
    "experts",
    "heads",
    "groups",
    "labels",
    "layer",
    "depth",
    "stages",
    "blocks",
    "beams",
    "sequences",
)
MAX_COUNT, MAX_INTEGER = 100_000, 2**40
BOOLEAN_FIELDS = {"output_attentions", "output_hidden_states", "return_dict", "use_cache", "is_encoder_decoder"}
MAX_SEQUENCES = 1024  # of `generate`: beams, returned sequences, tokens of an n-gram
# What a model may have in addition to its stored weights and to copies of the largest: a new head, position tables.
EXTRA_PARAMETERS, EXTRA_TENSORS = 1 << 24, 1000


def check_files(folder: Path) -> None:
    """Check the files of a local folder; any other path passes, since it may be the id of a Hub model.

    Raises:
        ScratchError: a file is a named pipe, a socket or a device; a link leads out of the folder (except in the Hub's
            cache, to its blobs); a file that is read into memory is too large, or its JSON nested too deep; weights
            are pickles, truncated, or not floating-point; or the folder holds an adapter of another model.
    """
    if not folder.is_dir():
        return
    resolved = folder.resolve()
    allowed = [resolved, resolved.parents[1] / "blobs"] if resolved.parent.name == "snapshots" else [resolved]
    for path in _walk(folder):
        if path.is_symlink() and not leads_into(path, allowed):
            raise ScratchError(f"{path.relative_to(folder)} is a link to {os.readlink(path)}, outside of the folder")
        if path.exists() and not path.is_dir():
            check_regular(path)
    found = {path.name for path in folder.iterdir() if path.is_file()}
    if adapters := sorted(found & set(ADAPTERS)):
        raise ScratchError(f"{adapters[0]} is of an adapter: merge it into its model first (peft: merge_and_unload)")
    for path, limit in _read_whole(folder):
        _check_size_of(path, limit)
    weights = sorted(folder.glob(WEIGHTS))
    pickles = sorted(name for name in found if PurePath(name).suffix in PICKLES)
    if pickles and not weights:
        raise ScratchError(
            f"{pickles[0]} is a pickle, which runs code when it is opened: only safetensors are loaded; have its "
            "author save it with save_pretrained"
        )
    if INDEX in found:
        _check_index(folder / INDEX)
    for path in weights:
        _check_weights(path)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield every file, link and folder below a folder, without following links."""
    count = 0
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            count += 1
            if count > MAX_FILES:
                raise ScratchError(f"{folder} has more than {MAX_FILES:,} files: want a model directory")
            yield Path(base, name)


def _read_whole(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files of a model directory that are read into memory, also of tokenizers in subfolders, and the maximum
    size of each."""
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir() and path.name.endswith("tokenizer"))):
        for pattern, limit in MAX_SIZES.items():
            yield from ((path, limit) for path in sorted(place.glob(pattern)) if path.is_file())


def _check_size_of(path: Path, limit: int) -> None:
    if (size := check_regular(path)) > limit:
        raise ScratchError(f"{path.name} has {size:,} bytes, want at most {limit:,}")
    if path.name in CONFIGS:
        content = read_json(path)
        if path.name == "config.json":
            check_values(content, path.name)
        elif path.name == "generation_config.json":
            check_values(content, path.name, MAX_SEQUENCES, (*COUNT_SUFFIXES, "size"))


def check_values(content: Any, name: str, most: int = MAX_COUNT, counted: Sequence[str] = COUNT_SUFFIXES) -> None:
    """Check the values of a config before the config object is built.

    A count, such as that of layers or labels, would become a list of that length, and a non-boolean value of a boolean
    field would fail in the middle of a training step.

    Args:
        content: the config, parsed from JSON.
        name: name of its file, for errors.
        most: maximum of a count.
        counted: last words of the names of counts.

    Raises:
        ScratchError: the content is not an object, a number is larger than in any model, or a boolean field has another
            value.
    """
    if not isinstance(content, dict):
        raise ScratchError(f"{name} holds {type(content).__name__}, want an object")
    left: list[tuple[str, Any]] = list(content.items())
    while left:
        key, value = left.pop()
        if key == "_auto_class" and not isinstance(value, str | None):  # it becomes a key of the saved auto_map
            raise ScratchError(f"{name} says that {key} is {value!s:.60}, want the name of a class")
        if key in BOOLEAN_FIELDS and not isinstance(value, bool | None):
            raise ScratchError(f"{name} says that {key} is {value!s:.60}, want true or false")
        if key == "return_dict" and value is False:
            raise ScratchError(f"{name} says that return_dict is False, want true: outputs are read by name here")
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, part) for part in value if isinstance(part, dict | list | int)]
        elif isinstance(value, int):
            limit = most if key.lower().rsplit("_", 1)[-1] in counted else MAX_INTEGER
            if abs(value) > limit:
                shown = f"{value:.6g}" if abs(value) < 10**300 else f"a number of {value.bit_length():,} bits"
                raise ScratchError(f"{name} says that {key} is {shown}, want at most {limit:,}")


def _check_index(path: Path) -> None:
    content = read_json(path)
    parts = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise ScratchError(f"{INDEX} can't be used, want a weight_map with the file of each weight")
    for part in sorted(set(parts.values())):
        if PurePath(part).name != part:
            raise ScratchError(f"{INDEX} names {part!r}, want the name of a file in the same folder")


def _check_weights(path: Path) -> None:
    size = check_regular(path)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER and header < size:
        raise ScratchError(f"{path.name} has a header of {header:,} bytes, want at most {MAX_HEADER:,}")
    try:
        types = {tensor.get_dtype() for name, tensor in _tensors_of(path) if not BUFFERS.search(name)}
    except (SafetensorError, OSError) as error:
        raise ScratchError(f"{path.name} is corrupt or truncated: {error}") from error
    if strange := sorted(kind for kind in types if not kind.startswith(("F", "BF"))):
        raise ScratchError(f"{path.name} holds numbers of type {', '.join(strange)}, want floating point")


def _tensors_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name, and data type and shape, of each tensor in a safetensors file, from its header alone."""
    with safe_open(path, "pt") as weights:
        yield from ((name, weights.get_slice(name)) for name in weights.keys())  # noqa: SIM118  (not a dict)


class StoredSize(NamedTuple):
    """Size of the safetensors in a folder.

    Attributes:
        tensors: number of tensors.
        values: total number of their elements.
        largest: number of elements of the largest one.
    """

    tensors: int
    values: int
    largest: int = 0


def stored_size(folder: Path) -> StoredSize | None:
    """Return the size of the safetensors in a local folder, from their headers alone; None if there are none."""
    paths = sorted(folder.glob(WEIGHTS)) if folder.is_dir() else []
    sizes = [math.prod(tensor.get_shape()) for path in paths for _, tensor in _tensors_of(path)]
    return StoredSize(len(sizes), sum(sizes), max(sizes, default=0)) if paths else None


def check_size(auto_class: Any, config: PreTrainedConfig, folder: Path, trust_remote_code: bool) -> None:
    """Check the size of the model that a config specifies before memory is allocated.

    The model is built on PyTorch's meta device, and construction stops as soon as it has more parameters than the
    stored weights or the machine can hold.

    Args:
        auto_class: the `AutoModelFor…` that will open the model.
        config: the model's config.
        folder: folder of the weights, if it is local.
        trust_remote_code: whether to run code from the checkpoint.

    Raises:
        ScratchError: the config specifies too many parameters or tensors.
    """
    memory = psutil.virtual_memory().total
    largest = StoredSize(MAX_COUNT, memory // 4)  # float32
    why = f"this machine has {memory / 2**30:,.0f} GiB of memory"
    stored = stored_size(folder)
    # An embedding is stored once, and registered in up to four places: two vocabularies, what they share, and the head.
    if stored is not None and (most := stored.values + 3 * stored.largest + EXTRA_PARAMETERS) < largest.values:
        largest = StoredSize(2 * stored.tensors + EXTRA_TENSORS, most)
        why = f"its weights have {stored.values:,} in {stored.tensors:,} tensors"
    with torch.device("meta"), no_init_weights(), _at_most(largest, why):
        auto_class.from_config(config, trust_remote_code=trust_remote_code)


@contextmanager
def _at_most(largest: StoredSize, why: str) -> Iterator[None]:
    """Limit the parameters and buffers of all modules that are built in the block to `largest`."""
    values, tensors = 0, 0

    def count(module: torch.nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal values, tensors
        if tensor is not None:
            values, tensors = values + tensor.numel(), tensors + 1
        if values > largest.values or tensors > largest.tensors:
            raise ScratchError(f"its config asks for {values:,} parameters or more, in {tensors:,} tensors; {why}")

    handles = [
        torch_module.register_module_parameter_registration_hook(count),
        torch_module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
