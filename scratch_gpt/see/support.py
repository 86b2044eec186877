"""What a page can't show, refused by name."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from ..errors import ScratchError
from ..models.modeling_scratch_bigram import ScratchBigramForCausalLM
from ..models.modeling_scratch_encoder import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
)
from ..models.modeling_scratch_gpt import ScratchGPTForCausalLM, ScratchGPTForSequenceClassification
from ..models.modeling_scratch_seq2seq import ScratchSeq2SeqForConditionalGeneration

MAX_PARAMETERS = 30_000_000  # 60 MB as float16, 80 MB as base64
# The kind of a page's model, by its class; web/engine/model.js has the same kinds.
KINDS: dict[type[PreTrainedModel], str] = {
    ScratchGPTForCausalLM: "causal",
    ScratchGPTForSequenceClassification: "classifier",
    ScratchSeq2SeqForConditionalGeneration: "seq2seq",
    ScratchEncoderForMaskedLM: "masked",
    ScratchEncoderForSequenceClassification: "classifier",
    ScratchEncoderModel: "encoder",
    ScratchBigramForCausalLM: "bigram",
}
# Settings of generation that would change the greedy text, with the values that change nothing.
UNSUPPORTED_GENERATION: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (None,),
    "dola_layers": (None,),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
    "penalty_alpha": (None, 0.0),
    "sequence_bias": (None,),
    "stop_strings": (None,),
    "watermarking_config": (None,),
}


def kind_of_page(model: PreTrainedModel) -> str:
    """The kind of a model on a page: "causal", "seq2seq", "masked", "classifier", "encoder" or "bigram".

    Raises:
        ScratchError: the page has no code for the model's class.
    """
    kind = KINDS.get(type(model))
    if kind is None:
        supported = ", ".join(sorted(cls.__name__ for cls in KINDS))
        raise ScratchError(f"a page can't show a {type(model).__name__}: want one of {supported}")
    return kind


def check_size(num_parameters: int) -> None:
    """Check that a model fits into a page.

    Raises:
        ScratchError: it has more than `MAX_PARAMETERS` parameters.
    """
    if num_parameters > MAX_PARAMETERS:
        raise ScratchError(
            f"the model has {num_parameters:,} parameters, and a page has at most {MAX_PARAMETERS:,}: serve it with "
            "--serve"
        )


def check_generation(config: GenerationConfig) -> None:
    """Check that the page can follow the settings of generation.

    Raises:
        ScratchError: a setting would change the greedy text, and the page does not have it.
    """
    for name, neutral in UNSUPPORTED_GENERATION.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise ScratchError(f"a page can't generate with {name}={value!r}: remove it from generation_config.json")
