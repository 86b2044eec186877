"""The one model format: a directory that `from_pretrained` reads, with code, tokenizer and card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ModelDirectory:
    """Writes model directories for one run.

    Args:
        tokenizer: saved beside the weights.
        title: what the model is called in its card and picture.
        card: renders `README.md` from the state of the run, each time a directory is written.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, title: str, card: Callable[[], str]):
        self.tokenizer, self.title, self.card = tokenizer, title, card

    def write(self, folder: Path, model: PreTrainedModel, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write weights (safetensors), config, generation config, model code, tokenizer and card into `folder`.

        Args:
            model: the model, not wrapped by anything.
            weights: its full weights, where `model` itself holds a shard of them only.
        """
        model.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(self.card())


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Generation settings for a model trained from scratch: sample, and stop at `<eos>` or half a context later."""
    config = model.generation_config
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.do_sample = True
    config.max_new_tokens = max(1, getattr(model.config, "max_position_embeddings", 256) // 2)
