"""scratch_gpt: language models implemented by hand in readable code, which are Hugging Face models.

Importing the package registers its classes with transformers, so that `AutoModelForCausalLM.from_pretrained` opens its
checkpoints.
"""

import importlib
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_OLDEST = (5, 0)
_installed = version("transformers")
if tuple(int(part) for part in _installed.split(".")[:2]) < _OLDEST:
    raise ImportError(f"scratch_gpt needs transformers>=5.0 and found {_installed}: pip install -U transformers")

# Public names and their modules, which are imported on first use.
_LAZY = {
    "ScratchGPTConfig": "models.configuration_scratch_gpt",
    "ScratchGPTModel": "models.modeling_scratch_gpt",
    "ScratchGPTForCausalLM": "models.modeling_scratch_gpt",
    "ScratchGPTForSequenceClassification": "models.modeling_scratch_gpt",
    "ScratchSeq2SeqConfig": "models.configuration_scratch_seq2seq",
    "ScratchSeq2SeqModel": "models.modeling_scratch_seq2seq",
    "ScratchSeq2SeqForConditionalGeneration": "models.modeling_scratch_seq2seq",
    "ScratchEncoderConfig": "models.configuration_scratch_encoder",
    "ScratchEncoderModel": "models.modeling_scratch_encoder",
    "ScratchEncoderForMaskedLM": "models.modeling_scratch_encoder",
    "ScratchEncoderForSequenceClassification": "models.modeling_scratch_encoder",
    "ScratchBigramConfig": "models.configuration_scratch_bigram",
    "ScratchBigramForCausalLM": "models.modeling_scratch_bigram",
    "import_native": "hub.native.convert",
    "export_native": "hub.native.convert",
    "quantize_int8": "models.int8_linear",
    "train_tokenizer": "tokenization.training",
}
__all__ = ["__version__", *sorted(_LAZY)]

if TYPE_CHECKING:
    from .hub.native.convert import export_native, import_native
    from .models.configuration_scratch_bigram import ScratchBigramConfig
    from .models.configuration_scratch_encoder import ScratchEncoderConfig
    from .models.configuration_scratch_gpt import ScratchGPTConfig
    from .models.configuration_scratch_seq2seq import ScratchSeq2SeqConfig
    from .models.int8_linear import quantize_int8
    from .models.modeling_scratch_bigram import ScratchBigramForCausalLM
    from .models.modeling_scratch_encoder import (
        ScratchEncoderForMaskedLM,
        ScratchEncoderForSequenceClassification,
        ScratchEncoderModel,
    )
    from .models.modeling_scratch_gpt import (
        ScratchGPTForCausalLM,
        ScratchGPTForSequenceClassification,
        ScratchGPTModel,
    )
    from .models.modeling_scratch_seq2seq import ScratchSeq2SeqForConditionalGeneration, ScratchSeq2SeqModel
    from .tokenization.training import train_tokenizer


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__


if "scratch_gpt_cli" not in sys.modules:  # the command registers when it first opens a model
    from .auto import register

    register()
