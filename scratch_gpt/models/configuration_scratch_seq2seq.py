"""The config of the encoder-decoder, and its presets."""

from dataclasses import field
from typing import Any, Literal

from .compatibility import strict
from .configuration_block import TransformerBlockConfig
from .preset_descriptions import ENCODER_DECODERS

# A preset is a set of values of independent fields; the models do not know its name.
PRESETS: dict[str, dict[str, Any]] = {
    "vaswani2017": {
        "norm_type": "layer_norm",
        "norm_position": "post",
        "norm_eps": 1e-5,
        "position_type": "sinusoidal",
        "hidden_act": "relu",
        "mlp_gated": False,
        "attention_bias": True,
        "mlp_bias": True,
        "scale_embedding": True,
        "embedding_dropout": 0.1,
        "residual_dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "modern": {
        "norm_type": "rms_norm",
        "norm_position": "pre",
        "norm_eps": 1e-6,
        "position_type": "rotary",
        "hidden_act": "silu",
        "mlp_gated": True,
        "attention_bias": False,
        "mlp_bias": False,
        "cross_attention_rotary": True,
        "embedding_norm": True,
        "qk_norm": True,
        "output_projection_init": "zero",
        "scale_embedding": False,
        "embedding_dropout": 0.1,
        "residual_dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "bart": {
        "norm_type": "layer_norm",
        "norm_position": "post",
        "norm_eps": 1e-5,
        "embedding_norm": True,
        "position_type": "learned",
        "hidden_act": "gelu",
        "mlp_gated": False,
        "attention_bias": True,
        "mlp_bias": True,
        "scale_embedding": False,
        "embedding_dropout": 0.1,
        "residual_dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "pegasus": {
        "norm_type": "layer_norm",
        "norm_position": "pre",
        "norm_eps": 1e-5,
        "position_type": "sinusoidal",
        "hidden_act": "relu",
        "mlp_gated": False,
        "attention_bias": True,
        "mlp_bias": True,
        "scale_embedding": True,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "t5": {
        "norm_type": "rms_norm",
        "norm_position": "pre",
        "norm_eps": 1e-6,
        "position_type": "relative",
        "hidden_act": "gelu_new",
        "mlp_gated": True,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "scale_embedding": False,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "label_smoothing": 0.0,
    },
}
PRESETS["mbart"] = {**PRESETS["bart"], "norm_position": "pre", "scale_embedding": True}

# The class that each `AutoX.from_pretrained` loads from a checkpoint, in the model files that are saved with it.
AUTO_MAP = {
    "AutoConfig": "configuration_scratch_seq2seq.ScratchSeq2SeqConfig",
    "AutoModel": "modeling_scratch_seq2seq.ScratchSeq2SeqModel",
    "AutoModelForSeq2SeqLM": "modeling_scratch_seq2seq.ScratchSeq2SeqForConditionalGeneration",
}

# The class that `pipeline("translation_de_to_en", …)` loads.
PIPELINE = {"impl": "pipeline_scratch_translation.ScratchTranslationPipeline", "pt": ["AutoModelForSeq2SeqLM"]}


@strict
class ScratchSeq2SeqConfig(TransformerBlockConfig):
    """Config of `ScratchSeq2SeqModel` and its head: the fields of `TransformerBlockConfig` and these. The defaults are
    the base model of Vaswani et al. 2017 (arXiv:1706.03762). All layers have full attention:
    `sliding_window` has no effect.

    Args:
        encoder_layers, decoder_layers: number of blocks of the encoder and of the decoder.
        decoder_vocab_size: vocabulary size of the target, if it is not shared; by default `vocab_size`.
        share_encoder_decoder_embeddings: whether source and target share their embedding.
        tie_word_embeddings: whether the target's embedding and the head share their weights.
        scale_embedding: multiply embeddings by the square root of the hidden size (section 3.4 of the paper).
        cross_attention_rotary: with rotary positions, rotate the queries and keys of cross-attention too, so that a
            target token can attend to source tokens near its own position.
        lm_head_bias: whether the head has a bias.
        label_smoothing: fraction of the target's probability that is distributed over all tokens in training (Szegedy
            et al. 2015, arXiv:1512.00567); in evaluation mode the loss is the cross-entropy without it.
        source_lang, target_lang: the languages of a translation model; `custom_pipelines` is derived from them.
        both_directions: whether the model also translates from `target_lang` to `source_lang`.
        target_tokenizer: whether the target has its own tokenizer, in the folder "target_tokenizer".
        decoder_start_token_id: first input token of the decoder; by default `pad_token_id`.
        use_cache: cache keys and values during generation.
    """

    model_type = "scratch_seq2seq"
    attribute_map = {"num_hidden_layers": "encoder_layers"}
    presets, preset_descriptions = PRESETS, ENCODER_DECODERS
    layer_fields = ("encoder_layers", "decoder_layers", "decoder_vocab_size")
    base_model_tp_plan = None

    vocab_size: int = 37000
    decoder_vocab_size: int | None = None
    hidden_size: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_attention_heads: int = 8
    max_position_embeddings: int = 512
    norm_position: Literal["pre", "post"] = "post"
    position_type: Literal["learned", "sinusoidal", "rotary", "relative"] = "sinusoidal"
    hidden_act: Literal["relu", "relu2", "gelu", "gelu_new", "silu"] = "relu"
    share_encoder_decoder_embeddings: bool = True
    scale_embedding: bool = True
    cross_attention_rotary: bool = False
    lm_head_bias: bool = False
    label_smoothing: float | int = 0.0
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    both_directions: bool = False
    target_tokenizer: bool = False
    custom_pipelines: dict = field(default_factory=dict)
    auto_map: dict = field(default_factory=lambda: dict(AUTO_MAP))

    def __post_init__(self, **kwargs):
        self.sliding_window = None  # no layer uses one, and a cache would obey it
        if self.decoder_vocab_size is None:
            self.decoder_vocab_size = self.vocab_size
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id
        if self.source_lang and self.target_lang:
            self.set_languages(self.source_lang, self.target_lang, self.both_directions)
        super().__post_init__(**kwargs)

    def set_languages(self, source_lang: str, target_lang: str, both_directions: bool = False) -> None:
        """Set the languages of a translation model, and its pipelines, which are named after them."""
        self.source_lang, self.target_lang, self.both_directions = source_lang, target_lang, both_directions
        self.custom_pipelines = {f"translation_{a}_to_{b}": dict(PIPELINE) for a, b in directions_of(self)}

    @property
    def num_residual_branches(self) -> int:
        """Number of residual branches between the target's embedding and the head."""
        return 3 * self.decoder_layers

    def violations(self) -> list[str]:
        """All violations, each with the invalid value and the expected one."""
        violations = super().violations()
        if not 0 <= self.label_smoothing < 1:
            violations.append(f"label_smoothing is {self.label_smoothing}, want a number in [0, 1)")
        if self.share_encoder_decoder_embeddings and self.decoder_vocab_size != self.vocab_size:
            violations.append(
                f"decoder_vocab_size is {self.decoder_vocab_size} and vocab_size {self.vocab_size}, want them equal, "
                "or share_encoder_decoder_embeddings off"
            )
        violations += [
            f"{name} is set, which encoder-decoders do not have, want None"
            for name in ("layer_types", "no_rope_layers", "attn_logit_softcapping")
            if getattr(self, name) is not None
        ]
        if self.rotary_by_layer_type:
            violations.append("rope_parameters has settings for each layer type, encoder-decoders have one for all")
        if self.parallel_residual:  # a parallel block has no cross-attention
            violations.append("parallel_residual is True, which encoder-decoders do not have, want False")
        if self.num_experts:
            violations.append(f"num_experts is {self.num_experts}, only the decoder-only model has experts, want 0")
        if self.pad_token_id is None:
            violations.append("pad_token_id is None, want the id of the padding token")
        return violations


def directions_of(config: Any) -> list[tuple[str, str]]:
    """The translation directions of a model as (source, target) pairs of languages; empty if its config has none."""
    source, target = getattr(config, "source_lang", None), getattr(config, "target_lang", None)
    if not source or not target:
        return []
    return [(source, target), (target, source)] if getattr(config, "both_directions", False) else [(source, target)]


__all__ = ["AUTO_MAP", "PRESETS", "ScratchSeq2SeqConfig"]
