"""Base class of native twins: the conversion between one of our presets and one class of transformers."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from abc import ABC
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import ScratchError
from ...models.configuration_block import ROPE_TYPES, TransformerBlockConfig
from ...models.feed_forward import ACTIVATIONS

Weights = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Fold:
    """A setting of a class of transformers that is folded into our weights: ours = theirs * factor + offset.

    Attributes:
        pattern: regular expression of the names of the weights, in our model.
        factor, offset: numbers.
    """

    pattern: str
    factor: float = 1.0
    offset: float = 0.0


# Fields with the same name in every class.
SHARED_FIELDS = (
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
# Fields of our configs that do not change what is computed in evaluation mode, or that only say how large it is.
OTHER_FIELDS = frozenset(
    {
        *SHARED_FIELDS,
        *("hidden_size", "intermediate_size", "num_hidden_layers", "encoder_layers", "decoder_layers"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "decoder_vocab_size", "decoder_start_token_id"),
        *("num_experts_per_tok", "router_aux_loss_coef", "ngram_size"),
        *("relative_attention_num_buckets", "relative_attention_max_distance"),
        *("initializer_range", "output_projection_init", "label_smoothing", "use_cache", "auto_map", "imported_from"),
        *("source_lang", "target_lang", "both_directions", "target_tokenizer", "custom_pipelines"),
        *("is_encoder_decoder", "boundary_token_id", "rope_parameters", "share_encoder_decoder_embeddings"),
    }
)
# Fields that matter only if another one, or a property, is set.
DEPENDENT_FIELDS = {"qk_norm_per_head": "qk_norm", "norm_topk_prob": "num_experts", "sliding_window": "windowed"}
# Names of activation functions of transformers, and ours for the same function.
ACTIVATION_NAMES = {name: name for name in ACTIVATIONS} | {
    **{"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "gelu_python": "gelu"},
    **{"swish": "silu", "relu_squared": "relu2"},
}
# Entries of a config of transformers that do not describe the model.
NOT_OF_THE_MODEL = ("_name_or_path", "architectures", "dtype", "model_type", "torch_dtype", "transformers_version")


class Twin(ABC):
    """Conversion between one of our presets and a class of transformers.

    The methods that convert weights get those of one layer, or those outside of the layers, so that a large model can
    be converted piece by piece; what they need to know of the whole is in the config.

    Attributes:
        preset: name of our preset.
        our_config_class: our config class.
        our_model_class: our model class.
        config_class: config class of transformers.
        model_class: model class of transformers.
        fields: config fields, our name to theirs, in addition to `SHARED_FIELDS`.
        names: parts of parameter names that differ, ours to theirs.
        adjustable_fields: fields beside those in `fields` that may differ from the preset.
        required: settings of the class of transformers that our model supports with these values only, of which all
            mean the same.
        partial_rotary: whether the class of transformers can rotate a part of each head.
        rotary_by_layer_type: whether the class of transformers has rotary settings for each layer type.
        since: the oldest release of transformers that an exported model was tried in.
        note: what some releases need besides, in words.
    """

    preset: str
    our_config_class: type[TransformerBlockConfig]
    our_model_class: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    fields: dict[str, str]
    names: dict[str, str] = {}
    adjustable_fields: frozenset[str] = frozenset()
    required: dict[str, tuple[Any, ...]] = {}
    partial_rotary = rotary_by_layer_type = False
    since, note = "4.56", ""

    def config_from_native(self, config: PreTrainedConfig) -> Any:
        """Convert a config of transformers to ours, which keeps a copy of it in `imported_from`."""
        translated = {ours: getattr(config, theirs) for ours, theirs in self.fields.items() if hasattr(config, theirs)}
        if "hidden_act" in translated:
            translated["hidden_act"] = ACTIVATION_NAMES[translated["hidden_act"]]
        shared = {name: getattr(config, name) for name in SHARED_FIELDS if hasattr(config, name)}
        # Copies: constructors of configs change nested settings in place
        fields = copy.deepcopy({**shared, **translated, **self.fields_from_native(config)})
        return self.our_config_class.from_preset(self.preset, **fields, imported_from=self.origin(config))

    def fields_from_native(self, config: Any) -> dict[str, Any]:
        """Fields of our config that are computed from a config of transformers."""
        return {}

    def config_to_native(self, config: Any) -> PreTrainedConfig:
        """Convert our config to that of transformers. Settings that ours does not have, such as multipliers that were
        folded into the weights, are those of the model that the weights were imported from."""
        settings = self.native_settings(config)
        translated = {theirs: getattr(config, ours) for ours, theirs in self.fields.items()}
        act = self.fields.get("hidden_act", "")
        if ACTIVATION_NAMES.get(str(settings.get(act))) == config.hidden_act:
            translated[act] = settings[act]  # the name that the original has for it
        shared = {name: getattr(config, name) for name in SHARED_FIELDS}
        fields = {**settings, **shared, **translated, **self.fields_to_native(config)}
        return self.config_class(**copy.deepcopy(fields))  # constructors of configs change nested settings in place

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """Fields of the config of transformers that are computed from ours."""
        return {}

    def origin(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The value of `imported_from` for a model of transformers with this config."""
        settings = {name: value for name, value in config.to_diff_dict().items() if name not in NOT_OF_THE_MODEL}
        return {"class": self.model_class.__name__, "name_or_path": None, "config": settings}

    def is_origin(self, config: Any) -> bool:
        """Whether the weights of a model with this config of ours were imported from this class of transformers."""
        return origin_class(config) == self.model_class.__name__

    def native_settings(self, config: Any) -> dict[str, Any]:
        """The config of the model of this class of transformers that the weights were imported from; empty if they were
        not. A checkpoint may be untrusted: only settings that the class has are used, and it checks their values.

        Raises:
            ScratchError: they are not a config of the class.
        """
        if not self.is_origin(config):
            return {}
        known = set(inspect.signature(self.config_class.__init__).parameters) - set(NOT_OF_THE_MODEL)
        settings = {name: value for name, value in config.imported_from["config"].items() if name in known}
        try:
            self.config_class(**settings)
        except Exception as error:  # values that were tampered with can make any of them
            reason = " ".join(str(error).split())
            raise ScratchError(
                f"imported_from is not a config of {self.config_class.__name__}, remove it from config.json: {reason}"
            ) from error
        return settings

    def import_incompatibilities(self, config: PreTrainedConfig) -> list[str]:
        """List the settings of a config of transformers that our model does not support, as messages."""
        act = getattr(config, self.fields["hidden_act"]) if "hidden_act" in self.fields else None
        known = act is None or act in ACTIVATION_NAMES
        reasons = [] if known else [f"its activation is {act!r}, ours are {', '.join(ACTIVATIONS)}"]
        for rope in rotary_settings(getattr(config, "rope_parameters", None)):
            if (rope_type := rope.get("rope_type", "default")) not in ROPE_TYPES:
                reasons.append(f"its rope_type is {rope_type!r}, ours are {', '.join(ROPE_TYPES)}")
            if not self.partial_rotary and rope.get("partial_rotary_factor", 1.0) != 1:
                factor = rope["partial_rotary_factor"]
                reasons.append(f"its partial_rotary_factor is {factor}, which {self.model_class.__name__} ignores")
        return reasons + [
            f"its {name} is {getattr(config, name)!r}, ours is always {values[0]!r}"
            for name, values in self.required.items()
            if getattr(config, name, values[0]) not in values
        ]

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings of our config that the class of transformers does not support, as messages."""
        name_of_class = self.model_class.__name__
        free = OTHER_FIELDS | set(self.fields) | self.adjustable_fields
        free |= {name for name, condition in DEPENDENT_FIELDS.items() if not getattr(config, condition)}
        reasons = [
            f"{name} is {getattr(config, name)!r}, {name_of_class} has {value!r}"
            for name, value in self.architecture(config).items()
            if name not in free and not name.endswith("_dropout") and getattr(config, name) != value
        ]
        if config.position_type == "rotary":
            ropes = rotary_settings(config.rope_parameters)
            partial = [rope.get("partial_rotary_factor", 1.0) for rope in ropes]
            if not self.partial_rotary and any(factor != 1 for factor in partial):
                reasons.append(f"partial_rotary_factor is {min(partial)}, {name_of_class} rotates whole heads")
            if not self.rotary_by_layer_type and config.rotary_by_layer_type:
                reasons.append(f"rope_parameters has settings for each layer type, {name_of_class} has one for all")
        padding, size = config.pad_token_id, config.vocab_size
        if padding is not None and padding >= size:  # our embeddings need no row for it
            reasons.append(f"pad_token_id is {padding}, {name_of_class} wants less than {size} (vocab_size)")
        return reasons

    def architecture(self, config: Any) -> dict[str, Any]:
        """The values of our fields that the class of transformers has: those of the preset, and of a plain GPT for the
        fields that the preset does not set."""
        classes = (self.our_config_class, TransformerBlockConfig)  # the defaults of the second one take precedence
        values = {
            field.name: field.default
            for cls in classes
            for field in dataclasses.fields(cls)
            if any(field.name in declaring.__annotations__ for declaring in classes)
        }
        values |= self.our_config_class.presets[self.preset]
        if values["attention_output_bias"] is None:
            values["attention_output_bias"] = config.attention_bias
        return {name: value for name, value in values.items() if value is not dataclasses.MISSING}

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

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours; `config` is our config."""
        ours = self.rename(weights, to_native=False)
        for fold in self.folds(config):
            for name in [name for name in ours if re.search(fold.pattern, name)]:
                ours[name] = fold_dtype(ours[name], widen(ours[name]) * fold.factor + fold.offset)
        return ours

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers; `config` is our config."""
        native = dict(weights)
        for fold in reversed(self.folds(config)):
            for name in [name for name in native if re.search(fold.pattern, name)]:
                native[name] = fold_dtype(native[name], (widen(native[name]) - fold.offset) / fold.factor)
        return self.rename(native, to_native=True)

    def folds(self, config: Any) -> list[Fold]:
        """What is folded into our weights, in this order; `config` is our config."""
        return []

    def rename(self, weights: Weights, to_native: bool) -> Weights:
        """Rename the weights of a state dict, in either direction."""
        table = self.names if to_native else {theirs: ours for ours, theirs in self.names.items()}
        if not table:
            return weights
        pattern = re.compile("|".join(rf"(?<![\w]){re.escape(piece)}(?![\w])" for piece in table))
        return {pattern.sub(lambda match: table[match.group()], name): weight for name, weight in weights.items()}


def origin_class(config: Any) -> str | None:
    """The class of transformers that the weights of a model with this config of ours were imported from, or None."""
    return (getattr(config, "imported_from", None) or {}).get("class")


def rotary_settings(parameters: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The settings of rotary positions: one, or one for each layer type."""
    nested = [value for value in (parameters or {}).values() if isinstance(value, dict)]
    return nested or [parameters or {}]


def widen(weight: torch.Tensor) -> torch.Tensor:
    """A weight in float32, or in float64 if it is."""
    return weight if weight.dtype.itemsize >= 4 else weight.float()


def fold_dtype(weight: torch.Tensor, folded: torch.Tensor) -> torch.Tensor:
    """A folded weight in the dtype of the original. Vectors are in float32: in 16 bits, norm weights around 1 have far
    fewer digits than the deviations from 1 that some classes store."""
    return folded if weight.ndim == 1 else folded.to(weight.dtype)


def join_rows(weights: Weights, parts: tuple[str, ...], joined: str) -> Weights:
    """Join the rows of the weights whose names contain one of `parts` to one weight, whose name contains `joined`."""
    result: Weights = {}
    for name, weight in weights.items():
        if parts[0] in name:
            rows = [weights[name.replace(parts[0], part)] for part in parts]
            result[name.replace(parts[0], joined)] = torch.cat(rows)
        elif not any(part in name for part in parts):
            result[name] = weight
    return result


def split_rows(weights: Weights, joined: str, parts: tuple[str, ...], sizes: list[int] | None = None) -> Weights:
    """The inverse of `join_rows`.

    Args:
        weights: a state dict.
        joined: part of the names of the weights to split.
        parts: what replaces it in the names of the results.
        sizes: number of rows of each result; None if they are equal.
    """
    result: Weights = {}
    for name, weight in weights.items():
        if joined in name:
            rows = weight.chunk(len(parts)) if sizes is None else weight.split(sizes)
            result |= {name.replace(joined, part): some for part, some in zip(parts, rows, strict=True)}
        else:
            result[name] = weight
    return result
