"""Small models of the decoder classes of transformers that have a native twin, in the variants of their checkpoints."""

import re
from typing import Any

import transformers

from helpers.models import lift_norms, randomise

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPE = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, **IDS}
SHAPE |= {"max_position_embeddings": 64, "intermediate_size": 48}
GROUPED = {"num_key_value_heads": 2}
WINDOW = 5
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 3.0, 5.0, 7.0],
    "original_max_position_embeddings": 16,
}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}

# Class prefix, and the fields of each variant in addition to `SHAPE`.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "Qwen2": {
        "grouped": GROUPED,
        "windows": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, **GROUPED},
        "tied": {"tie_word_embeddings": True},
    },
    "Qwen3": {
        "grouped": {**GROUPED, "head_dim": 12},
        "tied": {"tie_word_embeddings": True, "head_dim": 8},
        "windows": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2, "head_dim": 8},
        "biases": {"attention_bias": True, "head_dim": 8},
    },
    "Mistral": {
        "0.1": {"sliding_window": WINDOW, **GROUPED},
        "0.3": {"sliding_window": None, **GROUPED},
        "head_dim": {"sliding_window": None, "head_dim": 12, **GROUPED},
    },
    "SmolLM3": {
        "plain": {**GROUPED, "no_rope_layer_interval": 2},
        "biases": {"attention_bias": True, "mlp_bias": True, "no_rope_layers": [0, 1, 1], "tie_word_embeddings": False},
        "windows": {"use_sliding_window": True, "sliding_window": WINDOW, "no_rope_layer_interval": 2},
    },
    "Arcee": {"plain": {}, "biases": {"attention_bias": True, "mlp_bias": True, "head_dim": 12, **GROUPED}},
    "Olmo2": {"plain": {}, "grouped": GROUPED, "biases": {"attention_bias": True, "tie_word_embeddings": True}},
    "Granite": {
        "plain": {
            **GROUPED,
            "embedding_multiplier": 12.0,
            "logits_scaling": 0.25,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.3,
            "tie_word_embeddings": True,
        },
        "untied": {"embedding_multiplier": 3.0, "logits_scaling": 0.5, "attention_bias": True, "mlp_bias": True},
    },
    "Phi3": {
        "4k": {"sliding_window": WINDOW, **GROUPED},
        "no window": {"sliding_window": None, "tie_word_embeddings": True},
        "128k": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16},
        "partial": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}},
    },
    "Starcoder2": {
        "plain": {**GROUPED, "sliding_window": WINDOW},
        "no biases": {"use_bias": False, "sliding_window": None, "tie_word_embeddings": False},
    },
    "Gemma": {"plain": {"head_dim": 12, **GROUPED}, "untied": {"head_dim": 8, "tie_word_embeddings": False}},
    "Gemma2": {
        "plain": {"head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": WINDOW, **GROUPED},
        "uncapped": {
            "head_dim": 8,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "sliding_window": WINDOW,
        },
        "strong caps": {
            "head_dim": 8,
            "attn_logit_softcapping": 0.7,
            "final_logit_softcapping": 3.0,
            "sliding_window": WINDOW,
        },
    },
    "Gemma3": {
        "plain": {"head_dim": 12, "sliding_window": WINDOW, "layer_types": LAYERS, **GROUPED},
        "cap that it ignores": {"head_dim": 8, "attn_logit_softcapping": 0.7, "sliding_window": WINDOW},
        "scaled": {
            "head_dim": 8,
            "query_pre_attn_scalar": 20,
            "sliding_window": WINDOW,
            "layer_types": LAYERS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    },
    "OPT": {"plain": {"ffn_dim": 48}, "gelu": {"ffn_dim": 40, "activation_function": "gelu"}},
    "GPTNeo": {
        "plain": {"attention_types": [[["global", "local"], 1], [["local"], 1]], "window_size": WINDOW},
        "global": {"attention_types": [[["global"], 3]]},
    },
    "GPTNeoX": {
        "plain": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.25}},
        "sequential": {"use_parallel_residual": False, "tie_word_embeddings": True},
        "no biases": {"attention_bias": False, "hidden_act": "gelu_fast"},
    },
    "GPTJ": {"plain": {"rotary_dim": 4}, "whole heads": {"rotary_dim": 8, "n_inner": 40}},
    "Phi": {
        "plain": {},
        "grouped": {
            **GROUPED,
            "qk_layernorm": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.25},
        },
    },
    "Mixtral": {
        "plain": {**GROUPED, "num_local_experts": 4, "sliding_window": None},
        "window": {"num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": WINDOW},
    },
    "Olmoe": {
        "plain": EXPERTS,
        "normalized": {**EXPERTS, **GROUPED, "norm_topk_prob": True, "attention_bias": True},
    },
    "Qwen3Moe": {
        "plain": {**EXPERTS, **GROUPED, "moe_intermediate_size": 24, "norm_topk_prob": True, "head_dim": 12},
        "not normalized": {**EXPERTS, "moe_intermediate_size": 40, "num_key_value_heads": 4},
    },
}
CASES = [(family, variant) for family, variants in VARIANTS.items() for variant in variants]


def native_decoder(family: str, variant: str, **overrides: Any) -> Any:
    """A model of transformers with random weights, those of biases and norms included."""
    name = {"Gemma3": "Gemma3Text"}.get(family, family)
    config_class = getattr(transformers, f"{name}Config")
    fields = {**SHAPE, **VARIANTS[family][variant], **overrides}
    for ours, theirs in getattr(config_class, "attribute_map", {}).items():  # which some releases do not apply here
        fields = {theirs if name == ours else name: value for name, value in fields.items()}
    known = config_class().to_dict()
    if "num_key_value_heads" in known:
        fields = {"num_key_value_heads": 4, **fields}
    if "intermediate_size" not in known:
        fields.pop("intermediate_size")
    model = randomise(getattr(transformers, f"{family}ForCausalLM")(config_class(**fields)), seed=3)
    for name, weight in model.named_parameters():
        if re.search(r"\bln_\w+\.weight$", name):
            weight.data.add_(1)
    return lift_norms(model)
