"""The config of a transformer block: the fields that GPT, encoder-decoder and encoder have in common."""

import math
from typing import Any, ClassVar, Literal

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .compatibility import BaseConfig, strict

ROPE_TYPES = ("default", *ROPE_INIT_FUNCTIONS)


@strict
class TransformerBlockConfig(BaseConfig):
    """Config of `TransformerBlock` and of the embeddings. Each model's config adds its own fields.

    Args:
        vocab_size: number of tokens, at least the tokenizer's length.
        hidden_size: hidden size, the model width (C).
        intermediate_size: width of the feed-forward network; by default 4 C or, if it is gated, 8/3 C rounded up to a
            multiple of 32, which has about the same number of parameters.
        num_attention_heads: number of query heads (H).
        num_key_value_heads: number of key-value heads (G), a divisor of H; by default H.
        head_dim: size of a head (D); by default C / H, which must then be an integer.
        max_position_embeddings: maximum sequence length in tokens. Models with rotary or sinusoidal positions accept
            longer sequences.
        norm_type: "layer_norm", "rms_norm" or "rms_norm_without_weight".
        norm_position: "pre" (before each residual branch, and after the last block) or "post" (after each residual
            sum, as in the Transformer of 2017 and GPT-1).
        norm_eps: epsilon of the norms, added to the variance or mean square.
        embedding_norm: normalize the embeddings before the first block.
        qk_norm: normalize the queries and keys of each head (Henry et al. 2020, arXiv:2010.04245).
        position_type: "learned", "sinusoidal" or "rotary".
        rope_parameters: for rotary positions, `{"rope_type": "default", "rope_theta": 10000.0}` or a scaled variant
            ("linear", "dynamic", "llama3", "yarn", "longrope") in transformers' form.
        hidden_act: activation function: "relu", "relu2" (squared), "gelu", "gelu_new" (tanh approximation) or "silu".
        mlp_gated: gate the feed-forward network (SwiGLU with "silu").
        attention_bias, mlp_bias: biases in the linear layers of attention and of the feed-forward network.
        embedding_dropout, attention_dropout, residual_dropout: dropout probability of the embeddings, of the attention
            weights and of the output of each residual branch.
        tie_word_embeddings: whether the embedding and the head share their weights.
        initializer_range: standard deviation of newly initialized weights.
        output_projection_init: initialization of the last matrix of each residual branch: "normal", "scaled" (standard
            deviation divided by the square root of the number of residual branches, as in GPT-2) or "zero" (every block
            starts as the identity).
        pad_token_id, bos_token_id, eos_token_id: ids of special tokens.

    Raises:
        StrictDataclassError: if a field has the wrong type, or values are invalid; the message lists all violations.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    layer_fields: ClassVar[tuple[str, ...]] = ()  # fields of the model that must be at least 1
    base_model_tp_plan: ClassVar[dict[str, str] | None] = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }

    vocab_size: int = 50257
    hidden_size: int = 768
    intermediate_size: int | None = None
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 1024
    norm_type: Literal["layer_norm", "rms_norm", "rms_norm_without_weight"] = "layer_norm"
    norm_position: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-5
    embedding_norm: bool = False
    qk_norm: bool = False
    position_type: Literal["learned", "sinusoidal", "rotary"] = "learned"
    rope_parameters: dict | None = None
    hidden_act: Literal["relu", "relu2", "gelu", "gelu_new", "silu"] = "gelu_new"
    mlp_gated: bool = False
    attention_bias: bool = True
    mlp_bias: bool = True
    embedding_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    residual_dropout: float | int = 0.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    output_projection_init: Literal["normal", "scaled", "zero"] = "normal"
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    @classmethod
    def from_preset(cls, name: str, **overrides: Any):
        """The config of preset `name`, one of `cls.presets`, with fields overridden by keyword arguments.

        Raises:
            ValueError: if there is no such preset.
        """
        if name not in cls.presets:
            raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(cls.presets)}")
        return cls(**{**cls.presets[name], **overrides})

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.num_attention_heads > 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.intermediate_size is None:
            self.intermediate_size = -(-8 * self.hidden_size // 96) * 32 if self.mlp_gated else 4 * self.hidden_size
        if self.position_type == "rotary" and self.rope_parameters is None:
            self.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
        plan = type(self).base_model_tp_plan
        if plan and not self.mlp_gated:
            self.base_model_tp_plan = {name: how for name, how in plan.items() if "gate_proj" not in name}  # type: ignore[misc]
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check the values of all fields.

        Raises:
            ValueError: if any value is invalid; the message lists all violations.
        """
        if violations := self.violations():
            raise ValueError("; ".join(violations))

    def violations(self) -> list[str]:
        """All violations, each with the invalid value and the expected one."""
        heads, groups, head_dim = self.num_attention_heads, self.num_key_value_heads or 0, self.head_dim or 0
        sizes = ("vocab_size", "hidden_size", "intermediate_size", *self.layer_fields, "num_attention_heads")
        sizes += ("num_key_value_heads", "head_dim", "max_position_embeddings")
        dropouts = ("embedding_dropout", "attention_dropout", "residual_dropout")
        violations = [f"{n} is {getattr(self, n)}, want at least 1" for n in sizes if (getattr(self, n) or 0) < 1]
        violations += [
            f"{n} is {getattr(self, n)}, want a number in [0, 1)" for n in dropouts if not 0 <= getattr(self, n) < 1
        ]
        if heads >= 1 and head_dim == self.hidden_size // heads and self.hidden_size % heads:
            violations.append(
                f"num_attention_heads is {heads} and hidden_size {self.hidden_size}, want a head count that divides "
                f"the hidden size (or set head_dim)"
            )
        if heads >= 1 and groups >= 1 and heads % groups:
            violations.append(
                f"num_key_value_heads is {groups}, want a divisor of num_attention_heads, which is {heads}"
            )
        if self.position_type == "rotary":
            rope_type = (self.rope_parameters or {}).get("rope_type", "default")
            if rope_type not in ROPE_TYPES:
                violations.append(f"rope_type is {rope_type!r}, want one of {', '.join(ROPE_TYPES)}")
            if head_dim % 2:
                violations.append(f"head_dim is {head_dim}, want an even number for rotary positions")
        if self.position_type == "sinusoidal" and self.hidden_size % 2:
            violations.append(f"hidden_size is {self.hidden_size}, want an even number for sinusoidal positions")
        if not 0 < self.norm_eps < math.inf:
            violations.append(f"norm_eps is {self.norm_eps}, want more than 0")
        if not 0 <= self.initializer_range < math.inf:
            violations.append(f"initializer_range is {self.initializer_range}, want 0 or more")
        buckets = getattr(self, "ngram_buckets", 0)
        if buckets < 0 or buckets & (buckets - 1):
            violations.append(f"ngram_buckets is {buckets}, want a power of two, or 0")
        return violations
