"""What is known of the checkpoint that a run starts from (`--init_from`), from its files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from ..untrusted import read_json
from .directory_checks import INDEX
from .loading import open_config

WEIGHTS = "model.safetensors"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # of safetensors
OPTIONAL = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}


def stored_dtype(name: str | Path, trust_remote_code: bool = False) -> torch.dtype:
    """The data type that most of a checkpoint's weights are stored in, from the headers of its files.

    Args:
        name: folder or Hub id of a checkpoint in safetensors.
        trust_remote_code: whether to run code from the checkpoint, of its config.

    Raises:
        ScratchError: the config can't be opened.
    """
    files = [WEIGHTS]
    if cached_file(name, WEIGHTS, **OPTIONAL) is None and (index := cached_file(name, INDEX, **OPTIONAL)):
        files = sorted(set(read_json(Path(index))["weight_map"].values()))
    sizes: Counter[str] = Counter()
    for path in filter(None, (cached_file(name, file, **OPTIONAL) for file in files)):
        with safe_open(path, "pt") as weights:
            for each in weights.keys():  # noqa: SIM118  (not a dict)
                part = weights.get_slice(each)
                sizes[part.get_dtype()] += math.prod(part.get_shape())
    found = next((DTYPES[each] for each, _ in sizes.most_common() if each in DTYPES), None)
    return found or open_config(name, trust_remote_code).dtype or torch.float32
