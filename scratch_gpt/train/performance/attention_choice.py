"""Choice of the attention implementation for training on a CPU."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ...models.pretrained_model import ScratchPreTrainedModel
from .blockwise_attention import BLOCKWISE, SHORT_ROW


def choose_attention(model: PreTrainedModel, device: torch.device, longest: int, same_length: bool = False) -> None:
    """Set the attention implementation of a model for training on a CPU; on other devices, nothing is changed.

    Up to `SHORT_ROW` tokens, eager attention is used: in bfloat16, a step takes two thirds of the time of one with SDPA
    at 64 tokens, and nine tenths at 256. Longer sequences keep the default of transformers, which does not store the
    attention weights for the backward pass. With sequences of the same length, few graphs are compiled, and models of
    this package use `BLOCKWISE`, which chooses by length, precision and whether it is compiled.
    Models with soft-capped scores keep eager attention, which is their default.

    Args:
        model: model to train.
        device: device of the training run.
        longest: maximum length of a sequence in tokens.
        same_length: whether all sequences have this length.
    """
    if device.type != "cpu":
        return
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        return
    # Other models may need features that blockwise attention lacks.
    if same_length and isinstance(model, ScratchPreTrainedModel):
        model.set_attn_implementation(BLOCKWISE)
    elif longest <= SHORT_ROW:
        model.set_attn_implementation("eager")
