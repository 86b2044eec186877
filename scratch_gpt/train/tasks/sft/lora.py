"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv:2106.09685) by PEFT: the weights are frozen, and a low-rank update
of some of them is trained.

    W' = W + (alpha / rank) · B · A,    A: (rank, in),  B: (out, rank), initialised to 0

The published model has the update merged into its weights.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....errors import ScratchError
from ....hub.model_directory import ToPublished
from ....tokenization.chat import CHAT_TOKENS

ADAPTER = "default"
A, B, BASE = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight", ".base_layer.weight"
ROWS, TABLE = f".token_adapter.trainable_tokens_delta.{ADAPTER}", ".token_adapter.base_layer.weight"


def add_lora(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rank: int, alpha: float, targets: list[str]
) -> ToPublished:
    """Freeze a model and add adapters to its linear layers. Of the embeddings, only the rows of the chat tokens are
    trained, since pre-training has not seen them.

    Args:
        model: model to fine-tune, modified in place.
        tokenizer: with the chat tokens.
        rank: rank of the adapters.
        alpha: the adapters are scaled by alpha/rank.
        targets: last components of the names of the layers, such as "q_proj"; "all-linear" means all of the blocks.

    Returns:
        A function that returns the weights of the model with merged adapters from the trained weights.

    Raises:
        ScratchError: PEFT is not installed, or a layer does not exist.
    """
    if find_spec("peft") is None:
        raise ScratchError("LoRA needs PEFT: pip install 'scratch_gpt[interop]'")
    from peft import LoraConfig, inject_adapter_in_model

    known = tokenizer.get_vocab()
    tokens = sorted(known[token] for token in CHAT_TOKENS if token in known)
    linear = {n.rpartition(".")[2] for n, m in model.base_model.named_modules() if isinstance(m, torch.nn.Linear)}
    chosen = sorted(linear) if targets == ["all-linear"] else targets
    if unknown := sorted(set(chosen) - linear):
        raise ScratchError(f"lora_targets names {', '.join(unknown)}, the model has {', '.join(sorted(linear))}")
    tied = model.config.tie_word_embeddings
    tables = {"embed_tokens": tokens} if tied else {"embed_tokens": tokens, "lm_head": tokens}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=chosen,
        trainable_token_indices=tables if tokens else None,
    )
    inject_adapter_in_model(config, model, ADAPTER)

    def published(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = _merged(weights, alpha / rank, torch.tensor(tokens))
        if tied:
            found["lm_head.weight"] = found["model.embed_tokens.weight"]
        return found

    return published


def _merged(weights: dict[str, torch.Tensor], scale: float, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Merge the adapters; the names are those of the model without adapters."""
    found = {}
    for name, weight in weights.items():
        if name.endswith(TABLE):
            rows = weights[name.removesuffix(TABLE) + ROWS]
            weight = weight.clone()
            weight[tokens.to(weight.device)] = rows.to(weight.dtype)
        elif name.endswith(BASE):
            stem = name.removesuffix(BASE)
            weight = weight + scale * (weights[stem + B] @ weights[stem + A])
        if not name.endswith((A, B, ROWS)):
            found[name.replace(".token_adapter", "").replace(".base_layer", "")] = weight
    return found
