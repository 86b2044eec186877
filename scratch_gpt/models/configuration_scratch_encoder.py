"""The config of the encoder, and its presets."""

from dataclasses import field
from typing import Any, Literal

from .compatibility import strict
from .configuration_block import TransformerBlockConfig
from .preset_descriptions import ENCODERS

# A preset is a set of values of independent fields; the models do not know its name.
PRESETS: dict[str, dict[str, Any]] = {
    "bert": {
        "ngram_sizes": [],
        "token_weights": False,
        "norm_type": "layer_norm",
        "norm_position": "post",
        "norm_eps": 1e-12,
        "embedding_norm": True,
        "position_type": "learned",
        "hidden_act": "gelu",
        "mlp_gated": False,
        "attention_bias": True,
        "mlp_bias": True,
        "masked_lm_transform": True,
        "lm_head_bias": True,
        "classifier_pooling": "cls",
        "pooler": True,
        "pooler_activation": "tanh",
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
    },
    "modernbert": {
        "norm_type": "layer_norm_without_bias",
        "norm_position": "pre",
        "norm_eps": 1e-5,
        "embedding_norm": True,
        "first_attention_norm": False,
        "position_type": "rotary",
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "sliding_window": 64,
        "hidden_act": "gelu",
        "mlp_gated": True,
        "attention_bias": False,
        "mlp_bias": False,
        "output_projection_init": "scaled",
        "masked_lm_transform": True,
        "lm_head_bias": True,
        "head_bias": False,
        "classifier_pooling": "mean",
        "pooler": True,
        "pooler_activation": "gelu",
        "pooler_norm": True,
    },
    "modern": {
        "norm_type": "rms_norm",
        "norm_position": "pre",
        "norm_eps": 1e-6,
        "embedding_norm": False,
        "position_type": "rotary",
        "hidden_act": "silu",
        "mlp_gated": True,
        "attention_bias": False,
        "mlp_bias": False,
        "masked_lm_transform": False,
        "lm_head_bias": False,
        "classifier_pooling": "mean",
        "pooler": False,
        "embedding_dropout": 0.1,
        "residual_dropout": 0.1,
    },
    "fasttext": {
        "num_hidden_layers": 0,
        "ngram_sizes": [2],
        "ngram_buckets": 2**18,
        "token_weights": True,
        "norm_position": "post",
        "embedding_norm": False,
        "position_type": "rotary",
        "masked_lm_transform": False,
        "lm_head_bias": False,
        "classifier_pooling": "sum",
        "pooler": False,
        "classifier_dropout": 0.3,
    },
}
PRESETS["roberta"] = {**PRESETS["bert"], "norm_eps": 1e-5}
PRESETS["distilbert"] = {**PRESETS["bert"], "pooler_activation": "relu", "classifier_dropout": 0.2}

# The class that each `AutoX.from_pretrained` loads from a checkpoint, in the model files that are saved with it.
AUTO_MAP = {
    "AutoConfig": "configuration_scratch_encoder.ScratchEncoderConfig",
    "AutoModel": "modeling_scratch_encoder.ScratchEncoderModel",
    "AutoModelForMaskedLM": "modeling_scratch_encoder.ScratchEncoderForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_scratch_encoder.ScratchEncoderForSequenceClassification",
}


@strict
class ScratchEncoderConfig(TransformerBlockConfig):
    """Config of `ScratchEncoderModel` and its heads: the fields of `TransformerBlockConfig` and these. The defaults are
    the architecture of BERT's base model (Devlin et al. 2018, arXiv:1810.04805).

    Args:
        num_hidden_layers: number of blocks; with 0, the model is a bag of tokens.
        sliding_window: in layers with sliding attention, a token attends to itself and to the `sliding_window` tokens
            on each side (half of what ModernBERT, arXiv:2412.13663, calls `local_attention`).
        type_vocab_size: number of token types, each with an embedding that is added to those of its tokens, such as the
            first and the second text of a pair (BERT, section 3.2); 0 for none.
        ngram_sizes: sizes n of the n-gram embeddings that are added to the token embeddings: the n-gram of a token ends
            with the token itself.
        ngram_buckets: number of rows (a power of two) of the table of n-gram embeddings of each size.
        boundary_token_id: token that replaces `<bos>` and `<eos>` in n-grams, such as the space of a character
            vocabulary: a word at the beginning or end of a text then has the same n-grams as inside.
        token_weights: multiply the embeddings of tokens and n-grams by weights that are computed before training, and
            use each of them once per text; only for a bag of tokens.
        masked_lm_transform: whether there are a dense layer, activation and norm before the masked-LM head.
        lm_head_bias: whether the masked-LM head has a bias.
        head_bias: bias of the dense layers of `masked_lm_transform` and `pooler`.
        classifier_pooling: representation of a text for classification: the state of its first token ("cls"), the mean
            of the states of its tokens ("mean"), or their sum divided by the square root of their number ("sum").
        pooler: whether there is a dense layer with an activation between pooling and classifier.
        pooler_activation: activation function of the pooler: "tanh" (BERT), "relu" (DistilBERT, arXiv:1910.01108) or
            another one of those of `hidden_act`.
        pooler_norm: normalize the output of the pooler (ModernBERT).
        classifier_dropout: dropout probability of the input of the classifier; by default `residual_dropout`.
    """

    model_type = "scratch_encoder"
    presets, preset_descriptions = PRESETS, ENCODERS
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 30522
    num_hidden_layers: int = 12
    max_position_embeddings: int = 512
    norm_position: Literal["pre", "post"] = "post"
    norm_eps: float = 1e-12
    embedding_norm: bool = True
    hidden_act: Literal["relu", "relu2", "gelu", "gelu_new", "silu"] = "gelu"
    type_vocab_size: int = 0
    ngram_sizes: list[int] = field(default_factory=list)
    ngram_buckets: int = 0
    boundary_token_id: int | None = None
    token_weights: bool = False
    masked_lm_transform: bool = True
    lm_head_bias: bool = True
    head_bias: bool = True
    classifier_pooling: Literal["cls", "mean", "sum"] = "cls"
    pooler: bool = True
    pooler_activation: Literal["tanh", "relu", "relu2", "gelu", "gelu_new", "silu"] = "tanh"
    pooler_norm: bool = False
    classifier_dropout: float | int | None = None
    pad_token_id: int | None = 0
    auto_map: dict = field(default_factory=lambda: dict(AUTO_MAP))

    @property
    def num_residual_branches(self) -> int:
        """Number of residual branches between the embedding and the head."""
        return 2 * self.num_hidden_layers

    def violations(self) -> list[str]:
        """All violations, each with the invalid value and the expected one."""
        violations = super().violations()
        if self.num_hidden_layers < 0:
            violations.append(f"num_hidden_layers is {self.num_hidden_layers}, want 0 or more")
        if self.num_experts:  # the load balancing loss is part of the loss of `ScratchGPTForCausalLM` only
            violations.append(f"num_experts is {self.num_experts}, only the decoder-only model has experts, want 0")
        if self.type_vocab_size < 0:
            violations.append(f"type_vocab_size is {self.type_vocab_size}, want 0 or more")
        if any(not 2 <= size <= 8 for size in self.ngram_sizes) or len(set(self.ngram_sizes)) < len(self.ngram_sizes):
            violations.append(f"ngram_sizes are {self.ngram_sizes}, want different ones from 2 to 8")
        if self.boundary_token_id is not None and not 0 <= self.boundary_token_id < self.vocab_size:
            violations.append(
                f"boundary_token_id is {self.boundary_token_id}, want a token from 0 to {self.vocab_size - 1}"
            )
        if self.token_weights and (self.num_hidden_layers or self.pad_token_id is None):
            violations.append(
                f"num_hidden_layers is {self.num_hidden_layers} and pad_token_id is {self.pad_token_id}: token_weights "
                "require 0 hidden layers and a padding token"
            )
        if self.ngram_sizes and not self.ngram_buckets:
            violations.append(
                f"ngram_sizes are {self.ngram_sizes}, but ngram_buckets is 0: n-gram embeddings need a table"
            )
        if not 0 <= (self.classifier_dropout or 0) < 1:
            violations.append(f"classifier_dropout is {self.classifier_dropout}, want a number in [0, 1)")
        return violations


__all__ = ["AUTO_MAP", "PRESETS", "ScratchEncoderConfig"]
