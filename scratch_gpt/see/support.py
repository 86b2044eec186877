"""What a page can't show, refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from ..errors import ScratchError
from ..hub.directory_checks import check_size as check_stored_size
from ..hub.model_directory import AUTO_CLASSES, kind_of_model
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

# Settings of generation that the page ignores, as it samples by its own controls, with the values that change nothing.
IGNORED_GENERATION: dict[str, tuple[Any, ...]] = {
    "min_p": (None, 0.0),
    "top_h": (None,),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "num_beam_groups": (None, 1),
    "diversity_penalty": (None, 0.0),
    "force_words_ids": (None,),
    "constraints": (None,),
    "token_healing": (None, False),
    "max_time": (None,),
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
            f"the model has {num_parameters:,} parameters, and a page has at most {MAX_PARAMETERS:,}: show it by "
            "'scratch-gpt see MODEL --serve', or choose a smaller one"
        )


def check_size_before_loading(name: str | Path, config: Any, trust_remote_code: bool = False) -> None:
    """The same for a checkpoint, from its config. One that can't be opened passes: loading it says why.

    Args:
        name: folder or Hub id.
        config: its config.
        trust_remote_code: whether to run code from the checkpoint.

    Raises:
        ScratchError: the model has more than `MAX_PARAMETERS` parameters.
    """
    model_class = AUTO_CLASSES[kind_of_model(config)]
    try:
        check_stored_size(model_class, config, Path(name), trust_remote_code)
        with torch.device("meta"), no_init_weights():
            model = model_class.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # a config that was tampered with can make any of them
        return
    check_size(sum(parameter.numel() for parameter in model.parameters()))


def check_generation(config: GenerationConfig) -> None:
    """Check that the page can follow the settings of generation.

    Raises:
        ScratchError: a setting would change the greedy text, and the page does not have it.
    """
    for name, neutral in UNSUPPORTED_GENERATION.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise ScratchError(f"a page can't generate with {name}={value!r}: remove it from generation_config.json")


def ignored_generation(config: GenerationConfig) -> list[str]:
    """The settings of generation that a page ignores, such as "min_p"."""
    return [name for name, neutral in IGNORED_GENERATION.items() if getattr(config, name, None) not in neutral]
