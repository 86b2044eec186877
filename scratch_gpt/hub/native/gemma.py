"""Native twins of our GPT: Gemma 1, 2 and 3 (arXiv:2403.08295, 2408.00118, 2503.19786)."""

from __future__ import annotations

from typing import Any

from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
)

from ...models.compatibility import LAYER_TYPES
from .gpt import ROTARY_FIELDS, DecoderTwin
from .llama import LayerTypesTwin
from .twin import Fold


class GemmaFamilyTwin(DecoderTwin):
    """Base class: Gemma multiplies the embeddings by the square root of the hidden size and normalized states by
    1 + weight; both are folded into our weights."""

    fields = ROTARY_FIELDS
    required = {"use_bidirectional_attention": (None, False)}

    def folds(self, config: Any) -> list[Fold]:
        """The multiplier of the embeddings, and the ones of the norms."""
        scale, tied = config.hidden_size**0.5, config.tie_word_embeddings
        return [
            Fold(r"norm\.weight$", offset=1.0),
            Fold(r"embed_tokens\.weight$|lm_head\.weight$" if tied else r"embed_tokens\.weight$", scale),
            Fold(r"model\.norm\.weight$", 1 / scale if tied else 1.0),
        ]


class GemmaTwin(GemmaFamilyTwin):
    """Gemma 1: Llama with GELU in the gate, and multiplied embeddings."""

    preset = "gemma"
    config_class, model_class = GemmaConfig, GemmaForCausalLM


class WindowedGemmaTwin(LayerTypesTwin, GemmaFamilyTwin):
    """Base class of Gemma 2 and 3: norms before and after each branch, and a sliding window in some layers."""

    fields = {
        **ROTARY_FIELDS,
        "hidden_act": "hidden_activation",
        "final_logit_softcapping": "final_logit_softcapping",
    }
    names = {
        "attn_output_layernorm": "post_attention_layernorm",
        "post_attention_layernorm": "pre_feedforward_layernorm",
        "mlp_output_layernorm": "post_feedforward_layernorm",
    }
    attention_weights = r"\.q_proj\."  # of which the scores are a multiple

    def folds(self, config: Any) -> list[Fold]:
        """Those of Gemma 1, and the scale of the scores."""
        settings = self.native_settings(config)
        if not settings:
            return super().folds(config)
        native: Any = self.config_class(**settings)
        scale = (config.head_dim / native.query_pre_attn_scalar) ** 0.5
        return [*super().folds(config), Fold(self.attention_weights, scale)]

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The type of each layer, the window, and the scale of the scores, which is ours in a model that was not
        imported."""
        scale = {} if self.native_settings(config) else {"query_pre_attn_scalar": config.head_dim}
        return {**super().fields_to_native(config), **scale}


class Gemma2Twin(WindowedGemmaTwin):
    """Gemma 2: Gemma with norms before and after each branch, soft-capped scores and logits, and a window in every
    second layer."""

    preset = "gemma2"
    config_class, model_class = Gemma2Config, Gemma2ForCausalLM
    fields = {**WindowedGemmaTwin.fields, "attn_logit_softcapping": "attn_logit_softcapping"}


class Gemma3Twin(WindowedGemmaTwin):
    """Gemma 3 (its text models): Gemma 2 with normalized queries and keys in place of soft-capped scores, and rotary
    settings for each layer type. Its config has `attn_logit_softcapping`, which its attention ignores."""

    preset, rotary_by_layer_type = "gemma3", True
    config_class, model_class = Gemma3TextConfig, Gemma3ForCausalLM
    attention_weights = r"\.q_norm\."

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Those of Gemma 2, and the rotary settings of both layer types."""
        rope = config.rope_parameters
        settings = rope if config.rotary_by_layer_type else {name: dict(rope) for name in LAYER_TYPES}
        return {**super().fields_to_native(config), "rope_parameters": settings}


TWINS = (GemmaTwin(), Gemma2Twin(), Gemma3Twin())
