"""Architectures of llama.cpp: the class of transformers that each is written from, and what it has of its settings.

llama.cpp computes some settings in one way only, and ignores others. A model with another setting is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from ...errors import ScratchError
from ..native import experts, gemma, gpt, gpt_like, llama
from ..native.convert import NoNativeClassError, is_native, native_twin
from ..native.gpt_like import rotated_features
from ..native.twin import Twin, origin_class, rotary_settings
from .gguf_weights import (
    Change,
    add_one_to_norms,
    interleave_heads,
    scale_queries,
    scale_query_norms,
    separate_queries,
    transpose_matrices,
)

# Types of rotary positions that llama.cpp has, and their settings that are written.
ROPE_FIELDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
WITHOUT_LLAMA3 = ("default", "linear", "yarn")  # of architectures that read no factors of the frequencies
NO_ROPE_PERIOD = 4  # in llama.cpp, every fourth layer of SmolLM3 has no positions


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp.

    The functions get the config in our class, whose fields have the same names for all classes of transformers, and, if
    they need it, the config of the class of transformers.

    Attributes:
        twin: the conversion from and to the class of transformers.
        name: its name in GGUF files.
        required: fields of our config with the only values that the architecture has.
        rope_types: types of rotary positions that it has.
        limits: functions that say why a config is not supported, or return None.
        keys: hyperparameters besides those that all have, by the names of the methods of `GGUFWriter`.
        changes: how its weights differ from those of the class of transformers, in this order.
        separate_head: whether a file must have the weights of the head, even if they are those of the embeddings.
    """

    twin: Twin
    name: str
    required: dict[str, tuple[Any, ...]]
    rope_types: tuple[str, ...] = WITHOUT_LLAMA3
    limits: tuple[Callable[[Any], str | None], ...] = ()
    keys: Callable[[Any, Any], dict[str, Any]] = field(default=lambda native, config: {})
    changes: tuple[Change, ...] = ()
    separate_head: bool = False

    def violations(self, config: Any) -> list[str]:
        """What llama.cpp does not have of a config of ours, as messages."""
        has = f"the architecture {self.name} of llama.cpp has"
        found = [
            f"{name} is {getattr(config, name)!r}, {has} {' or '.join(map(repr, values))}"
            for name, values in self.required.items()
            if getattr(config, name) not in values
        ]
        found += [reason for limit in self.limits if (reason := limit(config))]
        for rope in rotary_settings(config.rope_parameters) if config.position_type == "rotary" else ():
            rope_type = rope.get("rope_type", "default")
            known = {"rope_type", "rope_theta", "partial_rotary_factor", *ROPE_FIELDS.get(rope_type, ())}
            others = sorted(name for name, value in rope.items() if name not in known and value)
            if rope_type not in self.rope_types:
                found.append(f"rope_type is {rope_type!r}, {has} {', '.join(self.rope_types)}")
            elif others:
                found.append(f"rope_parameters has {', '.join(others)}, which is not exported for {rope_type!r}")
        return found

    def native_violations(self, native: Any) -> list[str]:
        """What llama.cpp or our classes do not have of a config of the class of transformers, as messages."""
        return self.twin.import_incompatibilities(native) or self.violations(self.twin.config_from_native(native))

    def hyperparameters(self, native: Any) -> Iterator[tuple[str, Any]]:
        """Names of methods of `GGUFWriter` without `add_`, and their arguments.

        Args:
            native: the config of the class of transformers.
        """
        config = self.twin.config_from_native(native)
        yield "vocab_size", config.vocab_size
        yield "context_length", config.max_position_embeddings
        yield "embedding_length", config.hidden_size
        yield "block_count", config.num_hidden_layers
        yield "feed_forward_length", config.intermediate_size
        yield "head_count", config.num_attention_heads
        yield "head_count_kv", config.num_key_value_heads
        yield "key_length", config.head_dim
        yield "value_length", config.head_dim
        yield ("layer_norm_rms_eps" if config.norm_type.startswith("rms") else "layer_norm_eps"), config.norm_eps
        if config.num_experts:
            yield "expert_count", config.num_experts
            yield "expert_used_count", config.num_experts_per_tok
        if config.position_type == "rotary":
            yield from _rotary_keys(config)
        yield from self.keys(native, config).items()


def _rotary_keys(config: Any) -> Iterator[tuple[str, Any]]:
    """Hyperparameters of rotary positions, those of the layers with full attention if they differ."""
    from gguf import RopeScalingType

    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    yield "rope_dimension_count", rotated_features(config)
    yield "rope_freq_base", rope["rope_theta"]
    if rope["rope_type"] in ("linear", "yarn"):
        original = rope.get("original_max_position_embeddings")
        yield "rope_scaling_type", RopeScalingType(rope["rope_type"])
        yield "rope_scaling_factor", rope["factor"]
        yield "rope_scaling_orig_ctx_len", original or config.max_position_embeddings


def no_window(config: Any) -> str | None:
    """Layers attend to all tokens in llama.cpp."""
    if not config.windowed or config.sliding_window >= config.max_position_embeddings:
        return None
    return (
        f"sliding_window is {config.sliding_window} and max_position_embeddings {config.max_position_embeddings}: this "
        "architecture of llama.cpp attends to all tokens, want a window of all positions or none"
    )


def window_period(config: Any) -> int:
    """P, if every P-th layer has full attention, as far as the first such layer tells; more than the number of layers
    if none has."""
    types = config.layer_types or ["full_attention"] * config.num_hidden_layers
    return next((i + 1 for i, name in enumerate(types) if name == "full_attention"), len(types) + 1)


def periodic_windows(config: Any) -> str | None:
    """All layers but every P-th have sliding attention in llama.cpp."""
    period = window_period(config)
    types = [
        "full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(config.num_hidden_layers)
    ]
    if (config.layer_types or types) == types:
        return None
    return (
        f"layer_types is {config.layer_types}, llama.cpp has full attention in every n-th layer and windows in others"
    )


def some_window(config: Any) -> str | None:
    """A layer must have a window in llama.cpp, which otherwise ends with an error."""
    return None if config.windowed else "layer_types has no sliding_attention, llama.cpp wants it in a layer"


def unscaled_windows(config: Any) -> str | None:
    """Layers with windows have rotary positions without scaling in llama.cpp."""
    rope_type = config.rope_parameters.get("sliding_attention", {}).get("rope_type", "default")
    return (
        None if rope_type == "default" else f"rope_type of sliding_attention is {rope_type!r}, llama.cpp has 'default'"
    )


def no_rope_in_every_fourth(config: Any) -> str | None:
    """Every fourth layer has no positions in llama.cpp."""
    layers = [int((i + 1) % NO_ROPE_PERIOD != 0) for i in range(config.num_hidden_layers)]
    found = config.no_rope_layers or [1] * config.num_hidden_layers
    return None if found == layers else f"no_rope_layers is {found}, llama.cpp has {layers}"


def full_key_value_heads(config: Any) -> str | None:
    """There are as many key-value heads as query heads in llama.cpp."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    return (
        None if heads == groups else f"num_key_value_heads is {groups}, llama.cpp has as many as query heads, {heads}"
    )


def capped(name: str) -> Callable[[Any], str | None]:
    """Attention scores or logits are always capped in llama.cpp."""
    return lambda config: f"{name} is None, llama.cpp has a number" if getattr(config, name) is None else None


def multipliers(native: Any, config: Any) -> dict[str, Any]:
    """Keys of Granite."""
    return {
        "logit_scale": native.logits_scaling,
        "residual_scale": native.residual_multiplier,
        "embedding_scale": native.embedding_multiplier,
        "attention_scale": native.attention_multiplier,
    }


def window_keys(native: Any, config: Any) -> dict[str, Any]:
    """Keys of Gemma 2 and 3."""
    keys: dict[str, Any] = {}
    if config.windowed:
        keys["sliding_window"] = config.sliding_window
    keys["sliding_window_pattern"] = window_period(config)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (cap := getattr(config, name)) is not None:
            keys[name] = cap
    if "sliding_attention" in config.rope_parameters:
        keys["rope_freq_base_swa"] = config.rope_parameters["sliding_attention"]["rope_theta"]
    return keys


def expert_keys(native: Any, config: Any) -> dict[str, Any]:
    """Keys of Qwen3-MoE."""
    return {"expert_feed_forward_length": config.intermediate_size}


def residual_keys(native: Any, config: Any) -> dict[str, Any]:
    """Keys of GPT-NeoX."""
    return {"parallel_residual": config.parallel_residual}


def no_window_key(native: Any, config: Any) -> dict[str, Any]:
    """Keys of Phi-3: without one, older versions of llama.cpp assume the window of Phi-3-mini."""
    return {"sliding_window": 0}


SILU, GELU = {"hidden_act": ("silu",)}, {"hidden_act": ("gelu_new",)}
WITHOUT_BIAS = {"attention_bias": (False,)}
TIED = {"tie_word_embeddings": (True,)}

ARCHITECTURES = (
    Architecture(gpt.GPT2Twin(), "gpt2", GELU, changes=(transpose_matrices,)),
    Architecture(gpt.LlamaTwin(), "llama", SILU, tuple(ROPE_FIELDS), changes=(interleave_heads,)),
    Architecture(llama.MistralTwin(), "llama", SILU, tuple(ROPE_FIELDS), (no_window,), changes=(interleave_heads,)),
    Architecture(experts.MixtralTwin(), "llama", SILU, tuple(ROPE_FIELDS), (no_window,), changes=(interleave_heads,)),
    Architecture(
        llama.GraniteTwin(), "granite", SILU, tuple(ROPE_FIELDS), keys=multipliers, changes=(interleave_heads,)
    ),
    Architecture(
        llama.ArceeTwin(),
        "arcee",
        {"hidden_act": ("relu2",), "mlp_bias": (False,), **WITHOUT_BIAS},
        tuple(ROPE_FIELDS),
        changes=(interleave_heads,),
    ),
    Architecture(
        llama.SmolLM3Twin(),
        "smollm3",
        {**SILU, **WITHOUT_BIAS, "mlp_bias": (False,)},
        limits=(no_window, no_rope_in_every_fourth),
        changes=(interleave_heads,),
    ),
    Architecture(llama.Qwen2Twin(), "qwen2", SILU, limits=(no_window,)),
    Architecture(llama.Qwen3Twin(), "qwen3", {**SILU, **WITHOUT_BIAS}, limits=(no_window,)),
    Architecture(
        experts.Qwen3MoeTwin(),
        "qwen3moe",
        {**SILU, **WITHOUT_BIAS, "norm_topk_prob": (True,)},
        limits=(no_window,),
        keys=expert_keys,
    ),
    Architecture(llama.Olmo2Twin(), "olmo2", {**SILU, **WITHOUT_BIAS}, separate_head=True),
    Architecture(
        experts.OlmoeTwin(),
        "olmoe",
        {**SILU, **WITHOUT_BIAS, "norm_topk_prob": (False,)},
        limits=(full_key_value_heads,),
        separate_head=True,
    ),
    Architecture(llama.Phi3Twin(), "phi3", SILU, ("default",), (no_window,), no_window_key),
    Architecture(llama.Starcoder2Twin(), "starcoder2", {**GELU, "mlp_bias": (True,)}, limits=(no_window,)),
    Architecture(gpt_like.PhiTwin(), "phi2", {**GELU, "qk_norm": (False,)}, separate_head=True),
    Architecture(
        gpt_like.GPTNeoXTwin(),
        "gptneox",
        {"hidden_act": ("gelu_new", "gelu"), "attention_bias": (True,)},  # Pythia's exact GELU is approximated
        keys=residual_keys,
        changes=(separate_queries,),
        separate_head=True,
    ),
    Architecture(gemma.GemmaTwin(), "gemma", {**GELU, **WITHOUT_BIAS, **TIED}, changes=(add_one_to_norms,)),
    Architecture(
        gemma.Gemma2Twin(),
        "gemma2",
        {**GELU, **WITHOUT_BIAS, **TIED},
        limits=(some_window, periodic_windows, capped("attn_logit_softcapping"), capped("final_logit_softcapping")),
        keys=window_keys,
        changes=(add_one_to_norms, scale_queries),
    ),
    Architecture(
        gemma.Gemma3Twin(),
        "gemma3",
        {**GELU, **WITHOUT_BIAS},
        ("default", "linear"),
        (periodic_windows, unscaled_windows),
        window_keys,
        (add_one_to_norms, scale_query_norms),
    ),
)
SUPPORTED = ", ".join(dict.fromkeys(architecture.twin.model_class.__name__ for architecture in ARCHITECTURES))


def find_architecture(model: PreTrainedModel) -> tuple[Architecture, Any]:
    """The architecture of llama.cpp for a model of ours or of transformers.

    Returns:
        The architecture, and the model's config in its class of transformers.

    Raises:
        ScratchError: there is none, or it computes one of the model's settings in another way.
    """
    candidates = [
        (architecture, architecture.twin.config_to_native(model.config)) for architecture in _expressible(model)
    ]
    if is_native(model):
        candidates = [(entry, model.config) for entry in ARCHITECTURES if isinstance(model, entry.twin.model_class)]
    if not candidates:
        raise ScratchError(f"llama.cpp has no architecture for {_class_name(model)}: supported are {SUPPORTED}")
    reasons = [entry.native_violations(config) for entry, config in candidates]
    fewest = min(range(len(candidates)), key=lambda i: len(reasons[i]))
    if reasons[fewest]:
        name = candidates[fewest][0].twin.model_class.__name__
        raise ScratchError(f"llama.cpp can't run this {name}: {'; '.join(reasons[fewest])}")
    return candidates[fewest]


def _expressible(model: Any) -> list[Architecture]:
    """The architectures whose class of transformers can express one of our models: first the one that it comes from."""
    origin = origin_class(model.config)
    found = [
        entry
        for entry in ARCHITECTURES
        if entry.twin.our_model_class.__name__ == type(model).__name__
        and not entry.twin.export_incompatibilities(model.config)
    ]
    return sorted(found, key=lambda entry: entry.twin.model_class.__name__ != origin)


def _class_name(model: PreTrainedModel) -> str:
    """The class of transformers of a model, for an error.

    Raises:
        ScratchError: one of our models has none.
    """
    try:
        return f"a {(type(model) if is_native(model) else native_twin(model).model_class).__name__}"
    except NoNativeClassError as error:
        raise ScratchError(f"llama.cpp has no architecture for this model: {error}") from error
