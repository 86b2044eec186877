"""Save a tokenizer so that releases of transformers from 4.56 on load it."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..untrusted import read_json

SETTINGS = "tokenizer_config.json"
# How this machine loaded the tokenizer, which transformers saves with its settings.
LOADING_ARGUMENTS = ("is_local", "local_files_only", "name_or_path", "cache_dir")
# What a tokenizer returns: in transformers 4 otherwise also `token_type_ids`, which `generate` refuses.
INPUT_NAMES = ["input_ids", "attention_mask"]


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer to a folder.

    transformers 5 saves a fast tokenizer under the class name `TokenizersBackend`, which transformers 4 does not have;
    both have `PreTrainedTokenizerFast`.
    """
    tokenizer.save_pretrained(folder)
    settings = read_json(folder / SETTINGS)
    kept = {name: value for name, value in settings.items() if name not in LOADING_ARGUMENTS}
    if kept.get("tokenizer_class") == "TokenizersBackend":
        kept["tokenizer_class"] = "PreTrainedTokenizerFast"
        kept.setdefault("model_input_names", INPUT_NAMES)
    if isinstance(kept.get("extra_special_tokens"), list):  # a dictionary in transformers 4
        kept["additional_special_tokens"] = kept.pop("extra_special_tokens")
    (folder / SETTINGS).write_text(f"{json.dumps(kept, indent=2, ensure_ascii=False)}\n", encoding="utf-8")
