"""The config of the decoder-only model, and its presets."""

import math
from dataclasses import field
from typing import Any, Literal

from .compatibility import strict
from .configuration_block import TransformerBlockConfig
from .preset_descriptions import DECODERS

# A preset is a set of values of independent fields; the models do not know its name.
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "norm_type": "layer_norm",
        "norm_eps": 1e-5,
        "position_type": "learned",
        "hidden_act": "gelu_new",
        "mlp_gated": False,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "output_projection_init": "scaled",
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
    },
    "llama": {
        "norm_type": "rms_norm",
        "norm_eps": 1e-6,
        "position_type": "rotary",
        "hidden_act": "silu",
        "mlp_gated": True,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "output_projection_init": "normal",
    },
    "nanochat": {
        "norm_type": "rms_norm_without_weight",
        "norm_eps": 1e-6,
        "position_type": "rotary",
        "hidden_act": "relu2",
        "mlp_gated": False,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "output_projection_init": "zero",
        "embedding_norm": True,
        "qk_norm": True,
        "final_logit_softcapping": 15.0,
    },
}
PRESETS["nanochat_ngram"] = {**PRESETS["nanochat"], "ngram_buckets": 2**14}

GPT2, LLAMA = PRESETS["gpt2"], PRESETS["llama"]
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
GEMMA = {**LLAMA, "hidden_act": "gelu_new", "tie_word_embeddings": True}
NO_DROPOUT = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)
PARALLEL = {**GPT2, **NO_DROPOUT, "position_type": "rotary", "tie_word_embeddings": False, "parallel_residual": True}
# Presets that are named after a family of models; layer_types and no_rope_layers repeat over the layers.
PRESETS |= {
    "arcee": {**LLAMA, "hidden_act": "relu2", "mlp_gated": False},
    "gemma": GEMMA,
    "gemma2": {
        **GEMMA,
        "norm_position": "sandwich",
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3": {
        **GEMMA,
        "norm_position": "sandwich",
        "qk_norm": True,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "sliding_window": 512,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": dict(DEFAULT_ROPE),
        },
    },
    "gpt_neo": {
        **GPT2,
        "attention_bias": False,
        "attention_output_bias": True,
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 256,
        **NO_DROPOUT,
    },
    "gpt_neox": {**PARALLEL, "hidden_act": "gelu", "rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 0.25}},
    "gptj": {
        **PARALLEL,
        "parallel_shared_norm": True,
        "attention_bias": False,
        "lm_head_bias": True,
        "rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 0.25},
    },
    "mistral": {**LLAMA, "sliding_window": 4096},
    "mixtral": {**LLAMA, "num_experts": 8, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02},
    "olmo2": {**LLAMA, "norm_position": "branch", "qk_norm": True, "qk_norm_per_head": False},
    "olmoe": {
        **LLAMA,
        "qk_norm": True,
        "qk_norm_per_head": False,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "router_aux_loss_coef": 0.01,
    },
    "opt": {**GPT2, "hidden_act": "relu", "embedding_dropout": 0.0, "attention_dropout": 0.0},
    "phi": {
        **PARALLEL,
        "parallel_shared_norm": True,
        "lm_head_bias": True,
        "rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 0.5},
    },
    "qwen2": {**LLAMA, "attention_bias": True, "attention_output_bias": False},
    "qwen3": {**LLAMA, "qk_norm": True},
    "qwen3_moe": {**LLAMA, "qk_norm": True, "num_experts": 128, "num_experts_per_tok": 8},
    "smollm3": {**LLAMA, "tie_word_embeddings": True, "no_rope_layers": [1, 1, 1, 0]},
    "starcoder2": {
        **GPT2,
        "position_type": "rotary",
        "sliding_window": 4096,
        **NO_DROPOUT,
    },
}

# The class that each `AutoX.from_pretrained` loads from a checkpoint, in the model files that are saved with it.
AUTO_MAP = {
    "AutoConfig": "configuration_scratch_gpt.ScratchGPTConfig",
    "AutoModel": "modeling_scratch_gpt.ScratchGPTModel",
    "AutoModelForCausalLM": "modeling_scratch_gpt.ScratchGPTForCausalLM",
    # `transformers serve` loads custom models under this name only.
    "AutoModelForDecision": "modeling_scratch_gpt.ScratchGPTForCausalLM",
    "AutoModelForSequenceClassification": "modeling_scratch_gpt.ScratchGPTForSequenceClassification",
}


@strict
class ScratchGPTConfig(TransformerBlockConfig):
    """Config of `ScratchGPTModel` and its heads: the fields of `TransformerBlockConfig` and these. The defaults are
    GPT-2's architecture at 124M parameters.

    Args:
        num_hidden_layers: number of blocks.
        ngram_size: n of the n-gram embeddings: the n-gram of a token ends with the token itself.
        ngram_buckets: number of rows (a power of two) of the table of n-gram embeddings, which are added to the token
            embeddings (fastText's hashing, arXiv:1607.01759, in a language model); 0 disables them.
        final_logit_softcapping: c in logits = c tanh(logits / c) (Gemma 2, arXiv:2408.00118); None disables it.
        lm_head_bias: whether the head has a bias.
        use_cache: cache keys and values during generation.
    """

    model_type = "scratch_gpt"
    presets, preset_descriptions = PRESETS, DECODERS
    layer_fields = ("num_hidden_layers",)
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }
    base_model_fsdp_plan = {
        "embed_tokens": "free_full_weight",
        "layers.*": "free_full_weight",
        "norm": "keep_full_weight",
    }

    num_hidden_layers: int = 12
    ngram_size: int = 3
    ngram_buckets: int = 0
    final_logit_softcapping: float | int | None = None
    lm_head_bias: bool = False
    output_projection_init: Literal["normal", "scaled", "zero"] = "scaled"
    use_cache: bool = True
    auto_map: dict = field(default_factory=lambda: dict(AUTO_MAP))

    def __post_init__(self, **kwargs):
        if self.ngram_buckets:
            plan = {**type(self).base_model_fsdp_plan, "embed_ngrams": "free_full_weight"}
            self.base_model_fsdp_plan = plan  # type: ignore[misc]
        super().__post_init__(**kwargs)

    @property
    def num_residual_branches(self) -> int:
        """Number of residual branches between the embedding and the head."""
        return 2 * self.num_hidden_layers

    def violations(self) -> list[str]:
        """All violations, each with the invalid value and the expected one."""
        violations = super().violations()
        if self.final_logit_softcapping is not None and not 0 < self.final_logit_softcapping < math.inf:
            violations.append(f"final_logit_softcapping is {self.final_logit_softcapping}, want more than 0, or None")
        if self.windowed and self.sliding_window == 1:  # transformers' cache of a window of 1 keeps all tokens
            violations.append("sliding_window is 1, want at least 2 for sliding attention to earlier tokens")
        if not 2 <= self.ngram_size <= 8:
            violations.append(f"ngram_size is {self.ngram_size}, want 2 to 8")
        return violations


__all__ = ["AUTO_MAP", "PRESETS", "ScratchGPTConfig"]
