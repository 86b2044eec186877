"""Native twin of our encoder-decoder with the preset "vaswani2017": Marian."""

from __future__ import annotations

from typing import Any

from transformers import MarianConfig, MarianMTModel

from .seq2seq import SinesFirstTwin
from .twin import Weights


class MarianTwin(SinesFirstTwin):
    """Marian, whose source and target can have their own vocabularies."""

    preset = "vaswani2017"
    note = " (5.0 to 5.2 with sentencepiece)"
    config_class, model_class = MarianConfig, MarianMTModel
    fields = {
        **SinesFirstTwin.fields,
        "decoder_vocab_size": "decoder_vocab_size",
        "share_encoder_decoder_embeddings": "share_encoder_decoder_embeddings",
    }

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Those of the base class, with the config's own setting of the shared embeddings."""
        share = config.share_encoder_decoder_embeddings
        return {**super().fields_from_native(config), "share_encoder_decoder_embeddings": share}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Those of the base class. With an untied head, Marian shares no embeddings: source and target then get a copy
        each."""
        tied = config.tie_word_embeddings
        embeddings = {"share_encoder_decoder_embeddings": config.share_encoder_decoder_embeddings and tied}
        return {**super().fields_to_native(config), **embeddings, "forced_eos_token_id": None}

    def import_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that our model does not support, including those that Marian leaves undefined."""
        reasons = super().import_incompatibilities(config)
        if config.share_encoder_decoder_embeddings and not config.tie_word_embeddings:
            reasons.append("it shares embeddings without tying them, which Marian leaves undefined")
        return reasons

    def embedding_incompatibilities(self, config: Any) -> list[str]:
        """None: Marian has all settings of the embeddings."""
        return []

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours; without shared embeddings, the shared matrix has no use."""
        kept = dict(weights)
        if not config.share_encoder_decoder_embeddings:
            kept.pop(self.shared_table, None)
        return super().weights_from_native(kept, config)

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, whose shared matrix exists with shared embeddings only."""
        native = super().weights_to_native(weights, config)
        if not (config.share_encoder_decoder_embeddings and config.tie_word_embeddings):
            native.pop(self.shared_table, None)
        return native


TWINS = (MarianTwin(),)
