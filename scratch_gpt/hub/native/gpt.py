"""Native twins of our GPT: GPT-2, Llama and NanoChat."""

from __future__ import annotations

import re
from typing import Any

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    NanoChatConfig,
    NanoChatForCausalLM,
    PreTrainedConfig,
)

from ...models.configuration_scratch_gpt import ScratchGPTConfig
from ...models.modeling_scratch_gpt import ScratchGPTForCausalLM
from .twin import Twin, Weights, join_rows, split_rows

QKV = ("q_proj", "k_proj", "v_proj")
SIZES = {name: name for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "initializer_range")}

# Our names to theirs, the same in Llama, NanoChat and most classes that descend from Llama.
ROTARY_FIELDS = {
    **SIZES,
    "intermediate_size": "intermediate_size",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "hidden_act": "hidden_act",
    "attention_bias": "attention_bias",
    "attention_dropout": "attention_dropout",
    "rope_parameters": "rope_parameters",
}


class DecoderTwin(Twin):
    """Base class of the twins of `ScratchGPTForCausalLM`."""

    our_config_class, our_model_class = ScratchGPTConfig, ScratchGPTForCausalLM


class HeadTwin(DecoderTwin):
    """Base class of twins whose config has no `head_dim`: a head has hidden_size / num_attention_heads features."""

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including the size of heads."""
        reasons = super().export_incompatibilities(config)
        if config.head_dim * config.num_attention_heads != config.hidden_size:
            reasons.append(
                f"head_dim is {config.head_dim}, {self.model_class.__name__} has hidden_size / num_attention_heads, "
                f"which is {config.hidden_size / config.num_attention_heads:g}"
            )
        return reasons


class FullHeadsTwin(DecoderTwin):
    """Base class of twins in whose class there are no grouped key-value heads, and no `head_dim`."""

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including attention heads."""
        return super().export_incompatibilities(config) + self.head_incompatibilities(config)


class LlamaTwin(DecoderTwin):
    """Llama (arXiv:2302.13971, 2407.21783), which has the same modules with the same names."""

    preset = "llama"
    config_class, model_class = LlamaConfig, LlamaForCausalLM
    fields = {**ROTARY_FIELDS, "mlp_bias": "mlp_bias"}

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including the number of heads."""
        reasons = super().export_incompatibilities(config)
        if config.hidden_size % config.num_attention_heads:
            reasons.append(
                f"num_attention_heads is {config.num_attention_heads}, LlamaForCausalLM wants a divisor of "
                f"hidden_size, which is {config.hidden_size}"
            )
        return reasons


class NanoChatTwin(DecoderTwin):
    """NanoChat: Llama with squared ReLU, norms without weights and soft-capped logits. It rotates queries and keys in
    the opposite direction; swapping the halves of each head's rows is equivalent."""

    preset, since = "nanochat", "5.0"
    config_class, model_class = NanoChatConfig, NanoChatForCausalLM
    fields = {**ROTARY_FIELDS, "final_logit_softcapping": "final_logit_softcapping"}
    names = {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}

    def import_incompatibilities(self, config: PreTrainedConfig) -> list[str]:
        """List the settings that our model does not support, including scaled rotary positions."""
        return super().import_incompatibilities(config) + self.rope_incompatibilities(config)

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including scaled rotary positions."""
        return super().export_incompatibilities(config) + self.rope_incompatibilities(config)

    @staticmethod
    def rope_incompatibilities(config: Any) -> list[str]:
        """List unsupported rotary settings.

        NanoChat normalises queries and keys after their rotation, our model before: a factor on cosines and sines
        cancels there and scales the attention logits here.
        """
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") not in ("yarn", "longrope") or rope.get("attention_factor") == 1:
            return []
        return [
            f"rope_type is {rope['rope_type']!r} with the attention_factor {rope.get('attention_factor')}, which "
            "NanoChatForCausalLM cancels and ours applies, want 1: set rope_parameters['attention_factor'] to 1"
        ]

    def swap_halves(self, weights: Weights, config: Any) -> Weights:
        """Swap the halves of each head's rows in the query and key projections."""
        assert config.head_dim is not None  # set when the config is created
        swapped = dict(weights)
        for name, weight in weights.items():
            if "q_proj" in name or "k_proj" in name:
                heads = weight.unflatten(0, (-1, 2, config.head_dim // 2))  # (heads, halves, D/2, …)
                swapped[name] = heads.flip(1).reshape(weight.shape)
        return swapped

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours, with the halves of each head swapped."""
        return super().weights_from_native(self.swap_halves(weights, config), config)

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with the halves of each head swapped."""
        return super().weights_to_native(self.swap_halves(weights, config), config)


class GPT2Twin(FullHeadsTwin):
    """GPT-2: layer norms, learned positions and biases. It stores its matrices transposed (`Conv1D`), with query, key
    and value in one matrix."""

    preset = "gpt2"
    config_class, model_class = GPT2Config, GPT2LMHeadModel
    fields = {
        **SIZES,
        "intermediate_size": "n_inner",
        "norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
        "embedding_dropout": "embd_pdrop",
        "attention_dropout": "attn_pdrop",
        "residual_dropout": "resid_pdrop",
    }
    names = {
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "self_attn.qkv_proj": "attn.c_attn",
        "self_attn.o_proj": "attn.c_proj",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    }
    required = {
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
        "add_cross_attention": (False,),
    }

    @staticmethod
    def transpose(weights: Weights) -> Weights:
        """Transpose the weight matrices of all linear layers in the blocks."""
        linear = re.compile(r"(qkv_proj|o_proj|up_proj|down_proj)\.weight$")
        return {name: w.T.contiguous() if linear.search(name) else w for name, w in weights.items()}

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours: transpose the matrices, and split query, key and value."""
        return split_rows(self.transpose(super().weights_from_native(weights, config)), "qkv_proj", QKV)

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers: join query, key and value, and transpose the matrices."""
        return super().weights_to_native(self.transpose(join_rows(weights, QKV, "qkv_proj")), config)


TWINS = (GPT2Twin(), LlamaTwin(), NanoChatTwin())
