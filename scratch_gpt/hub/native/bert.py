"""Native twins of our encoder with the preset "bert": BERT with a masked-LM head or a classifier."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedConfig

from ...models.configuration_scratch_encoder import ScratchEncoderConfig
from ...models.modeling_scratch_encoder import ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification
from .twin import Twin, Weights

POSITIONS, TYPES = "model.embed_positions.weight", "bert.embeddings.token_type_embeddings.weight"


class EncoderTwin(Twin):
    """BERT adds a token type embedding to every token. Our encoder has a single type, whose embedding is added to the
    position embeddings."""

    preset = "bert"
    our_config_class, config_class = ScratchEncoderConfig, BertConfig
    fields = {
        **{name: name for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
        **{name: name for name in ("hidden_act", "initializer_range", "classifier_dropout")},
        **{name: name for name in ("id2label", "label2id", "problem_type")},
        "norm_eps": "layer_norm_eps",
        "residual_dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }
    trunk_names = {
        "model.embed_tokens": "bert.embeddings.word_embeddings",
        "model.embed_positions": "bert.embeddings.position_embeddings",
        "model.embedding_norm": "bert.embeddings.LayerNorm",
        "model.layers": "bert.encoder.layer",
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.o_proj": "attention.output.dense",
        "input_layernorm": "attention.output.LayerNorm",
        "mlp.up_proj": "intermediate.dense",
        "mlp.down_proj": "output.dense",
        "post_attention_layernorm": "output.LayerNorm",
    }
    copies: dict[str, str] = {}  # weights that BERT stores twice

    def config_from_native(self, config: PreTrainedConfig) -> Any:
        """Convert a config of transformers to ours; embedding and residual dropout are one field in BERT."""
        ours = super().config_from_native(config)
        ours.embedding_dropout = ours.residual_dropout
        return ours

    def import_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that our model does not support, including those of a decoder."""
        reasons = super().import_incompatibilities(config)
        if config.is_decoder or config.add_cross_attention:
            reasons.append("it is configured as a decoder, ours is an encoder")
        return reasons

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including attention heads."""
        return super().export_incompatibilities(config) + self.head_incompatibilities(config)

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours; the token type embedding is added to the positions."""
        kept = {name: weight for name, weight in weights.items() if name not in (TYPES, *self.copies)}
        ours = self.rename(kept, to_native=False)
        ours[POSITIONS] = ours[POSITIONS] + weights[TYPES][0]
        return ours

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with token type embeddings of zero."""
        native = self.rename(weights, to_native=True)
        native[TYPES] = torch.zeros(2, config.hidden_size, dtype=weights[POSITIONS].dtype)
        return native | {copy: native[original] for copy, original in self.copies.items()}


class BertMaskedLMTwin(EncoderTwin):
    """Twin of `ScratchEncoderForMaskedLM`: `BertForMaskedLM`."""

    our_model_class, model_class = ScratchEncoderForMaskedLM, BertForMaskedLM
    names = {
        **EncoderTwin.trunk_names,
        "transform.dense": "cls.predictions.transform.dense",
        "transform.norm": "cls.predictions.transform.LayerNorm",
        "lm_head": "cls.predictions.decoder",
    }
    # classifier_pooling and pooler are fields of another head
    adjustable_fields = frozenset({"classifier_pooling", "pooler"})
    copies = {"cls.predictions.bias": "cls.predictions.decoder.bias"}


class BertClassifierTwin(EncoderTwin):
    """Twin of `ScratchEncoderForSequenceClassification`: `BertForSequenceClassification`."""

    our_model_class, model_class = ScratchEncoderForSequenceClassification, BertForSequenceClassification
    names = {**EncoderTwin.trunk_names, "pooler.dense": "bert.pooler.dense"}
    adjustable_fields = frozenset({"masked_lm_transform", "lm_head_bias"})  # of another head


TWINS = (BertMaskedLMTwin(), BertClassifierTwin())
