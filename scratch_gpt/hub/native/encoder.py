"""Base class of the native twins of our encoder: of its trunk alone, with a masked-LM head, and with a classifier."""

from __future__ import annotations

from typing import Any, Literal

from transformers import PreTrainedModel

from ...models.configuration_scratch_encoder import ScratchEncoderConfig
from ...models.modeling_scratch_encoder import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
)
from .twin import Twin, origin_class

Head = Literal["trunk", "masked_lm", "classifier"]

OUR_CLASSES: dict[Head, type[PreTrainedModel]] = {
    "trunk": ScratchEncoderModel,
    "masked_lm": ScratchEncoderForMaskedLM,
    "classifier": ScratchEncoderForSequenceClassification,
}
MASKED_LM_FIELDS = frozenset({"masked_lm_transform", "lm_head_bias"})
POOLER_FIELDS = frozenset({"classifier_pooling", "pooler_activation", "pooler_norm"})
# Names of labels, in every class of transformers.
LABEL_FIELDS = {name: name for name in ("id2label", "label2id", "problem_type")}


class EncoderTwin(Twin):
    """A family of encoders of transformers. An instance is the twin of one of its classes.

    Args:
        head: which of our classes it is a twin of.
        model_class: model class of transformers.

    Attributes:
        prefix: name of the trunk in the classes of transformers that have a head.
        trunk_names: names of the modules of the trunk, ours to theirs, without the prefix.
        layer_names: names of the modules of a layer, ours to theirs.
        head_names: names of the modules of the heads, ours to theirs; they take precedence.
        trunk_has_pooler: whether the class of transformers without a head has a pooler.
    """

    our_config_class = ScratchEncoderConfig
    prefix: str
    trunk_names: dict[str, str]
    layer_names: dict[str, str]
    head_names: dict[Head, dict[str, str]]
    trunk_has_pooler = True

    def __init__(self, head: Head, model_class: type[PreTrainedModel]):
        self.head, self.model_class, self.our_model_class = head, model_class, OUR_CLASSES[head]
        ours, theirs = ("", "") if head == "trunk" else ("model.", f"{self.prefix}.")
        trunk = {f"{ours}{name}": f"{theirs}{native}" for name, native in self.trunk_names.items()}
        self.names = {**self.head_names.get(head, {}), **trunk, **self.layer_names}
        # Fields of other heads may have any value
        unused = POOLER_FIELDS | {"pooler"} if head == "masked_lm" else MASKED_LM_FIELDS
        if self.has_no_pooler:
            unused |= POOLER_FIELDS | {"head_bias"}
            self.fields = {ours: theirs for ours, theirs in self.fields.items() if ours not in unused}
        self.adjustable_fields = type(self).adjustable_fields | unused

    @property
    def has_no_pooler(self) -> bool:
        """Whether the class of transformers is a trunk without a pooler."""
        return self.head == "trunk" and not self.trunk_has_pooler

    def is_origin(self, config: Any) -> bool:
        """Whether the weights of a model with this config of ours were imported from this family of transformers, with
        any head: training may have replaced it."""
        family = self.config_class.__name__.removesuffix("Config")
        return origin_class(config) in {
            f"{family}{head}" for head in ("Model", "ForMaskedLM", "ForSequenceClassification")
        }

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Fields of our config that are computed from a config of transformers."""
        return {"pooler": False} if self.has_no_pooler else {}

    def architecture(self, config: Any) -> dict[str, Any]:
        """The values of our fields that the class of transformers has."""
        return super().architecture(config) | ({"pooler": False} if self.has_no_pooler else {})

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including attention heads."""
        return super().export_incompatibilities(config) + self.head_incompatibilities(config)

    def trunk_key(self, name: str) -> str:
        """The name of a weight of our trunk in our state dict."""
        return name if self.head == "trunk" else f"model.{name}"
