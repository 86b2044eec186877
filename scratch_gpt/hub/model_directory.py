"""The one model format: a directory that `from_pretrained` reads, with code, tokenizer and card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ModelDirectory:
    """Writes model directories for one run.

    Args:
        model: the model before anything is wrapped around it. Only its class and settings are kept, as a skeleton
            without memory: sharding changes the class of a live model, and with it what `save_pretrained` writes.
        tokenizer: saved beside the weights.
        title: what the model is called in its card and picture.
        card: renders `README.md` from the state of the run.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, title: str, card: Callable[[], str]):
        self.tokenizer, self.title, self.card = tokenizer, title, card
        with torch.device("meta"):
            self.skeleton = type(model)(model.config)
        self.skeleton.generation_config = model.generation_config

    def write(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """Write weights (safetensors), config, generation config, model code and tokenizer into `folder`."""
        self.skeleton.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)

    def write_card(self, folder: Path) -> None:
        (folder / "README.md").write_text(self.card(), encoding="utf-8")


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Generation settings for a model trained from scratch: sample, and stop at `<eos>` or half a context later."""
    config = model.generation_config
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.do_sample = True
    config.max_new_tokens = max(1, getattr(model.config, "max_position_embeddings", 256) // 2)
