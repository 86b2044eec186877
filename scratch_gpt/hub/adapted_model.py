"""Load the model of an adapter: its base, and the adapter on it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer

from ..errors import ScratchError, not_installed
from ..untrusted import read_json
from .adapter import CONFIG, WEIGHTS
from .loading import load_model


def load_adapted(folder: Path, trust_remote_code: bool = False) -> Any:
    """Load the base model that an adapter names, in float32, and the adapter on it.

    Args:
        folder: folder of the adapter, with its tokenizer.
        trust_remote_code: whether to run code from the base model's checkpoint.

    Returns:
        The `PeftModel`.

    Raises:
        ScratchError: PEFT is not installed, or the base model or the adapter can't be loaded.
    """
    if find_spec("peft") is None:
        raise ScratchError(f"an adapter needs PEFT: {not_installed('peft')}")
    from peft import PeftModel

    config = read_json(folder / CONFIG)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not (folder / WEIGHTS).is_file():
        raise ScratchError(f"{folder} is not an adapter: want the name of its base model in {CONFIG}, and {WEIGHTS}")
    model: Any = load_model(base, trust_remote_code)
    count = len(AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code))
    if count > model.get_input_embeddings().num_embeddings:  # the tokens of a chat template were added
        model.resize_token_embeddings(count, mean_resizing=False)
    try:
        return PeftModel.from_pretrained(model, str(folder)).eval()
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, SafetensorError) as error:
        raise ScratchError(f"the adapter {folder} can't be loaded on {base}: {error}") from error
