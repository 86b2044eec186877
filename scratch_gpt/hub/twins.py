"""Native twins: the same weights in transformers' own classes, with the same logits.

`import_native` turns a `GPT2LMHeadModel`, `LlamaForCausalLM` or `NanoChatForCausalLM` into ours, `export_native` goes
back. An exported model needs no remote code. What the other side can't express is refused with the reason; dropouts
it has no field for are left out, since they act in training only.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    NanoChatConfig,
    NanoChatForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..errors import ScratchError
from ..models.configuration_block import ROPE_TYPES
from ..models.configuration_scratch_gpt import PRESETS, ScratchGPTConfig
from ..models.feed_forward import ACTIVATIONS
from ..models.modeling_scratch_gpt import ScratchGPTForCausalLM

Weights = dict[str, torch.Tensor]

SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "initializer_range",
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


# Ours -> theirs, alike in Llama and NanoChat.
ROTARY_FIELDS = {
    "intermediate_size": "intermediate_size",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "hidden_act": "hidden_act",
    "attention_bias": "attention_bias",
    "attention_dropout": "attention_dropout",
    "rope_parameters": "rope_parameters",
}


class Twin(ABC):
    """How one of our presets and one class of transformers translate into each other."""

    preset: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    fields: dict[str, str]  # ours -> theirs, beyond the shared ones
    names: dict[str, str]  # pieces of parameter names, ours -> theirs
    free: frozenset[str]  # fields of the preset that may differ, because the twin has a field for them

    def config_from_native(self, config: PreTrainedConfig) -> ScratchGPTConfig:
        translated = {ours: getattr(config, theirs) for ours, theirs in self.fields.items() if hasattr(config, theirs)}
        shared = {name: getattr(config, name) for name in SHARED_FIELDS}
        return ScratchGPTConfig.from_preset(self.preset, **shared, **translated)

    def config_to_native(self, config: ScratchGPTConfig) -> PreTrainedConfig:
        translated = {theirs: getattr(config, ours) for ours, theirs in self.fields.items()}
        return self.config_class(**{name: getattr(config, name) for name in SHARED_FIELDS}, **translated)

    def why_not_import(self, config: PreTrainedConfig) -> list[str]:
        """What our model has no field for, as readable reasons."""
        act = getattr(config, self.fields["hidden_act"])
        reasons = [] if act in ACTIVATIONS else [f"its activation is {act!r}, ours are {', '.join(ACTIVATIONS)}"]
        rope_type = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if rope_type not in ROPE_TYPES:
            reasons.append(f"its rope_type is {rope_type!r}, ours are {', '.join(ROPE_TYPES)}")
        return reasons

    def why_not_export(self, config: ScratchGPTConfig) -> list[str]:
        """What this twin has no field for, as readable reasons."""
        wanted = {"norm_position": "pre", "embedding_norm": False, "qk_norm": False, "final_logit_softcapping": None}
        wanted |= PRESETS[self.preset]
        return [
            f"{name} is {getattr(config, name)!r}, {self.model_class.__name__} has {value!r}"
            for name, value in wanted.items()
            if name not in self.free
            and not name.endswith("_dropout")
            and name != "output_projection_init"
            and getattr(config, name) != value
        ]

    @abstractmethod
    def weights_from_native(self, weights: Weights, config: ScratchGPTConfig) -> Weights: ...

    @abstractmethod
    def weights_to_native(self, weights: Weights, config: ScratchGPTConfig) -> Weights: ...

    def rename(self, weights: Weights, to_native: bool) -> Weights:
        """Replace the pieces of names that differ, in one direction or the other."""
        table = self.names if to_native else {theirs: ours for ours, theirs in self.names.items()}
        pattern = re.compile("|".join(rf"(?<![\w]){re.escape(piece)}(?![\w])" for piece in table))
        return {pattern.sub(lambda match: table[match.group()], name): weight for name, weight in weights.items()}


class LlamaTwin(Twin):
    """Llama has the same modules under the same names."""

    preset = "llama"
    config_class, model_class = LlamaConfig, LlamaForCausalLM
    fields = {**ROTARY_FIELDS, "mlp_bias": "mlp_bias"}
    names: dict[str, str] = {}
    free = frozenset({"norm_eps", "hidden_act", "attention_bias", "mlp_bias", "tie_word_embeddings"})

    def why_not_export(self, config: ScratchGPTConfig) -> list[str]:
        reasons = super().why_not_export(config)
        if config.hidden_size % config.num_attention_heads:
            reasons.append(
                f"num_attention_heads is {config.num_attention_heads}, LlamaForCausalLM wants a divisor of "
                f"hidden_size, which is {config.hidden_size}"
            )
        return reasons

    def weights_from_native(self, weights: Weights, config: ScratchGPTConfig) -> Weights:
        return weights

    def weights_to_native(self, weights: Weights, config: ScratchGPTConfig) -> Weights:
        return weights


class NanoChatTwin(Twin):
    """NanoChat turns queries and keys the other way round: swapping the halves of each head's rows undoes it."""

    preset = "nanochat"
    config_class, model_class = NanoChatConfig, NanoChatForCausalLM
    fields = {**ROTARY_FIELDS, "final_logit_softcapping": "final_logit_softcapping"}
    names = {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}
    free = frozenset({"norm_eps", "hidden_act", "attention_bias", "tie_word_embeddings", "final_logit_softcapping"})

    def swap_halves(self, weights: Weights, config: ScratchGPTConfig) -> Weights:
        assert config.head_dim is not None  # derived when the config was made
        swapped = dict(weights)
        for name, weight in weights.items():
            if "q_proj" in name or "k_proj" in name:
                heads = weight.unflatten(0, (-1, 2, config.head_dim // 2))  # (heads, halves, D/2, …)
                swapped[name] = heads.flip(1).reshape(weight.shape)
        return swapped

    def weights_from_native(self, weights: Weights, config: ScratchGPTConfig) -> Weights:
        return self.rename(self.swap_halves(weights, config), to_native=False)

    def weights_to_native(self, weights: Weights, config: ScratchGPTConfig) -> Weights:
        return self.rename(self.swap_halves(weights, config), to_native=True)


class GPT2Twin(Twin):
    """GPT-2 stores its matrices transposed (`Conv1D`), with query, key and value in one."""

    preset = "gpt2"
    config_class, model_class = GPT2Config, GPT2LMHeadModel
    fields = {
        "intermediate_size": "n_inner",
        "norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
        "embedding_dropout": "embd_pdrop",
        "attention_dropout": "attn_pdrop",
        "residual_dropout": "resid_pdrop",
    }
    names = {
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "self_attn.qkv_proj": "attn.c_attn",
        "self_attn.o_proj": "attn.c_proj",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    }
    free = frozenset({"norm_eps", "hidden_act", "tie_word_embeddings"})

    def why_not_import(self, config: PreTrainedConfig) -> list[str]:
        wanted = {
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
            "add_cross_attention": False,
        }
        return super().why_not_import(config) + [
            f"its {name} is {getattr(config, name)}, ours is always {value}"
            for name, value in wanted.items()
            if getattr(config, name) != value
        ]

    def why_not_export(self, config: ScratchGPTConfig) -> list[str]:
        reasons = super().why_not_export(config)
        if config.num_key_value_heads != config.num_attention_heads:
            reasons.append(
                f"num_key_value_heads is {config.num_key_value_heads}, GPT2LMHeadModel has as many as query heads, "
                f"{config.num_attention_heads}"
            )
        if config.head_dim != config.hidden_size // config.num_attention_heads:
            reasons.append(f"head_dim is {config.head_dim}, GPT2LMHeadModel has hidden_size / num_attention_heads")
        return reasons

    @staticmethod
    def transpose(weights: Weights) -> Weights:
        linear = re.compile(r"(qkv_proj|o_proj|up_proj|down_proj)\.weight$")
        return {name: w.T.contiguous() if linear.search(name) else w for name, w in weights.items()}

    def weights_from_native(self, weights: Weights, config: ScratchGPTConfig) -> Weights:
        ours: Weights = {}
        for name, weight in self.transpose(self.rename(weights, to_native=False)).items():
            if "qkv_proj" in name:
                for part, rows in zip(("q_proj", "k_proj", "v_proj"), weight.chunk(3), strict=True):
                    ours[name.replace("qkv_proj", part)] = rows
            else:
                ours[name] = weight
        return ours

    def weights_to_native(self, weights: Weights, config: ScratchGPTConfig) -> Weights:
        joined: Weights = {}
        for name, weight in weights.items():
            if "q_proj" in name:
                parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
                joined[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
            elif "k_proj" not in name and "v_proj" not in name:
                joined[name] = weight
        return self.rename(self.transpose(joined), to_native=True)


TWINS: tuple[Twin, ...] = (GPT2Twin(), LlamaTwin(), NanoChatTwin())


def import_native(model: PreTrainedModel) -> ScratchGPTForCausalLM:
    """Our model with the weights of a `GPT2LMHeadModel`, `LlamaForCausalLM` or `NanoChatForCausalLM`.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits agree within rounding.

    Raises:
        ScratchError: another class, or a setting that our model can't express.
    """
    twin = next((twin for twin in TWINS if isinstance(model, twin.model_class)), None)
    if twin is None:
        known = ", ".join(twin.model_class.__name__ for twin in TWINS)
        raise ScratchError(f"cannot import a {type(model).__name__}: known are {known}")
    _refuse(f"cannot import this {type(model).__name__}", twin.why_not_import(model.config))
    config = twin.config_from_native(model.config)
    weights = twin.weights_from_native(dict(model.state_dict()), config)
    return _filled(ScratchGPTForCausalLM(config), weights, model)


def export_native(model: PreTrainedModel) -> PreTrainedModel:
    """The plain transformers model with the weights of ours: GPT-2, Llama or NanoChat, whichever can express it.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits agree within rounding.

    Raises:
        ScratchError: no twin can express the model; the reasons are those of the nearest.
    """
    config: Any = model.config
    if config.model_type != ScratchGPTConfig.model_type:
        raise ScratchError(f"cannot export a {type(model).__name__}: only ScratchGPTForCausalLM has a twin")
    reasons, twin = min(((twin.why_not_export(config), twin) for twin in TWINS), key=lambda pair: len(pair[0]))
    _refuse("no model of transformers can express this one", reasons)
    weights = twin.weights_to_native(dict(model.state_dict()), config)
    return _filled(twin.model_class(twin.config_to_native(config)), weights, model)


def _refuse(what: str, reasons: list[str]) -> None:
    if reasons:
        raise ScratchError(f"{what}: {'; '.join(reasons)}")


def _filled(target: Any, weights: Weights, source: PreTrainedModel) -> Any:
    """`target` with copies of `weights`, and with the dtype and generation settings of `source`."""
    for parameter in target.parameters():  # not `target.to`, which would round the rotary frequencies too
        parameter.data = parameter.data.to(source.dtype)
    target.load_state_dict({name: weight.detach().cpu() for name, weight in weights.items()}, strict=True)
    target.tie_weights()
    target.generation_config = copy.deepcopy(source.generation_config)
    return target.eval()
