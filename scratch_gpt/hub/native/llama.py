"""Native twins of our GPT in the classes that descend from Llama: their modules have Llama's names."""

from __future__ import annotations

from typing import Any

from transformers import (
    ArceeConfig,
    ArceeForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from .gpt import QKV, ROTARY_FIELDS, DecoderTwin, HeadTwin
from .twin import Fold, Weights, join_rows, split_rows

FIELDS = {ours: theirs for ours, theirs in ROTARY_FIELDS.items() if ours not in ("attention_bias", "head_dim")}
GATE_AND_UP = ("gate_proj", "up_proj")


class WindowTwin(DecoderTwin):
    """Base class of twins in whose class either all layers have sliding attention or none."""

    adjustable_fields = frozenset({"sliding_window", "layer_types"})

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """The window of all layers."""
        return {"sliding_window": config.sliding_window, "layer_types": None}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The window of all layers, or none."""
        return {"sliding_window": config.sliding_window if config.windowed else None}

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including layers of several types."""
        reasons = super().export_incompatibilities(config)
        if len(set(config.layer_types or [])) > 1:
            reasons.append(f"layer_types has several types, {self.model_class.__name__} has one for all layers")
        return reasons


class LayerTypesTwin(DecoderTwin):
    """Base class of twins in whose class each layer has a type, full or sliding attention."""

    adjustable_fields = frozenset({"sliding_window", "layer_types"})

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """The type of each layer, and the window, which is None if no layer has sliding attention."""
        windowed = "sliding_attention" in config.layer_types
        return {
            "layer_types": list(config.layer_types),
            "sliding_window": config.sliding_window if windowed else None,
        }

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The type of each layer, and the window."""
        fields: dict[str, Any] = {"layer_types": config.layer_types or ["full_attention"] * config.num_hidden_layers}
        if config.windowed:
            fields["sliding_window"] = config.sliding_window
        if "use_sliding_window" in self.config_class().to_dict():
            fields["use_sliding_window"] = config.windowed
        return fields


class Qwen2Twin(HeadTwin, LayerTypesTwin):
    """Qwen2 and Qwen2.5 (arXiv:2407.10671): biases of queries, keys and values, none of the attention's output."""

    preset = "qwen2"
    config_class, model_class = Qwen2Config, Qwen2ForCausalLM
    fields = FIELDS


class Qwen3Twin(LayerTypesTwin):
    """Qwen3 (arXiv:2505.09388): queries and keys are normalized."""

    preset = "qwen3"
    config_class, model_class = Qwen3Config, Qwen3ForCausalLM
    fields = ROTARY_FIELDS


class MistralTwin(WindowTwin):
    """Mistral (arXiv:2310.06825): all layers have a sliding window (version 0.1), or none has."""

    preset = "mistral"
    config_class, model_class = MistralConfig, MistralForCausalLM
    fields = {**FIELDS, "head_dim": "head_dim"}


class SmolLM3Twin(HeadTwin, LayerTypesTwin):
    """SmolLM3: some layers have no positions."""

    preset = "smollm3"
    config_class, model_class = SmolLM3Config, SmolLM3ForCausalLM
    fields = {**FIELDS, **{name: name for name in ("no_rope_layers", "attention_bias", "mlp_bias")}}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The type of each layer, and which layers have positions."""
        layers = config.no_rope_layers or [1] * config.num_hidden_layers
        return {**super().fields_to_native(config), "no_rope_layers": layers}


class ArceeTwin(DecoderTwin):
    """Arcee: Llama with a feed-forward network that is not gated, and the square of ReLU."""

    preset = "arcee"
    config_class, model_class = ArceeConfig, ArceeForCausalLM
    fields = {**ROTARY_FIELDS, "mlp_bias": "mlp_bias"}


class Olmo2Twin(HeadTwin):
    """OLMo 2 (arXiv:2501.00656): norms after each branch, and over all queries and all keys."""

    preset = "olmo2"
    config_class, model_class = Olmo2Config, Olmo2ForCausalLM
    fields = {**FIELDS, "attention_bias": "attention_bias"}
    names = {
        "attn_output_layernorm": "post_attention_layernorm",
        "mlp_output_layernorm": "post_feedforward_layernorm",
    }


class GraniteTwin(HeadTwin):
    """Granite 3: Llama with four multipliers, which are folded into the weights."""

    preset = "llama"
    config_class, model_class = GraniteConfig, GraniteForCausalLM
    fields = {**FIELDS, **{name: name for name in ("attention_bias", "mlp_bias")}}

    def folds(self, config: Any) -> list[Fold]:
        """The multipliers of embeddings, attention scores, residual branches and logits."""
        native: Any = self.config_class(**self.native_settings(config))
        embedding, tied = native.embedding_multiplier, config.tie_word_embeddings
        return [
            Fold(r"embed_tokens\.weight$|lm_head\.weight$" if tied else r"embed_tokens\.weight$", embedding),
            Fold(r"\.q_proj\.", native.attention_multiplier * config.head_dim**0.5),
            Fold(r"\.(o_proj|down_proj)\.", native.residual_multiplier),
            Fold(r"model\.norm\.weight$", 1 / (native.logits_scaling * (embedding if tied else 1.0))),
        ]


class Phi3Twin(HeadTwin, WindowTwin):
    """Phi-3 and Phi-4 (arXiv:2404.14219): queries, keys and values in one matrix, gate and up projection in another."""

    preset, partial_rotary = "llama", True
    config_class, model_class = Phi3Config, Phi3ForCausalLM
    fields = {**FIELDS, "embedding_dropout": "embd_pdrop", "residual_dropout": "resid_pdrop"}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The window, and the rotary settings, with the length that longrope extends."""
        original = "original_max_position_embeddings"
        extended = {original: config.rope_parameters[original]} if original in config.rope_parameters else {}
        rope = {"partial_rotary_factor": 1.0, **config.rope_parameters}
        return {**super().fields_to_native(config), **extended, "rope_parameters": rope}

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including scaled rotary positions."""
        reasons = super().export_incompatibilities(config)
        rope_type = (config.rope_parameters or {}).get("rope_type")
        if rope_type not in ("default", "longrope"):
            reasons.append(f"rope_type is {rope_type!r}, Phi3ForCausalLM has 'default' and 'longrope'")
        return reasons

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours: split the joined matrices."""
        sizes = [heads * config.head_dim for heads in (config.num_attention_heads, *[config.num_key_value_heads] * 2)]
        ours = split_rows(super().weights_from_native(weights, config), "qkv_proj", QKV, sizes)
        return split_rows(ours, "gate_up_proj", GATE_AND_UP)

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers: join matrices."""
        joined = join_rows(join_rows(weights, QKV, "qkv_proj"), GATE_AND_UP, "gate_up_proj")
        return super().weights_to_native(joined, config)


class Starcoder2Twin(HeadTwin, WindowTwin):
    """StarCoder2 (arXiv:2402.19173): GPT-2's norms and feed-forward network, with rotary positions and a window."""

    preset = "starcoder2"
    config_class, model_class = Starcoder2Config, Starcoder2ForCausalLM
    fields = {
        **FIELDS,
        "norm_eps": "norm_epsilon",
        "residual_dropout": "residual_dropout",
        "embedding_dropout": "embedding_dropout",
    }
    names = {"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}
    adjustable_fields = WindowTwin.adjustable_fields | {"attention_bias", "attention_output_bias", "mlp_bias"}

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """The window of all layers, and the biases of all linear layers."""
        biases = dict.fromkeys(("attention_bias", "attention_output_bias", "mlp_bias"), config.use_bias)
        return {**super().fields_from_native(config), **biases}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The window of all layers, and whether linear layers have biases."""
        return {**super().fields_to_native(config), "use_bias": config.mlp_bias}

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including biases of some layers only."""
        reasons = super().export_incompatibilities(config)
        if len({config.attention_bias, config.attention_output_bias, config.mlp_bias}) > 1:
            reasons.append("only some linear layers have biases, Starcoder2ForCausalLM has them in all or none")
        return reasons


TWINS = (
    *(Qwen2Twin(), Qwen3Twin(), MistralTwin(), SmolLM3Twin(), ArceeTwin(), Olmo2Twin()),
    *(GraniteTwin(), Phi3Twin(), Starcoder2Twin()),
)
