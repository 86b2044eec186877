"""Native twins of our encoder-decoder with the preset "t5": T5 (also v1.1 and Flan) and mT5."""

from __future__ import annotations

import re
from typing import Any

from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from .seq2seq import Seq2SeqTwin
from .twin import Fold, Weights

# Our names -> theirs in the encoder. In the decoder, cross-attention is layer 1 and the feed-forward network layer 2.
ENCODER = {
    "model.encoder": "encoder",
    "relative_bias": "block.0.layer.0.SelfAttention.relative_attention_bias",
    "layers": "block",
    "norm": "final_layer_norm",
    "input_layernorm": "layer.0.layer_norm",
    "self_attn.q_proj": "layer.0.SelfAttention.q",
    "self_attn.k_proj": "layer.0.SelfAttention.k",
    "self_attn.v_proj": "layer.0.SelfAttention.v",
    "self_attn.o_proj": "layer.0.SelfAttention.o",
    "post_attention_layernorm": "layer.1.layer_norm",
    "mlp.down_proj": "layer.1.DenseReluDense.wo",
}
MLP = {"mlp.up_proj": "layer.1.DenseReluDense.wi"}
GATED_MLP = {"mlp.gate_proj": "layer.1.DenseReluDense.wi_0", "mlp.up_proj": "layer.1.DenseReluDense.wi_1"}
CROSS_ATTENTION = {
    "cross_attn_layernorm": "layer.1.layer_norm",
    "cross_attn.q_proj": "layer.1.EncDecAttention.q",
    "cross_attn.k_proj": "layer.1.EncDecAttention.k",
    "cross_attn.v_proj": "layer.1.EncDecAttention.v",
    "cross_attn.o_proj": "layer.1.EncDecAttention.o",
}


class T5StyleTwin(Seq2SeqTwin):
    """Base class of T5 and mT5. They do not divide the dot products of queries and keys by sqrt(D), and a tied head
    gets hidden states divided by sqrt(C). The first factor is folded into the query projections, the second one into
    the decoder's last norm."""

    preset = "t5"
    shared_table = "shared.weight"
    fields = {
        "hidden_size": "d_model",
        "intermediate_size": "d_ff",
        "encoder_layers": "num_layers",
        "decoder_layers": "num_decoder_layers",
        "num_attention_heads": "num_heads",
        "head_dim": "d_kv",
        "norm_eps": "layer_norm_epsilon",
        "hidden_act": "dense_act_fn",
        "mlp_gated": "is_gated_act",
        "residual_dropout": "dropout_rate",
        "decoder_start_token_id": "decoder_start_token_id",
        "relative_attention_num_buckets": "relative_attention_num_buckets",
        "relative_attention_max_distance": "relative_attention_max_distance",
    }

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Those of the base class, dropouts, special tokens, and whether the head is tied. The length of the inputs is
        not limited; older configs have one for the tokenizer."""
        dropouts = dict.fromkeys(("embedding_dropout", "attention_dropout"), config.dropout_rate)
        fields = {
            **super().fields_from_native(config),
            **dropouts,
            "bos_token_id": getattr(config, "bos_token_id", None),
        }
        if (length := getattr(config, "n_positions", None)) is not None:
            fields["max_position_embeddings"] = length
        return {**fields, "tie_word_embeddings": self.has_tied_head(config)}

    @staticmethod
    def has_tied_head(config: Any) -> bool:
        """Whether a config of transformers is that of a model with a tied head. Its `tie_word_embeddings` is always
        True; the value in config.json sets `scale_decoder_outputs`."""
        return getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Those of the base class, and the feed-forward network: "relu" or, if gated, "gated-gelu"."""
        act = "gelu" if config.hidden_act == "gelu_new" and config.mlp_gated else config.hidden_act
        projection = f"gated-{act}" if config.mlp_gated else act
        return {**super().fields_to_native(config), "feed_forward_proj": projection}

    def config_to_native(self, config: Any) -> PreTrainedConfig:
        """Convert our config to that of transformers, whose constructor changes `tie_word_embeddings`."""
        native: Any = super().config_to_native(config)
        native.n_positions = native.max_position_embeddings
        del native.max_position_embeddings
        native.tie_word_embeddings = native.scale_decoder_outputs = config.tie_word_embeddings
        return native

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including heads, embeddings and "gelu"."""
        reasons, name = super().export_incompatibilities(config), self.model_class.__name__
        if config.num_key_value_heads != config.num_attention_heads:
            reasons.append(
                f"num_key_value_heads is {config.num_key_value_heads}, {name} has as many as query heads, "
                f"{config.num_attention_heads}"
            )
        if not config.share_encoder_decoder_embeddings:
            reasons.append(f"share_encoder_decoder_embeddings is False, {name} has True")
        if config.mlp_gated and config.hidden_act == "gelu":
            reasons.append(f"hidden_act is 'gelu', {name} has 'gelu_new' with mlp_gated")
        return reasons

    def folds(self, config: Any) -> list[Fold]:
        """The factors of queries and, if the head is tied, of its inputs."""
        queries = Fold(r"\.q_proj\.weight$", factor=config.head_dim**0.5)
        states = Fold(r"^model\.decoder\.norm\.weight$", factor=config.hidden_size**-0.5)
        return [queries, states] if config.tie_word_embeddings else [queries]

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours."""
        return self.spread_shared(super().weights_from_native(weights, config), config)

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers."""
        native = super().weights_to_native(weights, config)
        if (shared := native.get("encoder.embed_tokens.weight")) is not None:
            native[self.shared_table] = shared
        return native

    def rename(self, weights: Weights, to_native: bool) -> Weights:
        """Rename the weights of a state dict, in either direction, with a table for each side."""
        gated = any("gate_proj" in name or "wi_0" in name for name in weights)
        encoder = {**ENCODER, **(GATED_MLP if gated else MLP)}
        decoder = {ours: re.sub(r"^layer\.1", "layer.2", theirs) for ours, theirs in encoder.items()}
        decoder = {**decoder, **CROSS_ATTENTION, "model.decoder": "decoder"}
        renamed = {}
        for name, weight in weights.items():
            table = decoder if "decoder" in name.split(".")[:2] else encoder
            table = table if to_native else {theirs: ours for ours, theirs in table.items()}
            pieces = sorted(table, key=len, reverse=True)  # a longer piece may begin with a shorter one
            pattern = "|".join(rf"(?<![\w]){re.escape(piece)}(?![\w])" for piece in pieces)
            renamed[re.sub(pattern, lambda match, table=table: table[match.group()], name)] = weight  # type: ignore[misc]
        return renamed


class T5Twin(T5StyleTwin):
    """T5 (arXiv:1910.10683), v1.1 and Flan: relative positions, RMSNorm and no biases; since v1.1 gated and with an
    untied head."""

    config_class, model_class = T5Config, T5ForConditionalGeneration


class MT5Twin(T5StyleTwin):
    """mT5: T5 v1.1 with a larger vocabulary, whose head is never tied."""

    config_class, model_class = MT5Config, MT5ForConditionalGeneration

    @staticmethod
    def has_tied_head(config: Any) -> bool:
        """False, although its config says True."""
        return False

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including a tied head."""
        reasons = super().export_incompatibilities(config)
        if config.tie_word_embeddings:
            reasons.append(f"tie_word_embeddings is True, {self.model_class.__name__} has False")
        return reasons


TWINS = (T5Twin(), MT5Twin())
