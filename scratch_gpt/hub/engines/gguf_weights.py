"""Weights under the names of GGUF, and how those of an architecture of llama.cpp differ from transformers'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

BLOCK_SIZE = 32  # weights that share a scale in q8_0
# The layers of the two models of Gemma (2 and 3, each with 27B parameters) whose scores llama.cpp scales differently.
GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3_text": 62}

# Changes a weight, given its name in the class of transformers and the config of that class.
Change = Callable[[str, torch.Tensor, Any], torch.Tensor]


def tensors(model: Any, architecture: str, changes: tuple[Change, ...], separate_head: bool) -> Iterator:
    """The weights of a model with their names in GGUF, in float32.

    Args:
        model: a model of transformers.
        architecture: name of the architecture in GGUF.
        changes: how its weights differ, in this order.
        separate_head: whether the head is written even if its weights are those of the embeddings.

    Yields:
        Name and weight.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    config = model.config
    key = next(key for key in MODEL_ARCH if MODEL_ARCH_NAMES.get(key) == architecture)
    names = get_tensor_name_map(key, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings and not separate_head:
            continue  # llama.cpp then uses the embeddings
        weight = weight.detach().float()
        for change in changes:
            weight = change(name, weight, config)
        for part, rows in split_experts(name, weight):
            module, suffix = (part, "weight") if ".experts." in part else part.rsplit(".", 1)
            yield f"{names[module]}.{suffix}", rows
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_factors(model)


def split_experts(name: str, weight: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """The gates and up projections of all experts, which transformers has in one weight (E, 2 I, C)."""
    if not name.endswith("experts.gate_up_proj"):
        return [(name, weight)]
    names = (name.replace("gate_up_proj", part) for part in ("gate_proj", "up_proj"))
    return list(zip(names, weight.chunk(2, dim=1), strict=True))


def transpose_matrices(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """GPT-2's layers have transposed matrices (`Conv1D`)."""
    return weight.T if weight.ndim == 2 and ".h." in name else weight


def interleave_heads(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Reorder the rows of each head of a query or key projection, (H * D, C) or (H * D,): transformers rotates feature
    i with i + D/2, llama.cpp 2i with 2i + 1 in the architectures that descend from its first Llama."""
    if not name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
        return weight
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def separate_queries(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """GPT-NeoX has query, key and value of each head together (H, 3, D, …), llama.cpp all queries first."""
    if "query_key_value" not in name:
        return weight
    return weight.unflatten(0, (config.num_attention_heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def add_one_to_norms(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Gemma multiplies normalized states by 1 + weight, llama.cpp by the weight."""
    return weight + 1 if name.endswith("norm.weight") else weight


def score_scale(config: Any) -> float:
    """What Gemma multiplies the attention scores by, relative to llama.cpp, which has no key for it."""
    divisor = config.head_dim
    if config.num_hidden_layers == GEMMA_27B_LAYERS[config.model_type]:
        divisor = config.hidden_size // config.num_attention_heads
    return (divisor / config.query_pre_attn_scalar) ** 0.5


def scale_queries(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Gemma 2 scales the scores."""
    return weight * score_scale(config) if "q_proj" in name else weight


def scale_query_norms(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Gemma 3 scales the scores, and normalizes queries."""
    return weight * score_scale(config) if "q_norm" in name else weight


def llama3_factors(model: Any) -> torch.Tensor:
    """What Llama 3's scaling divides each rotary frequency by (D/2,)."""
    frequencies = model.model.rotary_emb.inv_freq.float().cpu()
    exponents = torch.arange(len(frequencies)).float() / len(frequencies)
    return model.config.rope_parameters["rope_theta"] ** -exponents / frequencies


def quantize(name: str, weight: torch.Tensor, kind: str) -> tuple[np.ndarray, Any]:
    """A weight in a type of GGUF, and the type. Vectors stay in float32, and so do the weights of routers, which choose
    other experts when they are rounded; matrices whose rows are not a multiple of 32 can't be q8_0 and are f16."""
    from gguf import GGMLQuantizationType, quants

    if weight.ndim == 1 or "ffn_gate_inp" in name:
        kind = "F32"
    elif kind == "Q8_0" and weight.shape[-1] % BLOCK_SIZE:
        kind = "F16"
    dtype = GGMLQuantizationType[kind]
    return quants.quantize(np.ascontiguousarray(weight.numpy()), dtype), dtype
