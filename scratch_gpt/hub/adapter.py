"""Low-rank adapters (LoRA) of a model: merging them into its weights, and saving them as PEFT reads them.

    W' = W + (alpha / rank) · B · A,    A: (rank, in),  B: (out, rank)

The names of the tensors are those of PEFT; the trained ones contain the name of the adapter, the saved ones do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .tensor_files import Tensors, like, whole

NAME, FOLDER = "default", "adapter"  # of the adapter, and of its folder in a model directory
A, B, BASE = f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight", ".base_layer.weight"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's files
ROWS, TABLE = f".token_adapter.trainable_tokens_delta.{NAME}", ".token_adapter.base_layer.weight"
PREFIX = "base_model.model."  # of PEFT's wrapper


def is_of_adapter(name: str) -> bool:
    """Whether a trained weight belongs to the adapter, by its name."""
    return name.endswith((A, B, ROWS))


@dataclass(frozen=True)
class Adapter:
    """Adapters of linear layers, and rows of the embeddings that are trained with them.

    Attributes:
        config: the `LoraConfig` of PEFT, with the name of the base model.
        tokens: ids of the trained rows of the embeddings.
        tied: names of the head's and the embedding's weights, if they are the same.
        only: whether the adapter is published without the merged model.
    """

    config: Any
    tokens: list[int]
    tied: tuple[str, str] | None
    only: bool = False

    def update(self, weights: Tensors, stem: str) -> torch.Tensor:
        """The update of the weight of the layer `stem`, in the layout of that weight: `Conv1D` stores (in, out). It is
        sharded as the weight is."""
        update = self.config.lora_alpha / self.config.r * (whole(weights[stem + B]) @ whole(weights[stem + A]))
        return like(update.T if self.config.fan_in_fan_out else update, weights[stem + BASE])

    def merged(self, weights: Tensors) -> Tensors:
        """The weights of the model with merged adapters, with the names of the model without adapters."""
        found = {}
        for name, weight in weights.items():
            if name.endswith(TABLE):
                rows, table = whole(weights[name.removesuffix(TABLE) + ROWS]), whole(weight).clone()
                table[torch.tensor(self.tokens, device=table.device)] = rows.to(table.dtype)
                weight = like(table, weight)
            elif name.endswith(BASE) and name.removesuffix(BASE) + B in weights:
                weight = weight + self.update(weights, name.removesuffix(BASE))
            if not is_of_adapter(name):
                found[name.replace(".token_adapter", "").replace(".base_layer", "")] = weight
        if self.tied is not None:
            found[self.tied[0]] = found[self.tied[1]]
        return found

    @torch.no_grad()
    def merge_in_place(self, model: torch.nn.Module) -> None:
        """Merge the adapters of a live model into its weights, and set them to zero; the logits stay the same."""
        weights: Tensors = dict(model.named_parameters())
        for name in weights:
            stem = name.removesuffix(B)
            if stem != name:
                weights[stem + BASE].add_(self.update(weights, stem))
                weights[name].zero_()

    def select(self, weights: Tensors) -> Tensors:
        """Those of the trained weights that belong to the adapter."""
        found = {name: weight for name, weight in weights.items() if is_of_adapter(name)}
        if self.tied is not None:  # PEFT ties the rows of the head to those of the embedding
            found.pop(self.tied[0].removesuffix(".weight") + ROWS, None)
        return found

    def write(self, folder: Path, weights: Tensors) -> None:
        """Write the files of the adapter into a folder, which is created.

        Args:
            folder: destination.
            weights: the trained weights of the adapter.
        """
        folder.mkdir(parents=True, exist_ok=True)
        named = {PREFIX + re.sub(rf"\.{NAME}(?=\.weight$|$)", "", name): each for name, each in weights.items()}
        tensors = {name: weight.contiguous() for name, weight in named.items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        self.config.save_pretrained(folder)
