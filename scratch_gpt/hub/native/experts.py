"""Native twins of our GPT with experts: Mixtral, OLMoE and Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from .gpt import ROTARY_FIELDS, DecoderTwin
from .llama import FIELDS, HeadTwin, WindowTwin

EXPERT_FIELDS = {name: name for name in ("num_experts_per_tok", "router_aux_loss_coef")}


class ExpertsTwin(DecoderTwin):
    """Base class of twins in whose class every layer has experts."""

    def export_incompatibilities(self, config: Any) -> list[str]:
        """List the settings that the class of transformers does not support, including no experts."""
        reasons = super().export_incompatibilities(config)
        return reasons if config.num_experts else [*reasons, f"num_experts is 0, {self.model_class.__name__} has some"]


class MixtralTwin(ExpertsTwin, WindowTwin):
    """Mixtral (arXiv:2401.04088): Mistral with experts."""

    preset, since = "mixtral", "5.0"
    config_class, model_class = MixtralConfig, MixtralForCausalLM
    fields = {**FIELDS, **EXPERT_FIELDS, "head_dim": "head_dim", "num_experts": "num_local_experts"}


class OlmoeTwin(ExpertsTwin, HeadTwin):
    """OLMoE (arXiv:2409.02060): experts, and norms over all queries and all keys."""

    preset, since = "olmoe", "5.0"
    config_class, model_class = OlmoeConfig, OlmoeForCausalLM
    fields = {**FIELDS, **EXPERT_FIELDS, **{name: name for name in ("attention_bias", "num_experts", "norm_topk_prob")}}
    required = {"clip_qkv": (None,)}


class Qwen3MoeTwin(ExpertsTwin, WindowTwin):
    """Qwen3-MoE (arXiv:2505.09388): Qwen3 with experts."""

    preset, since = "qwen3_moe", "5.0"
    config_class, model_class = Qwen3MoeConfig, Qwen3MoeForCausalLM
    fields = {
        **ROTARY_FIELDS,
        **EXPERT_FIELDS,
        "intermediate_size": "moe_intermediate_size",
        "num_experts": "num_experts",
        "norm_topk_prob": "norm_topk_prob",
    }
    required = {"decoder_sparse_step": (1,), "mlp_only_layers": ([], None)}

    def fields_to_native(self, config: Any) -> dict[str, Any]:
        """The window of all layers."""
        return {**super().fields_to_native(config), "use_sliding_window": config.windowed}


TWINS = (MixtralTwin(), OlmoeTwin(), Qwen3MoeTwin())
