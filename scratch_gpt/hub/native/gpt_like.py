"""Native twins of our GPT in classes that descend from GPT-2: OPT, GPT-Neo, GPT-NeoX (Pythia), GPT-J and Phi."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from .gpt import QKV, SIZES, FullHeadsTwin, HeadTwin
from .twin import Fold, Weights

OFFSET = 2  # OPT's positions start with two rows that are not used
POSITIONS = "model.embed_positions.weight"
WINDOWED = {"global": "full_attention", "local": "sliding_attention"}


class OPTTwin(FullHeadsTwin):
    """OPT (arXiv:2205.01068): GPT-2 with ReLU, and two rows before the position embeddings."""

    preset = "opt"
    config_class, model_class = OPTConfig, OPTForCausalLM
    fields = {
        **{ours: theirs for ours, theirs in SIZES.items() if ours != "initializer_range"},
        "initializer_range": "init_std",
        "intermediate_size": "ffn_dim",
        "hidden_act": "activation_function",
        "residual_dropout": "dropout",
        "attention_dropout": "attention_dropout",
    }
    names = {
        "model.layers": "model.decoder.layers",
        "model.embed_tokens": "model.decoder.embed_tokens",
        "model.embed_positions": "model.decoder.embed_positions",
        "model.norm": "model.decoder.final_layer_norm",
        "input_layernorm": "self_attn_layer_norm",
        "post_attention_layernorm": "final_layer_norm",
        "self_attn.o_proj": "self_attn.out_proj",
        "mlp.up_proj": "fc1",
        "mlp.down_proj": "fc2",
    }
    required = {
        "do_layer_norm_before": (True,),
        "_remove_final_layer_norm": (False,),
        "enable_bias": (True,),
        "layer_norm_elementwise_affine": (True,),
    }

    def import_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that our model does not support, including a projection of the embeddings."""
        reasons = super().import_incompatibilities(config)
        if config.word_embed_proj_dim != config.hidden_size:
            reasons.append(
                f"its word_embed_proj_dim is {config.word_embed_proj_dim}, ours is hidden_size, {config.hidden_size}"
            )
        return reasons

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The size of the embeddings."""
        return {"word_embed_proj_dim": config.hidden_size}

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours, without the two rows."""
        ours = super().weights_from_native(weights, config)
        return {name: weight[OFFSET:] if name == POSITIONS else weight for name, weight in ours.items()}

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with two rows of zeros before the position embeddings."""
        padded = {
            name: torch.cat((weight.new_zeros(OFFSET, weight.shape[1]), weight)) if name == POSITIONS else weight
            for name, weight in weights.items()
        }
        return super().weights_to_native(padded, config)


class GPTNeoTwin(FullHeadsTwin):
    """GPT-Neo: GPT-2 with a sliding window in every second layer, and attention scores that are not scaled."""

    preset = "gpt_neo"
    config_class, model_class = GPTNeoConfig, GPTNeoForCausalLM
    fields = {
        **{**SIZES, "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
        "norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
        "embedding_dropout": "embed_dropout",
        "attention_dropout": "attention_dropout",
        "residual_dropout": "resid_dropout",
    }
    names = {
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "self_attn.q_proj": "attn.attention.q_proj",
        "self_attn.k_proj": "attn.attention.k_proj",
        "self_attn.v_proj": "attn.attention.v_proj",
        "self_attn.o_proj": "attn.attention.out_proj",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    }
    adjustable_fields = frozenset({"layer_types", "sliding_window"})

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """The size of the feed-forward network, the type of each layer, and the window."""
        types = [WINDOWED[name] for name in config.attention_layers]
        return {
            "intermediate_size": config.intermediate_size or 4 * config.hidden_size,
            "layer_types": types,
            "sliding_window": config.window_size if "sliding_attention" in types else None,
        }

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The size of the feed-forward network, the type of each layer, and the window."""
        names = {ours: theirs for theirs, ours in WINDOWED.items()}
        types = config.layer_types or ["full_attention"] * config.num_hidden_layers
        fields = {
            "intermediate_size": config.intermediate_size,
            "attention_types": [[[names[name] for name in types], 1]],
        }
        return fields | ({"window_size": config.sliding_window} if config.windowed else {})

    def folds(self, config: Any) -> list[Fold]:
        """The scale of the scores."""
        return [Fold(r"\.q_proj\.", config.head_dim**0.5)]


class GPTNeoXTwin(FullHeadsTwin):
    """GPT-NeoX and Pythia (arXiv:2204.06745, 2304.01373): parallel branches, a quarter of each head is rotated, and
    query, key and value of each head stand together in one matrix."""

    preset, partial_rotary = "gpt_neox", True
    config_class, model_class = GPTNeoXConfig, GPTNeoXForCausalLM
    fields = {
        **SIZES,
        "intermediate_size": "intermediate_size",
        "norm_eps": "layer_norm_eps",
        "hidden_act": "hidden_act",
        "attention_bias": "attention_bias",
        "parallel_residual": "use_parallel_residual",
        "rope_parameters": "rope_parameters",
        "attention_dropout": "attention_dropout",
        "residual_dropout": "hidden_dropout",
    }
    names = {
        "model.embed_tokens": "gpt_neox.embed_in",
        "model.layers": "gpt_neox.layers",
        "model.norm": "gpt_neox.final_layer_norm",
        "self_attn.qkv_proj": "attention.query_key_value",
        "self_attn.o_proj": "attention.dense",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    }
    if "embed_out.weight" in GPTNeoXForCausalLM._tied_weights_keys:  # the name of the head in older releases
        names["lm_head"] = "embed_out"

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """The dropout of the embeddings, which is that of the residual branches."""
        return {"embedding_dropout": config.hidden_dropout}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The rotary settings, with the fraction of a head that is rotated, which is a quarter by default."""
        return {"rope_parameters": {"partial_rotary_factor": 1.0, **config.rope_parameters}}

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours: split query, key and value of each head."""
        ours: Weights = {}
        for name, weight in super().weights_from_native(weights, config).items():
            if "qkv_proj" in name:
                heads = weight.unflatten(0, (-1, 3, config.head_dim))  # (H, 3, D, …)
                for index, part in enumerate(QKV):
                    ours[name.replace("qkv_proj", part)] = heads[:, index].flatten(0, 1)
            else:
                ours[name] = weight
        return ours

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers: join query, key and value of each head."""
        joined: Weights = {}
        for name, weight in weights.items():
            if "q_proj" in name:
                parts = [weights[name.replace("q_proj", part)] for part in QKV]
                heads = torch.stack([part.unflatten(0, (-1, config.head_dim)) for part in parts], 1)  # (H, 3, D, …)
                joined[name.replace("q_proj", "qkv_proj")] = heads.flatten(0, 2)
            elif "k_proj" not in name and "v_proj" not in name:
                joined[name] = weight
        return super().weights_to_native(joined, config)


class GPTJTwin(FullHeadsTwin):
    """GPT-J: parallel branches with one norm, and rotated pairs of neighbouring features, which are reordered to ours
    (a feature and the one half of the rotated features later)."""

    preset, partial_rotary = "gptj", True
    config_class, model_class = GPTJConfig, GPTJForCausalLM
    fields = {
        **SIZES,
        "norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
        "embedding_dropout": "embd_pdrop",
        "attention_dropout": "attn_pdrop",
        "residual_dropout": "resid_pdrop",
    }
    names = {
        "model.embed_tokens": "transformer.wte",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "self_attn.q_proj": "attn.q_proj",
        "self_attn.k_proj": "attn.k_proj",
        "self_attn.v_proj": "attn.v_proj",
        "self_attn.o_proj": "attn.out_proj",
        "mlp.up_proj": "mlp.fc_in",
        "mlp.down_proj": "mlp.fc_out",
    }

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """The size of the feed-forward network, and the fraction of a head that is rotated."""
        head_dim = config.hidden_size // config.num_attention_heads
        rope = {"rope_type": "default", "rope_theta": 10000.0}
        rope["partial_rotary_factor"] = (config.rotary_dim or head_dim) / head_dim
        return {"intermediate_size": config.n_inner or 4 * config.hidden_size, "rope_parameters": rope}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The size of the feed-forward network, and the number of features of a head that are rotated."""
        return {"n_inner": config.intermediate_size, "rotary_dim": rotated_features(config)}

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including other rotary frequencies."""
        reasons = super().export_incompatibilities(config)
        rope = {**(config.rope_parameters or {}), "partial_rotary_factor": None}
        if rope != {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": None}:
            reasons.append("rope_parameters has other frequencies than GPTJForCausalLM, whose rope_theta is 10000")
        return reasons

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours, with the rotated features of each head in our order."""
        order = torch.arange(rotated_features(config)).view(-1, 2).T.flatten()  # 0, 2, 4, …, 1, 3, 5, …
        return reorder_heads(super().weights_from_native(weights, config), order, config.head_dim)

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with the rotated features of each head in its order."""
        order = torch.arange(rotated_features(config)).view(2, -1).T.flatten()  # 0, R/2, 1, R/2 + 1, …
        return super().weights_to_native(reorder_heads(weights, order, config.head_dim), config)


class PhiTwin(HeadTwin):
    """Phi-1, Phi-1.5 and Phi-2 (arXiv:2309.05463): parallel branches with one norm, a part of each head is rotated."""

    preset, partial_rotary = "phi", True
    config_class, model_class = PhiConfig, PhiForCausalLM
    fields = {
        **SIZES,
        "num_key_value_heads": "num_key_value_heads",
        "intermediate_size": "intermediate_size",
        "norm_eps": "layer_norm_eps",
        "hidden_act": "hidden_act",
        "qk_norm": "qk_layernorm",
        "rope_parameters": "rope_parameters",
        "embedding_dropout": "embd_pdrop",
        "attention_dropout": "attention_dropout",
        "residual_dropout": "resid_pdrop",
    }
    names = {
        "model.norm": "model.final_layernorm",
        "self_attn.o_proj": "self_attn.dense",
        "self_attn.q_norm": "self_attn.q_layernorm",
        "self_attn.k_norm": "self_attn.k_layernorm",
        "mlp.up_proj": "mlp.fc1",
        "mlp.down_proj": "mlp.fc2",
    }

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The rotary settings, with the fraction of a head that is rotated."""
        return {"rope_parameters": {"partial_rotary_factor": 1.0, **config.rope_parameters}}


def rotated_features(config: Any) -> int:
    """Number of features of a head that are rotated; `config` is our config."""
    return int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))


def reorder_heads(weights: Weights, order: torch.Tensor, head_dim: int) -> Weights:
    """Reorder the first features of each head in the query and key projections.

    Args:
        weights: a state dict of ours.
        order: indices of the rotated features (R,).
        head_dim: number of features of a head (D).
    """
    order = torch.cat((order, torch.arange(len(order), head_dim)))
    reordered = dict(weights)
    for name, weight in weights.items():
        if "q_proj" in name or "k_proj" in name:
            reordered[name] = weight.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)
    return reordered


TWINS = (OPTTwin(), GPTNeoTwin(), GPTNeoXTwin(), GPTJTwin(), PhiTwin())
