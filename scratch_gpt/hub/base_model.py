"""What is known of the checkpoint that a run starts from (`--init_from`), from its files."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from ..errors import ScratchError
from ..untrusted import parse_yaml, read_json, read_text
from .directory_checks import INDEX
from .loading import open_config
from .native.stored_weights import DTYPES

LICENSE_FIELDS = ("license", "license_name", "license_link")
OPTIONAL = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}


def stored_dtype(name: str | Path, trust_remote_code: bool = False) -> torch.dtype:
    """The data type that most of a checkpoint's weights are stored in, from the headers of its files.

    Args:
        name: folder or Hub id of a checkpoint in safetensors.
        trust_remote_code: whether to run code from the checkpoint, of its config.

    Raises:
        ScratchError: the config can't be opened.
    """
    files = [SAFE_WEIGHTS_NAME]
    if cached_file(name, SAFE_WEIGHTS_NAME, **OPTIONAL) is None and (index := cached_file(name, INDEX, **OPTIONAL)):
        files = sorted(set(read_json(Path(index))["weight_map"].values()))
    sizes: Counter[str] = Counter()
    for path in filter(None, (cached_file(name, file, **OPTIONAL) for file in files)):
        with safe_open(path, "pt") as weights:
            for each in weights.keys():  # noqa: SIM118  (not a dict)
                part = weights.get_slice(each)
                sizes[part.get_dtype()] += math.prod(part.get_shape())
    dtypes = (DTYPES[each] for each, _ in sizes.most_common() if each in DTYPES)
    found = next((dtype for dtype in dtypes if dtype.is_floating_point), None)
    return found or open_config(name, trust_remote_code).dtype or torch.float32


def base_model_facts(name: str, config: Any, relation: str) -> dict[str, Any]:
    """Facts about the checkpoint that a run starts from, for `run.yaml` and the model card. A path of this machine is
    not among them.

    Args:
        name: folder or Hub id of the checkpoint.
        config: config of the model, which can remember that its weights were imported.
        relation: "finetune", or "adapter" if only an adapter is published.

    Returns:
        "relation"; "ids", the checkpoint's Hub id, or the base models that its card names if this package wrote it;
        "imported", the class of transformers that the weights come from; and, if its card states them, "license",
        "license_name" and "license_link".
    """
    origin = getattr(config, "imported_from", None) or {}
    imported_id = origin.get("name_or_path")
    found = hub_id_of(name) or (hub_id_of(imported_id) if isinstance(imported_id, str) else None)
    card = _card_metadata(name)
    ids = [found] if found else []
    if not ids and "scratch_gpt" in _list_of(card.get("tags")):
        ids = [each for each in _list_of(card.get("base_model")) if isinstance(each, str) and is_repo_id(each)]
    facts = {"relation": relation, "ids": ids, "imported": origin.get("class")}
    if "license" not in card and imported_id and found:
        card = _card_metadata(found)
    facts |= {key: card.get(key) for key in LICENSE_FIELDS}
    link = facts["license_link"]
    if isinstance(link, str) and not link.startswith("https://"):  # a file of the base model's repository
        facts["license_link"] = f"https://huggingface.co/{ids[0]}/blob/main/{link}" if ids else None
    return {key: value for key, value in facts.items() if value is not None}


def hub_id_of(name: str) -> str | None:
    """The Hub id of a checkpoint: its name, unless that is a folder; of a folder in the Hub's cache, that of its
    repository."""
    path = Path(name)
    if path.is_dir():
        repository = path.resolve().parents[1].name if path.resolve().parent.name == "snapshots" else ""
        name = repository.removeprefix("models--").replace("--", "/") if repository.startswith("models--") else ""
    return name if is_repo_id(name) else None


def is_repo_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, such as ORG/NAME."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _card_metadata(name: str) -> dict[str, Any]:
    """The metadata of a checkpoint's model card; empty if there is no card, or it can't be read."""
    try:
        path = cached_file(name, "README.md", **OPTIONAL)
        block = re.match(r"---\r?\n(.*?)\r?\n---", "" if path is None else read_text(Path(path)), re.DOTALL)
        metadata = parse_yaml(block[1], "README.md") if block else {}
    except (ScratchError, OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
