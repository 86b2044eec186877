"""Native twin of our encoder-decoder with the preset "vaswani2017": Marian."""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import MarianConfig, MarianMTModel, PreTrainedConfig

from ...models.configuration_scratch_seq2seq import ScratchSeq2SeqConfig
from ...models.modeling_scratch_seq2seq import ScratchSeq2SeqForConditionalGeneration
from .twin import Twin, Weights

# Weights whose columns, or rows, are indexed by the features of the residual stream.
COLUMNS_ARE_FEATURES = re.compile(r"(embed_tokens|lm_head|q_proj|k_proj|v_proj|up_proj)\.weight$")
ROWS_ARE_FEATURES = re.compile(r"(o_proj|down_proj)\.(weight|bias)$|layernorm\.(weight|bias)$")
# Fields that Marian does not have, but its config can carry.
CARRIED = ("source_lang", "target_lang", "both_directions", "target_tokenizer")


class MarianTwin(Twin):
    """Marian's sinusoidal positions are all sines, then all cosines; ours alternate, as in the paper. Nothing else
    depends on the order of the features, so that reordering them in all weights makes the two models equal."""

    preset = "vaswani2017"
    note = " (5.0 to 5.2 with sentencepiece)"
    our_config_class, our_model_class = ScratchSeq2SeqConfig, ScratchSeq2SeqForConditionalGeneration
    config_class, model_class = MarianConfig, MarianMTModel
    fields = {
        "hidden_size": "d_model",
        "encoder_layers": "encoder_layers",
        "decoder_layers": "decoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim",
        "hidden_act": "activation_function",
        "residual_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "init_std",
        "scale_embedding": "scale_embedding",
        "decoder_vocab_size": "decoder_vocab_size",
        "decoder_start_token_id": "decoder_start_token_id",
        "share_encoder_decoder_embeddings": "share_encoder_decoder_embeddings",
    }
    names = {
        "o_proj": "out_proj",
        "cross_attn": "encoder_attn",
        "input_layernorm": "self_attn_layer_norm",
        "cross_attn_layernorm": "encoder_attn_layer_norm",
        "post_attention_layernorm": "final_layer_norm",
        "mlp.up_proj": "fc1",
        "mlp.down_proj": "fc2",
    }
    adjustable_fields = frozenset({"lm_head_bias"})

    def config_from_native(self, config: Any) -> ScratchSeq2SeqConfig:
        """Convert a config of transformers to ours, including languages and dropouts."""
        ours = super().config_from_native(config)
        for name in CARRIED:
            setattr(ours, name, getattr(config, name, getattr(ours, name)))
        if ours.source_lang and ours.target_lang:
            ours.set_languages(ours.source_lang, ours.target_lang, ours.both_directions)
        ours.embedding_dropout, ours.lm_head_bias, ours.label_smoothing = config.dropout, True, 0.0
        return ours

    def config_to_native(self, config: Any) -> PreTrainedConfig:
        """Convert our config to that of transformers, including languages."""
        native: Any = super().config_to_native(config)
        native.decoder_attention_heads, native.decoder_ffn_dim = config.num_attention_heads, config.intermediate_size
        native.forced_eos_token_id = None
        for name in CARRIED:
            setattr(native, name, getattr(config, name))
        # With an untied head, Marian shares no embeddings: source and target then get a copy each.
        native.share_encoder_decoder_embeddings &= config.tie_word_embeddings
        native.tie_word_embeddings &= config.tie_word_embeddings
        return native

    def import_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that our model does not support, including different sizes of encoder and decoder."""
        reasons = super().import_incompatibilities(config)
        for field in ("ffn_dim", "attention_heads"):
            seen = [getattr(config, f"{side}_{field}") for side in ("encoder", "decoder")]
            if seen[0] != seen[1]:
                reasons.append(f"its encoder_{field} is {seen[0]} and its decoder_{field} {seen[1]}, ours are equal")
        if config.share_encoder_decoder_embeddings and not config.tie_word_embeddings:
            reasons.append("it shares embeddings without tying them, which Marian leaves undefined")
        return reasons

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including attention heads."""
        return super().export_incompatibilities(config) + self.head_incompatibilities(config)

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours, with the features in our order."""
        kept = {n: w for n, w in weights.items() if "embed_positions" not in n and n != "model.shared.weight"}
        kept["lm_head.bias"] = kept.pop("final_logits_bias")[0]
        return self._reorder(self.rename(kept, to_native=False), torch.argsort(_sines_first(config.hidden_size)))

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with the features in Marian's order."""
        native = self.rename(self._reorder(weights, _sines_first(config.hidden_size)), to_native=True)
        bias = native.pop("lm_head.bias", None)
        head = native["lm_head.weight"]
        native["final_logits_bias"] = head.new_zeros(1, len(head)) if bias is None else bias[None]
        if config.share_encoder_decoder_embeddings and config.tie_word_embeddings:
            native["model.shared.weight"] = native["model.encoder.embed_tokens.weight"]
        return native

    @staticmethod
    def _reorder(weights: Weights, order: torch.Tensor) -> Weights:
        """Reorder the features of the residual stream in all weights."""
        reordered = dict(weights)
        for name, weight in weights.items():
            if COLUMNS_ARE_FEATURES.search(name):
                reordered[name] = weight[..., order]
            elif ROWS_ARE_FEATURES.search(name):
                reordered[name] = weight[order]
        return reordered


def _sines_first(size: int) -> torch.Tensor:
    """Indices of our features in Marian's order: 0, 2, 4, …, 1, 3, 5, …"""
    return torch.arange(size).view(-1, 2).T.flatten()


TWINS = (MarianTwin(),)
