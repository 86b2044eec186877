"""Native twins of our encoder with the preset "modernbert": ModernBERT."""

from __future__ import annotations

from typing import Any

from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
    PreTrainedConfig,
)

from ...models.compatibility import LAYER_TYPES
from ...models.modeling_scratch_encoder import POOLER_ACTIVATIONS
from .encoder import LABEL_FIELDS, EncoderTwin
from .twin import ACTIVATION_NAMES, Weights, join_rows, split_rows

NORMS = {True: "layer_norm", False: "layer_norm_without_bias"}  # by norm_bias
# The parts of fused matrices: name in the names of weights, and the parts in order.
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


class ModernBertTwin(EncoderTwin):
    """ModernBERT, which has one matrix for queries, keys and values, and one for gate and input of the feed-forward
    network. Its `local_attention` is twice our `sliding_window`."""

    preset, note = "modernbert", " (5.1 where the layers with full attention are not every n-th)"
    config_class = ModernBertConfig
    fields = {
        **{name: name for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
        **{name: name for name in ("initializer_range", "norm_eps", "attention_bias", "mlp_bias", "layer_types")},
        **{name: name for name in ("rope_parameters", "embedding_dropout", "attention_dropout")},
        **{name: name for name in ("classifier_dropout", "classifier_pooling")},
        **LABEL_FIELDS,
        "hidden_act": "hidden_activation",
        "head_bias": "classifier_bias",
        "lm_head_bias": "decoder_bias",
    }
    adjustable_fields = frozenset({"norm_type", "sliding_window", "pooler_activation"})
    rotary_by_layer_type = True
    prefix = "model"
    trunk_names = {
        "embed_tokens": "embeddings.tok_embeddings",
        "embedding_norm": "embeddings.norm",
        "norm": "final_norm",
    }
    layer_names = {
        "self_attn.qkv_proj": "attn.Wqkv",
        "self_attn.o_proj": "attn.Wo",
        "input_layernorm": "attn_norm",
        "mlp.gate_up_proj": "mlp.Wi",
        "mlp.down_proj": "mlp.Wo",
        "post_attention_layernorm": "mlp_norm",
    }
    head_names = {
        "masked_lm": {"transform": "head", "lm_head": "decoder"},
        "classifier": {"model.pooler": "head"},
    }
    trunk_has_pooler = False

    def import_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that our model does not support, including those of its heads."""
        reasons = super().import_incompatibilities(config)
        inner, outer = config.hidden_activation, config.classifier_activation
        if self.head == "masked_lm" and self.activation(inner) != self.activation(outer):
            reasons.append(f"its classifier_activation is {outer!r}, ours is always hidden_activation, {inner!r}")
        if self.head == "classifier" and self.activation(outer) not in POOLER_ACTIVATIONS:
            known = ", ".join(POOLER_ACTIVATIONS)
            reasons.append(f"its classifier_activation is {outer!r}, ours are {known}")
        return reasons

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including norms and pooling."""
        reasons, name = super().export_incompatibilities(config), self.model_class.__name__
        if config.norm_type not in NORMS.values():
            reasons.append(f"norm_type is {config.norm_type!r}, {name} has {' or '.join(map(repr, NORMS.values()))}")
        if self.head == "classifier" and config.classifier_pooling not in ("cls", "mean"):
            reasons.append(f"classifier_pooling is {config.classifier_pooling!r}, {name} has 'cls' or 'mean'")
        return reasons

    @staticmethod
    def activation(name: str) -> str:
        """Our name of an activation function."""
        return ACTIVATION_NAMES.get(name, name)

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Fields of our config that are computed: norms, windows, and the activation function of a pooler."""
        window = config.local_attention // 2 if "sliding_attention" in config.layer_types else None
        computed = {"norm_type": NORMS[config.norm_bias], "sliding_window": window}
        if not self.has_no_pooler:
            computed["pooler_activation"] = self.activation(config.classifier_activation)
        return super().fields_from_native(config) | computed

    def config_to_native(self, config: Any) -> PreTrainedConfig:
        """Convert our config to that of transformers, with the fields that releases before 5.1 read instead of
        `layer_types` and `rope_parameters`, if they can express them."""
        native: Any = super().config_to_native(config)
        types, layers = native.layer_types, range(config.num_hidden_layers)
        for every in range(1, len(layers) + 1):
            if types == ["sliding_attention" if i % every else "full_attention" for i in layers]:
                native.global_attn_every_n_layers = every
                break
        native.global_rope_theta = native.rope_parameters["full_attention"]["rope_theta"]
        native.local_rope_theta = native.rope_parameters["sliding_attention"]["rope_theta"]
        return native

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Fields of the config of transformers that are computed: norms, layer types, windows, positions, the
        classifier's dropout, and ids of tokens that have two names."""
        settings, window = self.native_settings(config), config.sliding_window
        rope = config.rope_parameters
        computed = {
            "norm_bias": config.norm_type == "layer_norm",
            "layer_types": config.layer_types or ["full_attention"] * config.num_hidden_layers,
            "rope_parameters": {name: dict(rope.get(name) or {"rope_type": "default"}) for name in LAYER_TYPES}
            if config.rotary_by_layer_type
            else {name: dict(rope) for name in LAYER_TYPES},
        }
        if window is not None and settings.get("local_attention", 128) // 2 != window:
            computed["local_attention"] = 2 * window
        head_act = {"masked_lm": config.hidden_act, "classifier": config.pooler_activation}.get(self.head)
        if head_act is not None and self.activation(settings.get("classifier_activation", "gelu")) != head_act:
            computed["classifier_activation"] = head_act
        if self.head == "masked_lm" and config.classifier_pooling == "sum":  # it has no effect, and is refused
            computed["classifier_pooling"] = "mean"
        if config.classifier_dropout is None:
            computed["classifier_dropout"] = config.residual_dropout
        if not settings:
            computed |= {"cls_token_id": config.bos_token_id, "sep_token_id": config.eos_token_id}
        return computed

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours: split the fused matrices."""
        ours = super().weights_from_native(weights, config)
        for fused, parts in FUSED.items():
            ours = split_rows(ours, fused, parts)
        return ours

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers: join the parts of the fused matrices."""
        joined = weights
        for fused, parts in FUSED.items():
            joined = join_rows(joined, parts, fused)
        return super().weights_to_native(joined, config)


TWINS = (
    ModernBertTwin("masked_lm", ModernBertForMaskedLM),
    ModernBertTwin("classifier", ModernBertForSequenceClassification),
    ModernBertTwin("trunk", ModernBertModel),
)
