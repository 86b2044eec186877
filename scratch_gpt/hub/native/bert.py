"""Native twins of our encoder with the presets "bert" and "roberta": BERT, RoBERTa, XLM-RoBERTa and CamemBERT."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    CamembertConfig,
    CamembertForMaskedLM,
    CamembertForSequenceClassification,
    CamembertModel,
    PreTrainedConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from .encoder import LABEL_FIELDS, EncoderTwin
from .twin import ACTIVATION_NAMES, Weights


class BertTwin(EncoderTwin):
    """BERT. A model of ours without token types is exported with embeddings of zero for them."""

    preset = "bert"
    config_class: type[PreTrainedConfig] = BertConfig
    fields = {
        **{name: name for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
        **{name: name for name in ("hidden_act", "initializer_range", "classifier_dropout", "type_vocab_size")},
        **LABEL_FIELDS,
        "norm_eps": "layer_norm_eps",
        "residual_dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }
    required = {"is_decoder": (False,), "add_cross_attention": (False,), "position_embedding_type": ("absolute",)}
    prefix = "bert"
    trunk_names = {
        "embed_tokens": "embeddings.word_embeddings",
        "embed_token_types": "embeddings.token_type_embeddings",
        "embed_positions": "embeddings.position_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "layers": "encoder.layer",
        "pooler": "pooler",
    }
    layer_names = {
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.o_proj": "attention.output.dense",
        "input_layernorm": "attention.output.LayerNorm",
        "mlp.up_proj": "intermediate.dense",
        "mlp.down_proj": "output.dense",
        "post_attention_layernorm": "output.LayerNorm",
    }
    head_names = {
        "masked_lm": {
            "transform.dense": "cls.predictions.transform.dense",
            "transform.norm": "cls.predictions.transform.LayerNorm",
            "lm_head": "cls.predictions.decoder",
        }
    }
    default_types = 2  # number of token types of an exported model that has none
    head_bias, head_bias_copy = "cls.predictions.decoder.bias", "cls.predictions.bias"  # two names of one weight

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Fields of our config that are computed; embedding and residual dropout are one field in BERT."""
        return super().fields_from_native(config) | {"embedding_dropout": config.hidden_dropout_prob}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Fields of the config of transformers that are computed: the number of token types."""
        return {"type_vocab_size": config.type_vocab_size or self.default_types}

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours, in which the bias of the head has one name."""
        single = {name: weight for name, weight in weights.items() if name != self.head_bias_copy}
        return super().weights_from_native(single, config)

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with token types."""
        complete, positions = dict(weights), self.trunk_key("embed_positions.weight")
        if positions in weights and not config.type_vocab_size:
            types = weights[positions].new_zeros(self.default_types, config.hidden_size)
            complete[self.trunk_key("embed_token_types.weight")] = types
        native = super().weights_to_native(complete, config)
        if self.head_bias in native:
            native[self.head_bias_copy] = native[self.head_bias]
        return native


class RobertaTwin(BertTwin):
    """RoBERTa: BERT whose positions count from the id of padding, so that the position embeddings have rows that no
    token uses. They are omitted at import, and zero after export. Positions are those of tokens that are not padding:
    in RoBERTa by their ids, here by the attention mask. Its classifier has a pooler of its own."""

    preset = "roberta"
    config_class: type[PreTrainedConfig] = RobertaConfig
    prefix = "roberta"
    head_names = {
        "masked_lm": {
            "transform.dense": "lm_head.dense",
            "transform.norm": "lm_head.layer_norm",
            "lm_head": "lm_head.decoder",
        },
        "classifier": {"model.pooler.dense": "classifier.dense", "classifier": "classifier.out_proj"},
    }
    default_types = 1
    head_bias, head_bias_copy = "lm_head.decoder.bias", "lm_head.bias"

    def import_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that our model does not support."""
        return super().import_incompatibilities(config) + self.roberta_incompatibilities(
            config, 0 if config.pad_token_id is None else config.max_position_embeddings - config.pad_token_id - 1
        )

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support."""
        positions = config.max_position_embeddings
        return super().export_incompatibilities(config) + self.roberta_incompatibilities(config, positions)

    def roberta_incompatibilities(self, config: Any, positions: int) -> list[str]:
        """List unsupported settings of either config; `positions` is the number of position embeddings in use."""
        reasons, name = [], self.model_class.__name__
        if self.head == "masked_lm" and ACTIVATION_NAMES.get(config.hidden_act) != "gelu":
            reasons.append(f"hidden_act is {config.hidden_act!r}, the head of {name} has 'gelu' and ours the same")
        if config.pad_token_id is None:
            reasons.append(f"pad_token_id is None, but positions of {name} count from it")
        elif positions < 1:
            reasons.append(
                f"max_position_embeddings is {config.max_position_embeddings}, {name} wants more than pad_token_id + 1"
            )
        return reasons

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Fields of our config that are computed, including the number of positions."""
        positions = config.max_position_embeddings - config.pad_token_id - 1
        return super().fields_from_native(config) | {"max_position_embeddings": positions}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Fields of the config of transformers that are computed, including the number of positions."""
        positions = config.max_position_embeddings + config.pad_token_id + 1
        return super().fields_to_native(config) | {"max_position_embeddings": positions}

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours, without the rows of position embeddings that are not used."""
        ours, positions = super().weights_from_native(weights, config), self.trunk_key("embed_positions.weight")
        if positions in ours:
            ours[positions] = ours[positions][config.pad_token_id + 1 :]
        return ours

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with zeros for the position embeddings that are not used."""
        complete, positions = dict(weights), self.trunk_key("embed_positions.weight")
        if positions in weights:
            unused = weights[positions].new_zeros(config.pad_token_id + 1, config.hidden_size)
            complete[positions] = torch.cat((unused, weights[positions]))
        return super().weights_to_native(complete, config)


class XLMRobertaTwin(RobertaTwin):
    """XLM-RoBERTa: RoBERTa with a multilingual vocabulary."""

    config_class = XLMRobertaConfig


class CamembertTwin(RobertaTwin):
    """CamemBERT: RoBERTa with a French vocabulary."""

    config_class = CamembertConfig


TWINS = (
    BertTwin("masked_lm", BertForMaskedLM),
    BertTwin("classifier", BertForSequenceClassification),
    BertTwin("trunk", BertModel),
    RobertaTwin("masked_lm", RobertaForMaskedLM),
    RobertaTwin("classifier", RobertaForSequenceClassification),
    RobertaTwin("trunk", RobertaModel),
    XLMRobertaTwin("masked_lm", XLMRobertaForMaskedLM),
    XLMRobertaTwin("classifier", XLMRobertaForSequenceClassification),
    XLMRobertaTwin("trunk", XLMRobertaModel),
    CamembertTwin("masked_lm", CamembertForMaskedLM),
    CamembertTwin("classifier", CamembertForSequenceClassification),
    CamembertTwin("trunk", CamembertModel),
)
