"""The settings of the encoder-decoder, and the two styles (presets) that they can be arranged into."""

from dataclasses import field
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_block import TransformerBlockConfig

# A style is a set of independent fields; the model never asks for its name.
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
}

# What `AutoX.from_pretrained` finds in a checkpoint: class by class, in the files that travel with it.
AUTO_MAP = {
    "AutoConfig": "configuration_scratch_seq2seq.ScratchSeq2SeqConfig",
    "AutoModel": "modeling_scratch_seq2seq.ScratchSeq2SeqModel",
    "AutoModelForSeq2SeqLM": "modeling_scratch_seq2seq.ScratchSeq2SeqForConditionalGeneration",
}

# What `pipeline("translation_de_to_en", …)` finds there.
PIPELINE = {"impl": "pipeline_scratch_translation.ScratchTranslationPipeline", "pt": ["AutoModelForSeq2SeqLM"]}


@strict
class ScratchSeq2SeqConfig(TransformerBlockConfig):
    """Settings of `ScratchSeq2SeqModel` and its head: those of `TransformerBlockConfig`, and these. The defaults are
    the base model of Vaswani et al. 2017 (arXiv:1706.03762).

    Args:
        encoder_layers, decoder_layers: number of blocks on each side.
        decoder_vocab_size: tokens of the target language, where it has a vocabulary of its own.
        share_encoder_decoder_embeddings: one embedding for source and target.
        tie_word_embeddings: one matrix for the target's embedding and the head.
        scale_embedding: multiply embeddings by the root of the hidden size (section 3.4 of the paper).
        cross_attention_rotary: rotate the queries and keys of cross-attention too, where positions are rotary, so that
            a target token finds the source tokens near its own place.
        lm_head_bias: a bias on the logits.
        label_smoothing: share of the target's probability that training spreads over all tokens (Szegedy et al. 2015,
            arXiv:1512.00567); in evaluation mode the loss is the plain cross-entropy.
        source_lang, target_lang: the languages, if it translates; `custom_pipelines` follows from them.
        both_directions: whether it translates from `target_lang` to `source_lang`, too.
        target_tokenizer: whether the target has a tokenizer of its own, in the folder "target_tokenizer".
        decoder_start_token_id: what the decoder reads before the first token; by default `pad_token_id`.
        use_cache: keep keys and values while generating.
    """

    model_type = "scratch_seq2seq"
    attribute_map = {"num_hidden_layers": "encoder_layers"}
    presets = PRESETS
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
    position_type: Literal["learned", "sinusoidal", "rotary"] = "sinusoidal"
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
        if self.decoder_vocab_size is None:
            self.decoder_vocab_size = self.vocab_size
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id
        if self.source_lang and self.target_lang:
            self.set_languages(self.source_lang, self.target_lang, self.both_directions)
        super().__post_init__(**kwargs)

    def set_languages(self, source_lang: str, target_lang: str, both_directions: bool = False) -> None:
        """Say which languages the model translates, and what its pipelines are therefore called."""
        self.source_lang, self.target_lang, self.both_directions = source_lang, target_lang, both_directions
        self.custom_pipelines = {f"translation_{a}_to_{b}": dict(PIPELINE) for a, b in directions_of(self)}

    @property
    def num_residual_branches(self) -> int:
        """How many branches are added up on the way from the target's embedding to the head."""
        return 3 * self.decoder_layers

    def violations(self) -> list[str]:
        wrong = super().violations()
        if not 0 <= self.label_smoothing < 1:
            wrong.append(f"label_smoothing is {self.label_smoothing}, want a share from 0 up to, not including, 1")
        if self.share_encoder_decoder_embeddings and self.decoder_vocab_size != self.vocab_size:
            wrong.append(
                f"decoder_vocab_size is {self.decoder_vocab_size} and vocab_size {self.vocab_size}, want them equal, "
                "or share_encoder_decoder_embeddings off"
            )
        if self.pad_token_id is None:
            wrong.append("pad_token_id is None, want the id that fills up short rows")
        return wrong


def directions_of(config: Any) -> list[tuple[str, str]]:
    """What a translator translates, as far as its config says so: pairs of languages, from the first to the second."""
    source, target = getattr(config, "source_lang", None), getattr(config, "target_lang", None)
    if not source or not target:
        return []
    return [(source, target), (target, source)] if getattr(config, "both_directions", False) else [(source, target)]


__all__ = ["AUTO_MAP", "PRESETS", "ScratchSeq2SeqConfig"]
