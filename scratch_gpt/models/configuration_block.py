"""The config of a transformer block: the fields that GPT, encoder-decoder and encoder have in common."""

import copy
import math
from typing import Any, ClassVar, Literal

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .compatibility import LAYER_TYPES, BaseConfig, by_layer_type, strict

LAYER_PATTERNS = ("layer_types", "no_rope_layers")  # fields with one value per layer
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
        norm_type: "layer_norm", "layer_norm_without_bias", "rms_norm" or "rms_norm_without_weight".
        norm_position: "pre" (before each residual branch), "post" (after each residual sum, as in the Transformer of
            2017 and GPT-1), "branch" (after each branch, before the sum; OLMo 2, arXiv:2501.00656) or "sandwich"
            (before and after each branch; Ding et al. 2021, arXiv:2105.13290, and Gemma 2). All but "post" have a norm
            after the last block.
        norm_eps: epsilon of the norms, added to the variance or mean square.
        embedding_norm: normalize the embeddings before the first block.
        first_attention_norm: normalize the input of the first block's attention, which after an embedding norm is
            normalized already (ModernBERT, arXiv:2412.13663, does not).
        parallel_residual: attention and feed-forward network read the same hidden states, and both outputs are added to
            them (GPT-J; Chowdhery et al. 2022, arXiv:2204.02311, section 2).
        parallel_shared_norm: the two branches of a parallel block share one norm.
        qk_norm: normalize queries and keys (Henry et al. 2020, arXiv:2010.04245).
        qk_norm_per_head: with `qk_norm`, normalize each head; otherwise all heads together (OLMo 2).
        position_type: "learned", "sinusoidal", "rotary" or "relative" (a learned bias of the attention scores for each
            bucket of distances; T5, Raffel et al. 2019, arXiv:1910.10683, section 2.1).
        rope_parameters: for rotary positions, `{"rope_type": "default", "rope_theta": 10000.0}` or a scaled variant
            ("linear", "dynamic", "llama3", "yarn", "longrope") in transformers' form; its `partial_rotary_factor` is
            the fraction of each head that is rotated (GPT-J, GPT-NeoX). Or a dict of them, one per layer type.
        no_rope_layers: with rotary positions, 1 for each layer that uses them and 0 for each that has no positions
            (Yang et al. 2025, arXiv:2501.18795; the values are those of SmolLM3); by default all layers use them.
        relative_attention_num_buckets, relative_attention_max_distance: of relative positions: the number of buckets,
            and the distance from which all distances share the last one.
        layer_types: "full_attention" or "sliding_attention" for each layer; by default all are sliding if there is a
            `sliding_window`, as in Mistral, and full otherwise.
        sliding_window: in layers with sliding attention, a token attends to itself and to the `sliding_window` - 1
            tokens before it (Beltagy et al. 2020, arXiv:2004.05150; Mistral, arXiv:2310.06825).
        attn_logit_softcapping: c in scores = c tanh(scores / c) of the attention scores before the softmax (Gemma 2,
            arXiv:2408.00118); None disables it.
        hidden_act: activation function: "relu", "relu2" (squared), "gelu", "gelu_new" (tanh approximation) or "silu".
        mlp_gated: gate the feed-forward network (SwiGLU with "silu").
        num_experts: number of feed-forward networks, of which a router chooses some for each token (Shazeer et al.
            2017, arXiv:1701.06538); 0 for a single one without a router.
        num_experts_per_tok: number of experts that process a token.
        norm_topk_prob: divide the weights of a token's experts by their sum.
        router_aux_loss_coef: coefficient of the load balancing loss in training (Fedus et al. 2021, arXiv:2101.03961,
            equation 4).
        attention_bias: biases of queries, keys and values.
        attention_output_bias: bias of the attention's output projection; by default `attention_bias`.
        mlp_bias: biases of the feed-forward network.
        embedding_dropout, attention_dropout, residual_dropout: dropout probability of the embeddings, of the attention
            weights and of the output of each residual branch.
        tie_word_embeddings: whether the embedding and the head share their weights.
        initializer_range: standard deviation of newly initialized weights.
        output_projection_init: initialization of the last matrix of each residual branch: "normal", "scaled" (standard
            deviation divided by the square root of the number of residual branches, as in GPT-2) or "zero" (every block
            starts as the identity).
        pad_token_id, bos_token_id, eos_token_id: ids of special tokens.
        imported_from: the model that weights were imported from: its class in transformers ("class"), its Hub id
            ("name_or_path", or None) and its config there ("config"); None for a model that was not imported.

    Raises:
        StrictDataclassError: if a field has the wrong type, or values are invalid; the message lists all violations.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    preset_descriptions: ClassVar[dict[str, str]] = {}  # what a preset is, in words
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
    norm_type: Literal["layer_norm", "layer_norm_without_bias", "rms_norm", "rms_norm_without_weight"] = "layer_norm"
    norm_position: Literal["pre", "post", "branch", "sandwich"] = "pre"
    norm_eps: float = 1e-5
    embedding_norm: bool = False
    first_attention_norm: bool = True
    parallel_residual: bool = False
    parallel_shared_norm: bool = False
    qk_norm: bool = False
    qk_norm_per_head: bool = True
    position_type: Literal["learned", "sinusoidal", "rotary", "relative"] = "learned"
    rope_parameters: dict | None = None
    no_rope_layers: list[int] | None = None
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_types: list[str] | None = None
    sliding_window: int | None = None
    attn_logit_softcapping: float | int | None = None
    hidden_act: Literal["relu", "relu2", "gelu", "gelu_new", "silu"] = "gelu_new"
    mlp_gated: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 2
    norm_topk_prob: bool = True
    router_aux_loss_coef: float | int = 0.001
    attention_bias: bool = True
    attention_output_bias: bool | None = None
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
    imported_from: dict | None = None

    @classmethod
    def from_preset(cls, name: str, **overrides: Any):
        """The config of preset `name`, one of `cls.presets`, with fields overridden by keyword arguments. A preset's
        values for the layers are repeated for as many layers as the config has.

        Raises:
            ValueError: if there is no such preset.
        """
        if name not in cls.presets:
            raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(cls.presets)}")
        fields = {**copy.deepcopy(cls.presets[name]), **overrides}
        for pattern in set(LAYER_PATTERNS) & (set(cls.presets[name]) - set(overrides)):
            layers = fields.get("num_hidden_layers", getattr(cls, "num_hidden_layers", 0))
            fields[pattern] = [fields[pattern][i % len(fields[pattern])] for i in range(layers)]
        return cls(**fields)

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.num_attention_heads > 0:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.layer_types is None and self.sliding_window is not None:
            self.layer_types = ["sliding_attention"] * getattr(self, "num_hidden_layers", 0)
        if self.attention_output_bias is None:
            self.attention_output_bias = self.attention_bias
        if self.intermediate_size is None:
            self.intermediate_size = -(-8 * self.hidden_size // 96) * 32 if self.mlp_gated else 4 * self.hidden_size
        if self.position_type == "rotary" and self.rope_parameters is None:
            self.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
        plan = type(self).base_model_tp_plan
        # The plan would split the heads, but neither the bias of each head nor a norm of all heads together
        if self.position_type == "relative" or (self.qk_norm and not self.qk_norm_per_head):
            self.base_model_tp_plan = None  # type: ignore[misc]
        elif plan and (self.num_experts or not self.mlp_gated):  # each process has all experts
            absent = ".mlp." if self.num_experts else "gate_proj"
            self.base_model_tp_plan = {name: how for name, how in plan.items() if absent not in name}  # type: ignore[misc]
        super().__post_init__(**kwargs)
        if self.rotary_by_layer_type:
            self.rope_parameters = by_layer_type(self.rope_parameters)  # type: ignore[arg-type]  # not None

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
        violations += self.layer_violations() + self.position_violations()
        if not 0 < self.norm_eps < math.inf:
            violations.append(f"norm_eps is {self.norm_eps}, want more than 0")
        if not 0 <= self.initializer_range < math.inf:
            violations.append(f"initializer_range is {self.initializer_range}, want 0 or more")
        if self.attn_logit_softcapping is not None and not 0 < self.attn_logit_softcapping < math.inf:
            violations.append(f"attn_logit_softcapping is {self.attn_logit_softcapping}, want more than 0, or None")
        violations += self.norm_violations() + self.expert_violations() + self.origin_violations()
        buckets = getattr(self, "ngram_buckets", 0)
        if buckets < 0 or buckets & (buckets - 1):
            violations.append(f"ngram_buckets is {buckets}, want a power of two, or 0")
        return violations

    @property
    def windowed(self) -> bool:
        """Whether some layers have sliding attention."""
        return "sliding_attention" in (self.layer_types or ())

    @property
    def rotary_by_layer_type(self) -> bool:
        """Whether each layer type has its own rotary settings."""
        return any(isinstance(value, dict) for value in (self.rope_parameters or {}).values())

    def layer_violations(self) -> list[str]:
        """Violations of the fields with one value per layer."""
        violations, layers = [], getattr(self, "num_hidden_layers", 0)
        for name, allowed in zip(LAYER_PATTERNS, (LAYER_TYPES, (0, 1)), strict=True):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != layers:
                violations.append(f"{name} has {len(values)} values, want one for each of {layers} layers")
            if others := sorted({repr(value) for value in values if value not in allowed}):
                violations.append(f"{name} has {', '.join(others)}, want {' or '.join(map(repr, allowed))}")
        if self.no_rope_layers is not None and self.position_type != "rotary":
            violations.append(f"position_type is {self.position_type!r}, no_rope_layers requires 'rotary'")
        if self.windowed and (self.sliding_window or 0) < 1:
            violations.append(f"sliding_window is {self.sliding_window}, want at least 1 for sliding attention")
        return violations

    def position_violations(self) -> list[str]:
        """Violations of the fields of positions."""
        violations = []
        if self.position_type == "rotary":
            violations += self.rotary_violations()
        if self.position_type == "sinusoidal" and self.hidden_size % 2:
            violations.append(f"hidden_size is {self.hidden_size}, want an even number for sinusoidal positions")
        if self.position_type == "relative" and not (
            4 <= self.relative_attention_num_buckets < 2 * self.relative_attention_max_distance
            and self.relative_attention_num_buckets % 4 == 0
        ):
            violations.append(
                f"relative_attention_num_buckets is {self.relative_attention_num_buckets}, want a multiple of 4, less "
                f"than twice relative_attention_max_distance, which is {self.relative_attention_max_distance}"
            )
        return violations

    def norm_violations(self) -> list[str]:
        """Violations of the fields of norms and residual branches that exclude each other."""
        violations = []
        if self.parallel_residual and self.norm_position != "pre":
            violations.append(f"norm_position is {self.norm_position!r}, parallel_residual requires 'pre'")
        if self.parallel_shared_norm and not self.parallel_residual:
            violations.append("parallel_shared_norm is True, which requires parallel_residual")
        if not self.first_attention_norm and self.norm_position not in ("pre", "sandwich"):
            violations.append(f"norm_position is {self.norm_position!r}: it has no norm before attention to omit")
        return violations

    def expert_violations(self) -> list[str]:
        """Violations of the fields of experts."""
        violations = []
        if self.num_experts < 0 or (self.num_experts and not 1 <= self.num_experts_per_tok <= self.num_experts):
            violations.append(
                f"num_experts is {self.num_experts} and num_experts_per_tok {self.num_experts_per_tok}, want 0 experts "
                "or from 1 to all of them per token"
            )
        if self.num_experts and not self.mlp_gated:
            violations.append(f"num_experts is {self.num_experts}: experts require mlp_gated")
        if self.num_experts and self.mlp_bias:
            violations.append(f"num_experts is {self.num_experts}: experts have no biases, set mlp_bias to False")
        return violations

    def origin_violations(self) -> list[str]:
        """Violations of the form of `imported_from`."""
        origin = self.imported_from
        if origin is not None and not (
            isinstance(origin.get("class"), str)
            and isinstance(origin.get("name_or_path"), str | None)
            and isinstance(origin.get("config"), dict)
        ):
            return [
                f"imported_from is {origin!s:.80}, want 'class' (a name), 'name_or_path' (a name or None) and 'config' "
                "(an object)"
            ]
        return []

    def rotary_violations(self) -> list[str]:
        """Violations of the settings of rotary positions."""
        parameters, head_dim, violations = self.rope_parameters or {}, self.head_dim or 0, []
        nested = set(parameters) & set(LAYER_TYPES)
        if nested and not set(self.layer_types or LAYER_TYPES[:1]) <= nested:
            violations.append(f"rope_parameters has only {', '.join(sorted(nested))}, want each layer type")
        for rope in [parameters[name] for name in sorted(nested)] or [parameters]:
            rope_type = rope.get("rope_type", "default")
            if rope_type not in ROPE_TYPES:
                violations.append(f"rope_type is {rope_type!r}, want one of {', '.join(ROPE_TYPES)}")
            factor = rope.get("partial_rotary_factor", 1.0)
            if not 0 < factor <= 1:
                violations.append(f"partial_rotary_factor is {factor}, want more than 0 and at most 1")
            elif int(head_dim * factor) % 2 or not int(head_dim * factor):
                violations.append(
                    f"head_dim is {head_dim}, want an even number of rotated features, not {int(head_dim * factor)}"
                )
        return violations
