"""Native twins of our encoder with the preset "distilbert": DistilBERT."""

from __future__ import annotations

from typing import Any

from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
)

from .encoder import LABEL_FIELDS, EncoderTwin


class DistilBertTwin(EncoderTwin):
    """DistilBERT: BERT without token types, whose classifier has a pooler with ReLU. Sinusoidal positions are stored
    like learned ones, which they become."""

    preset = "distilbert"
    config_class = DistilBertConfig
    fields = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "initializer_range": "initializer_range",
        "residual_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        **LABEL_FIELDS,
    }
    prefix = "distilbert"
    trunk_names = {
        "embed_tokens": "embeddings.word_embeddings",
        "embed_positions": "embeddings.position_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "layers": "transformer.layer",
    }
    layer_names = {
        "self_attn.q_proj": "attention.q_lin",
        "self_attn.k_proj": "attention.k_lin",
        "self_attn.v_proj": "attention.v_lin",
        "self_attn.o_proj": "attention.out_lin",
        "input_layernorm": "sa_layer_norm",
        "mlp.up_proj": "ffn.lin1",
        "mlp.down_proj": "ffn.lin2",
        "post_attention_layernorm": "output_layer_norm",
    }
    head_names = {
        "masked_lm": {
            "transform.dense": "vocab_transform",
            "transform.norm": "vocab_layer_norm",
            "lm_head": "vocab_projector",
        },
        "classifier": {"model.pooler.dense": "pre_classifier"},
    }
    trunk_has_pooler = False

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Fields of our config that are computed: dropouts."""
        dropouts = {"embedding_dropout": config.dropout, "classifier_dropout": config.seq_classif_dropout}
        return super().fields_from_native(config) | dropouts

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Fields of the config of transformers that are computed: positions, and the dropout of the classifier."""
        dropout = config.residual_dropout if config.classifier_dropout is None else config.classifier_dropout
        return {"sinusoidal_pos_embds": False, "seq_classif_dropout": dropout}


TWINS = (
    DistilBertTwin("masked_lm", DistilBertForMaskedLM),
    DistilBertTwin("classifier", DistilBertForSequenceClassification),
    DistilBertTwin("trunk", DistilBertModel),
)
