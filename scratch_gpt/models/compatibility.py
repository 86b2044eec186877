"""What differs between the releases of transformers that this code runs on; all other files are the same for all of
them. docs/reference/releases.md lists the releases that were tried.

| release | what changed | here |
| --- | --- | --- |
| 5.1 | `ALL_ATTENTION_FUNCTIONS.get_interface` | `attention_function` |
| 5.1 | `create_bidirectional_sliding_window_mask` | `create_bidirectional_masks` |
| 5.1 | `generate` passes a `DynamicCache` to the model, which created its own | `BaseGenerationMixin` |
| 5.2 | `check_model_inputs` became `merge_with_config_defaults` and `capture_outputs` | `trunk_forward` |
| 5.2 | `inputs_embeds` of masks was called `input_embeds` | `create_causal_masks`, `create_bidirectional_mask(s)` |
| 5.4 | tied weights of remote code are tied (5.3 left the head without data) | `BaseModel` |
| 5.4 | configs are dataclasses | `BaseConfig`, `strict` |
| 5.4 | caches count their tokens themselves, without `cache_position` | `update_cache`, `create_causal_masks` |
| 5.4 | the loops of `generate` do not pass `cache_position` to the model | `LOOP_INPUTS` |
| 5.13 | `get_max_cache_shape` of a cache layer is called `get_max_length` | `max_cache_length` |
| 5.17 | a theta beside rotary settings by layer type, as earlier releases add it, is an error | `by_layer_type` |
| 5.17 | `generate` marks caches that its caller passes | `BaseGenerationMixin` |
| 5.18 | beam search takes the size of the vocabulary from the logits, not from the config | `BaseGenerationMixin` |
| 5.20 | the model's generation config takes precedence over the pipeline's | `BaseGenerationMixin` |
| 5.21 | flash attention that can't cap scores raises an error (and ignored the cap before) | `SOFTCAPPING_ATTENTION` |
| 5.24 | the model updates a paged cache, not the attention function | `update_cache`, `create_causal_masks` |
| 5.24 | `past_key_values` of models, outputs and masks is called `cache` | `CACHE` and what uses it |
"""

import copy
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import transformers
from transformers.utils import logging
from transformers.utils.versions import require_version

OLDEST, NEWEST = (5, 0), (5, 24)
LAYER_TYPES = ("full_attention", "sliding_attention")  # those of transformers' caches and masks that the models use

# For users who load a model without the package: this file is imported before any name that older releases lack.
require_version(f"transformers>={OLDEST[0]}.{OLDEST[1]}", "Install it with: pip install -U transformers")

import torch
from transformers import masking_utils
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple

RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])
if RELEASE > NEWEST:
    logging.get_logger("transformers").warning_once(
        f"scratch_gpt was tried with transformers {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}, and this is "
        f"{transformers.__version__}: if something fails, install one of those"
    )

if RELEASE >= (5, 2):
    from transformers.utils.generic import merge_with_config_defaults
    from transformers.utils.output_capturing import OutputRecorder, capture_outputs

    def with_config_and_outputs(forward: Any) -> Any:
        """`forward` with defaults from the config, and with hidden states and attentions in its output on request."""
        return merge_with_config_defaults(capture_outputs(forward))

else:
    from transformers.utils.generic import OutputRecorder  # type: ignore[attr-defined,no-redef]  # of 5.0 and 5.1
    from transformers.utils.generic import check_model_inputs as with_config_and_outputs

# Name of the cache in the arguments of models and in their outputs.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"

# Arguments of the model that the loops of `generate` add to those of the caller.
LOOP_INPUTS: set[str] = {"cache_position"} if RELEASE < (5, 4) else set()

# Attention functions besides eager attention, by the beginnings of their names, that cap scores or raise an error.
SOFTCAPPING_ATTENTION = ("flex_attention", "flash_attention") if RELEASE >= (5, 21) else ("flex_attention",)

Forward = TypeVar("Forward", bound=Callable[..., Any])


def accepts_past_key_values(forward: Forward) -> Forward:
    """Let a `forward` with the argument `cache` accept it as `past_key_values` too. Its signature, which `generate`
    reads, has the name that this release uses.

    Raises:
        ValueError: from the decorated function, if it gets two caches.
    """
    signature = inspect.signature(forward)
    if "cache" not in signature.parameters:
        return forward

    @functools.wraps(forward)
    def wrapper(self, *args, **kwargs):
        if (cache := kwargs.pop("past_key_values", None)) is not None:
            if kwargs.get("cache") is not None:
                raise ValueError("the cache was given twice: give either cache or past_key_values")
            kwargs["cache"] = cache
        return forward(self, *args, **kwargs)

    renamed = [p.replace(name=CACHE) if p.name == "cache" else p for p in signature.parameters.values()]
    wrapper.__signature__ = signature.replace(parameters=renamed)  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def trunk_forward(forward: Forward) -> Forward:
    """Decorator of the `forward` of a trunk: it takes the cache under both names and `use_cache`, `return_dict`, … from
    the config, and returns the hidden states and attentions of all layers on request."""
    return accepts_past_key_values(with_config_and_outputs(forward))


def head_forward(forward: Forward) -> Forward:
    """Decorator of the `forward` of a model with a head: it takes the cache under both names, and returns a tuple if
    `return_dict` is false."""
    return accepts_past_key_values(can_return_tuple(forward))


def cache_argument(cache: Any) -> dict[str, Any]:
    """A cache as keyword argument of an output or a layer, under the name that this release uses."""
    return {CACHE: cache}


def cache_of(outputs: Any) -> Any:
    """The cache in the outputs of a model."""
    return getattr(outputs, CACHE)


def attention_function(config: Any, eager: Callable[..., Any]) -> Callable[..., Any]:
    """The attention function of `config._attn_implementation`; for "eager" the one given."""
    name = config._attn_implementation
    if RELEASE >= (5, 1):
        return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)
    return eager if name in (None, "eager") else ALL_ATTENTION_FUNCTIONS[name]


def max_cache_length(layer: Any) -> int:
    """Maximum length in tokens of a layer of a cache; -1 if there is none."""
    return layer.get_max_length() if hasattr(layer, "get_max_length") else layer.get_max_cache_shape()


def is_paged(cache: Any) -> bool:
    """Whether a cache is the paged one of continuous batching, which puts pieces of many sequences into one row."""
    return cache is not None and not isinstance(cache, Cache)


def update_cache(
    cache: Any, key: torch.Tensor, value: torch.Tensor, layer_idx: int, kwargs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Append keys and values of a layer, each (B, G, T, D), to a cache, and return all of them, each (B, G, S + T, D).

    Args:
        cache: a cache of transformers.
        key, value: of the new tokens.
        layer_idx: index of the layer.
        kwargs: keyword arguments of the attention function, in which continuous batching passes where to write; a
            paged cache updates them in place. Before 5.24 the attention function updates a paged cache, and gets it as
            keyword argument.
    """
    if RELEASE >= (5, 24):
        return cache.update(key, value, layer_idx, kwargs=kwargs)
    if is_paged(cache):
        kwargs["cache"] = cache
        return key, value
    if RELEASE >= (5, 4):
        return cache.update(key, value, layer_idx)
    positions = torch.arange(key.shape[2], device=key.device) + cache.get_seq_length(layer_idx)
    return cache.update(key, value, layer_idx, {"cache_position": positions})


def create_causal_masks(
    config: Any,
    inputs_embeds: torch.Tensor,
    attention_mask: Any,
    cache: Cache | None,
    position_ids: torch.Tensor | None = None,
) -> dict[str, Any]:
    """The masks of causal attention for each layer type of the model, in the form that its attention function takes.

    Args:
        config: the model's config.
        inputs_embeds: embeddings of the tokens (B, T, C).
        attention_mask: 1 for tokens and 0 for padding (B, cached tokens + T), or what this function returned.
        cache: keys and values of the tokens before these.
        position_ids: positions (B, T), which show packed documents if there is neither a mask nor a cache.
    """
    if isinstance(attention_mask, dict):
        return attention_mask
    arguments: dict[str, Any] = {"inputs_embeds" if RELEASE >= (5, 2) else "input_embeds": inputs_embeds}
    if RELEASE < (5, 24) and is_paged(cache):
        cache = None  # only the attention function gets it
    if RELEASE < (5, 4):
        cached = cache.get_seq_length() if cache is not None else 0
        arguments["cache_position"] = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + cached
    arguments |= {"config": config, "attention_mask": attention_mask, "position_ids": position_ids}
    create = {"full_attention": masking_utils.create_causal_mask}
    if config.layer_types is not None:
        windowed = {"sliding_attention": masking_utils.create_sliding_window_causal_mask}
        create = {name: function for name, function in (create | windowed).items() if name in config.layer_types}
    return {name: function(**arguments, **cache_argument(cache)) for name, function in create.items()}


def create_masks_for_generate(config: Any, **kwargs: Any) -> Any:
    """What `generate` calls before a compiled forward pass: the mask of a model, or one for each layer type in a dict.
    transformers' function of this name does not expect a config whose `layer_types` is None. Relative positions are
    added to the masks, so that none may be omitted."""
    if config.position_type == "relative":
        config = copy.copy(config)
        config._attn_implementation = "eager"  # whose masks are never omitted
    if config.layer_types is not None:
        return masking_utils.create_masks_for_generate(config=config, **kwargs)
    known = inspect.signature(masking_utils.create_causal_mask).parameters
    return masking_utils.create_causal_mask(config=config, **{k: v for k, v in kwargs.items() if k in known})


def create_bidirectional_mask(
    config: Any,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    encoder_hidden_states: torch.Tensor | None = None,
) -> Any:
    """The mask of bidirectional attention, in the form that the model's attention function takes.

    Args:
        config: the model's config.
        inputs_embeds: embeddings of the tokens that attend (B, T, C).
        attention_mask: 1 for tokens and 0 for padding (B, S).
        encoder_hidden_states: for cross-attention, the states that are attended to (B, S, C).
    """
    embeds = {"inputs_embeds" if RELEASE >= (5, 2) else "input_embeds": inputs_embeds}
    return masking_utils.create_bidirectional_mask(
        config=config, attention_mask=attention_mask, encoder_hidden_states=encoder_hidden_states, **embeds
    )


def create_bidirectional_masks(
    config: Any, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None
) -> dict[str, Any]:
    """The masks of bidirectional attention for each layer type of the model, in the form that its attention function
    takes. With sliding attention, a token attends to those at a distance of at most `config.sliding_window`.

    Args:
        config: the model's config.
        inputs_embeds: embeddings of the tokens (B, T, C).
        attention_mask: 1 for tokens and 0 for padding (B, T).
    """
    embeds = {"inputs_embeds" if RELEASE >= (5, 2) else "input_embeds": inputs_embeds}
    arguments = {"config": config, "attention_mask": attention_mask, **embeds}
    types, masks = config.layer_types or ("full_attention",), {}
    if "full_attention" in types:
        masks["full_attention"] = masking_utils.create_bidirectional_mask(**arguments)
    if "sliding_attention" in types and RELEASE >= (5, 1):
        masks["sliding_attention"] = masking_utils.create_bidirectional_sliding_window_mask(**arguments)
    elif "sliding_attention" in types:
        window = config.sliding_window
        arguments["and_mask_function"] = lambda batch, head, query, key: (query - key).abs() <= window
        masks["sliding_attention"] = masking_utils.create_bidirectional_mask(**arguments)
    return masks


if RELEASE == (5, 3):

    class BaseModel(PreTrainedModel):
        """`PreTrainedModel` that ties weights after loading. 5.3 takes a tied weight of remote code for one that the
        checkpoint contains, and then does not tie it."""

        def tie_weights(self, missing_keys: Any = None, recompute_mapping: bool = True) -> None:
            """Tie weights as outside of loading, without comparison with the weights in the checkpoint."""
            super().tie_weights(recompute_mapping=recompute_mapping)

else:
    BaseModel = PreTrainedModel  # type: ignore[misc,assignment]

if RELEASE >= (5, 20):
    BaseGenerationMixin = GenerationMixin
else:

    class BaseGenerationMixin(GenerationMixin):  # type: ignore[no-redef]
        """`GenerationMixin` with the behaviour of later releases."""

        # Calls of `super` ignore types: transformers annotates `self` as both a model and the mixin.
        config: Any

        def _prepare_generation_config(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
            """The default settings of the pipeline (sample up to 256 tokens) replaced by those of the model, if it has
            them."""
            pipelines = sys.modules.get("transformers.pipelines.text_generation")
            if pipelines and generation_config is pipelines.TextGenerationPipeline._default_generation_config:
                settings = generation_config.to_diff_dict() | self.generation_config.to_diff_dict()
                if not settings["do_sample"]:
                    settings.pop("temperature", None)
                generation_config = GenerationConfig(**settings)
            return super()._prepare_generation_config(generation_config, *args, **kwargs)  # type: ignore[misc]

        def _prepare_cache_for_generation(  # type: ignore[override]
            self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
        ) -> None:
            """Create a cache if there is none, and mark one that was passed to `generate`."""
            if model_kwargs.get(CACHE) is not None:
                model_kwargs[CACHE]._is_user_defined = True
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]
            if RELEASE > (5, 0) or not generation_config.use_cache or model_kwargs.get(CACHE) is not None:
                return
            if self._supports_default_dynamic_cache():  # type: ignore[misc]
                cache: Any = DynamicCache(config=self.config)
                if self.config.is_encoder_decoder:
                    cache = EncoderDecoderCache(cache, DynamicCache(config=self.config))
                model_kwargs[CACHE] = cache

        def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
            """Beam search of a model whose logits are those of a second vocabulary."""
            config = self.config
            logits = getattr(config, "decoder_vocab_size", None) or config.vocab_size
            if RELEASE >= (5, 18) or logits == config.vocab_size:
                return super()._beam_search(*args, **kwargs)  # type: ignore[misc]
            self.config = copy.copy(config)
            self.config.vocab_size = logits
            try:
                return super()._beam_search(*args, **kwargs)  # type: ignore[misc]
            finally:
                self.config = config


def by_layer_type(rope_parameters: dict) -> dict:
    """Rotary settings by layer type, without those that a release adds beside them."""
    return {name: value for name, value in rope_parameters.items() if isinstance(value, dict)}


if is_dataclass(PreTrainedConfig):
    from huggingface_hub.dataclasses import strict

    BaseConfig = PreTrainedConfig
else:
    from huggingface_hub.dataclasses import type_validator
    from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

    class BaseConfig(PreTrainedConfig):  # type: ignore[no-redef]
        """`PreTrainedConfig` with the interface that it has as a dataclass."""

        def __post_init__(self, **kwargs: Any) -> None:
            own = {field.name: getattr(self, field.name) for field in fields(self)}
            PreTrainedConfig.__init__(self, **own, **kwargs)
            try:
                self.validate_architecture()
            except ValueError as error:
                raise StrictDataclassClassValidationError("validate_architecture", error) from error

        def validate_architecture(self) -> None:
            """Check the values of all fields."""

    def strict(cls: Any) -> Any:  # type: ignore[no-redef]
        """Make a config a dataclass that checks the types of its arguments, and that accepts further keyword arguments,
        which `__post_init__` gets."""
        cls = dataclass(repr=False, eq=False)(cls)
        types = {field.name: field.type for field in fields(cls)}
        init = cls.__init__

        @functools.wraps(init)
        def wrapper(self: Any, **kwargs: Any) -> None:
            own = {name: kwargs.pop(name) for name in types if name in kwargs}
            for name, value in own.items():
                try:
                    type_validator(name, value, types[name])
                except (TypeError, ValueError) as error:
                    raise StrictDataclassFieldValidationError(name, error) from error
            post_init = type(self).__post_init__
            object.__setattr__(self, "__post_init__", functools.partial(post_init, self, **kwargs))
            init(self, **own)
            object.__delattr__(self, "__post_init__")

        cls.__init__ = wrapper
        return cls


__all__ = [
    "CACHE",
    "LAYER_TYPES",
    "LOOP_INPUTS",
    "SOFTCAPPING_ATTENTION",
    "BaseConfig",
    "BaseGenerationMixin",
    "BaseModel",
    "OutputRecorder",
    "accepts_past_key_values",
    "attention_function",
    "by_layer_type",
    "cache_argument",
    "cache_of",
    "create_bidirectional_mask",
    "create_bidirectional_masks",
    "create_causal_masks",
    "create_masks_for_generate",
    "head_forward",
    "is_paged",
    "max_cache_length",
    "strict",
    "trunk_forward",
    "update_cache",
]
