"""Base classes of the native twins of our encoder-decoder."""

from __future__ import annotations

import re
from typing import Any

import torch

from ...errors import ScratchError
from ...models.configuration_scratch_seq2seq import ScratchSeq2SeqConfig
from ...models.modeling_scratch_seq2seq import ScratchSeq2SeqForConditionalGeneration
from .twin import Twin, Weights

# Weights whose columns, or rows, are indexed by the features of the residual stream.
COLUMNS_ARE_FEATURES = re.compile(r"(embed_tokens|lm_head|q_proj|k_proj|v_proj|up_proj)\.weight$")
ROWS_ARE_FEATURES = re.compile(r"((o_proj|down_proj)|layernorm|\.norm|embedding_norm)\.(weight|bias)$")
# Fields that the classes of transformers do not have, but their configs can carry.
CARRIED = ("source_lang", "target_lang", "both_directions", "target_tokenizer")


class Seq2SeqTwin(Twin):
    """Base class of the twins of `ScratchSeq2SeqForConditionalGeneration`.

    Attributes:
        shared_table: name of the matrix that embeddings and head share in the class of transformers.
    """

    our_config_class, our_model_class = ScratchSeq2SeqConfig, ScratchSeq2SeqForConditionalGeneration
    shared_table: str

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Languages, if the config of transformers carries them, and no label smoothing, which none of them has."""
        carried = {name: getattr(config, name) for name in CARRIED if hasattr(config, name)}
        return {**carried, "label_smoothing": 0.0}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Languages, if our config has them."""
        carried = {name: getattr(config, name) for name in CARRIED}
        return carried if any(carried.values()) else {}

    def spread_shared(self, weights: Weights, config: Any) -> Weights:
        """Replace the shared matrix of transformers, in weights with our names, by our embeddings and, if it is tied,
        our head. Those that the weights have already are copies, or not shared.

        Raises:
            ScratchError: an embedding or the head should be a copy, and differs.
        """
        weights = dict(weights)
        if (shared := weights.pop(self.shared_table, None)) is None:
            return weights
        for name, is_copy in (
            ("model.encoder.embed_tokens.weight", config.share_encoder_decoder_embeddings),
            ("model.decoder.embed_tokens.weight", config.share_encoder_decoder_embeddings),
            ("lm_head.weight", config.tie_word_embeddings),
        ):
            if is_copy and not torch.equal(weights.setdefault(name, shared), shared):
                raise ScratchError(
                    f"cannot import this {self.model_class.__name__}: its config ties embeddings and head, but "
                    f"{name.removeprefix('model.')} and {self.shared_table} differ: set tie_word_embeddings to False"
                )
        return weights


class BartStyleTwin(Seq2SeqTwin):
    """Base class of the twins whose class of transformers descends from that of BART: Marian, BART, mBART and Pegasus.
    These add a constant bias to the logits."""

    shared_table = "model.shared.weight"
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
        "decoder_start_token_id": "decoder_start_token_id",
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

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Those of the base class, dropout, the head's bias, and which embeddings are shared."""
        fields = {**super().fields_from_native(config), "embedding_dropout": config.dropout, "lm_head_bias": True}
        return {**fields, "share_encoder_decoder_embeddings": config.tie_word_embeddings}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Those of the base class, and the sizes of the decoder."""
        sizes = {"decoder_attention_heads": config.num_attention_heads, "decoder_ffn_dim": config.intermediate_size}
        return {**super().fields_to_native(config), **sizes}

    def import_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that our model does not support, including different sizes of encoder and decoder."""
        reasons = super().import_incompatibilities(config)
        for field in ("ffn_dim", "attention_heads"):
            seen = [getattr(config, f"{side}_{field}") for side in ("encoder", "decoder")]
            if seen[0] != seen[1]:
                reasons.append(f"its encoder_{field} is {seen[0]} and its decoder_{field} {seen[1]}, ours are equal")
        return reasons

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including heads and embeddings."""
        reasons = super().export_incompatibilities(config) + self.head_incompatibilities(config)
        return reasons + self.embedding_incompatibilities(config)

    def embedding_incompatibilities(self, config: Any) -> list[str]:
        """List unsupported settings of the embeddings, for classes that tie both of them and the head, or nothing."""
        name, reasons = self.model_class.__name__, []
        if config.decoder_vocab_size != config.vocab_size:
            reasons.append(
                f"decoder_vocab_size is {config.decoder_vocab_size}, {name} has vocab_size, {config.vocab_size}"
            )
        if config.tie_word_embeddings and not config.share_encoder_decoder_embeddings:
            reasons.append(f"share_encoder_decoder_embeddings is False, {name} with a tied head has True")
        return reasons

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours. The bias of the logits is that of the head; it is zero if a
        checkpoint has none."""
        kept = dict(weights)
        bias = kept.pop("final_logits_bias", None)
        ours = self.spread_shared(super().weights_from_native(kept, config), config)
        if (head := ours.get("lm_head.weight")) is not None:
            ours["lm_head.bias"] = head.new_zeros(len(head)) if bias is None else bias[0]
        return ours

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers; a head without bias adds zeros to the logits."""
        native = super().weights_to_native(weights, config)
        bias, head = native.pop("lm_head.bias", None), native.get("lm_head.weight")
        if head is not None:
            native["final_logits_bias"] = head.new_zeros(1, len(head)) if bias is None else bias[None]
            native[self.shared_table] = native["model.encoder.embed_tokens.weight"]
        return native


class SinesFirstTwin(BartStyleTwin):
    """Base class of the twins whose sinusoidal positions are all sines, then all cosines; ours alternate, as in the
    paper. Nothing else depends on the order of the features, so that reordering them in all weights makes the two
    models equal."""

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours, with the features in our order."""
        kept = {name: weight for name, weight in weights.items() if "embed_positions" not in name}
        return reorder(super().weights_from_native(kept, config), torch.argsort(sines_first(config.hidden_size)))

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with the features in its order."""
        return super().weights_to_native(reorder(weights, sines_first(config.hidden_size)), config)


def reorder(weights: Weights, order: torch.Tensor) -> Weights:
    """Reorder the features of the residual stream in all weights."""
    reordered = dict(weights)
    for name, weight in weights.items():
        if COLUMNS_ARE_FEATURES.search(name):
            reordered[name] = weight[..., order]
        elif ROWS_ARE_FEATURES.search(name):
            reordered[name] = weight[order]
    return reordered


def sines_first(size: int) -> torch.Tensor:
    """Indices of our features in the order of all sines, then all cosines: 0, 2, 4, …, 1, 3, 5, …"""
    return torch.arange(size).view(-1, 2).T.flatten()
