"""Base class of native twins: the conversion between one of our presets and one class of transformers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ...models.configuration_block import ROPE_TYPES, TransformerBlockConfig
from ...models.feed_forward import ACTIVATIONS

Weights = dict[str, torch.Tensor]

# Fields with the same name in every class.
SHARED_FIELDS = (
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
# Fields that apply in training only, and may be lost in a conversion.
TRAINING_FIELDS = ("output_projection_init", "label_smoothing")


class Twin(ABC):
    """Conversion between one of our presets and a class of transformers.

    Attributes:
        preset: name of our preset.
        our_config_class: our config class.
        our_model_class: our model class.
        config_class: config class of transformers.
        model_class: model class of transformers.
        fields: config fields, our name to theirs, in addition to `SHARED_FIELDS`.
        names: parts of parameter names that differ, ours to theirs.
        adjustable_fields: fields of the preset that may differ, because the other class has a field for them.
        since: the oldest release of transformers that an exported model was tried in.
        note: what some releases need besides, in words.
    """

    preset: str
    our_config_class: type[TransformerBlockConfig]
    our_model_class: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    fields: dict[str, str]
    names: dict[str, str]
    adjustable_fields: frozenset[str]
    since, note = "4.56", ""

    def config_from_native(self, config: PreTrainedConfig) -> Any:
        """Convert a config of transformers to ours."""
        translated = {ours: getattr(config, theirs) for ours, theirs in self.fields.items() if hasattr(config, theirs)}
        shared = {name: getattr(config, name) for name in SHARED_FIELDS}
        return self.our_config_class.from_preset(self.preset, **shared, **translated)

    def config_to_native(self, config: Any) -> PreTrainedConfig:
        """Convert our config to that of transformers."""
        translated = {theirs: getattr(config, ours) for ours, theirs in self.fields.items()}
        return self.config_class(**{name: getattr(config, name) for name in SHARED_FIELDS}, **translated)

    def import_incompatibilities(self, config: PreTrainedConfig) -> list[str]:
        """List the settings of a config of transformers that our model does not support, as messages."""
        act = getattr(config, self.fields["hidden_act"])
        reasons = [] if act in ACTIVATIONS else [f"its activation is {act!r}, ours are {', '.join(ACTIVATIONS)}"]
        rope_type = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if rope_type not in ROPE_TYPES:
            reasons.append(f"its rope_type is {rope_type!r}, ours are {', '.join(ROPE_TYPES)}")
        return reasons

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings of our config that the class of transformers does not support, as messages."""
        required = {"norm_position": "pre", "embedding_norm": False, "qk_norm": False, "final_logit_softcapping": None}
        required["ngram_buckets"] = 0
        required |= self.our_config_class.presets[self.preset]
        reasons = [
            f"{name} is {getattr(config, name)!r}, {self.model_class.__name__} has {value!r}"
            for name, value in required.items()
            if name not in self.adjustable_fields
            and not name.endswith("_dropout")
            and name not in TRAINING_FIELDS
            and getattr(config, name, value) != value
        ]
        padding, size = config.pad_token_id, config.vocab_size
        if padding is not None and padding >= size:  # our embeddings need no row for it
            reasons.append(
                f"pad_token_id is {padding}, {self.model_class.__name__} wants less than {size} (vocab_size)"
            )
        return reasons

    def head_incompatibilities(self, config: Any) -> list[str]:
        """List unsupported settings of attention heads, for classes without grouped-query attention and head_dim."""
        name = self.model_class.__name__
        heads, reasons = config.num_attention_heads, []
        if config.num_key_value_heads != heads:
            reasons.append(
                f"num_key_value_heads is {config.num_key_value_heads}, {name} has as many as query heads, {heads}"
            )
        if config.head_dim != config.hidden_size // heads:
            reasons.append(f"head_dim is {config.head_dim}, {name} has hidden_size / num_attention_heads")
        return reasons

    @abstractmethod
    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours; `config` is our config."""

    @abstractmethod
    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers; `config` is our config."""

    def rename(self, weights: Weights, to_native: bool) -> Weights:
        """Rename the weights of a state dict, in either direction."""
        table = self.names if to_native else {theirs: ours for ours, theirs in self.names.items()}
        pattern = re.compile("|".join(rf"(?<![\w]){re.escape(piece)}(?![\w])" for piece in table))
        return {pattern.sub(lambda match: table[match.group()], name): weight for name, weight in weights.items()}
