"""Quantization of a loaded model for inference."""

from __future__ import annotations

from transformers import PreTrainedModel

from ..errors import ScratchError
from ..models.int8_linear import quantize_int8
from ..models.pretrained_model import ScratchPreTrainedModel


def quantize_loaded(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Quantize the linear layers of a loaded model to int8.

    Args:
        model: the model, on its device, in evaluation mode.
        name: of the model, for errors.

    Raises:
        ScratchError: it is a class of transformers, is not on a CPU, or has experts.
    """
    if not isinstance(model, ScratchPreTrainedModel):
        raise ScratchError(f"--dtype int8 is for models of this package, and {name} is a {type(model).__name__}")
    try:
        return quantize_int8(model)
    except ValueError as error:
        raise ScratchError(f"--dtype int8 can't be used for {name}: {error}") from error
