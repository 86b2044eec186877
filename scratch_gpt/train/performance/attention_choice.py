"""Which implementation of attention a training run uses on a processor."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ...models.pretrained_model import ScratchPreTrainedModel
from .blockwise_attention import BLOCKWISE, PLAIN_ROW, SHORT_ROW


def choose_attention(model: PreTrainedModel, device: torch.device, longest: int, all_alike: bool = False) -> None:
    """On processors, train with plain products where rows have at most `SHORT_ROW` tokens: in bfloat16 a step takes two
    thirds of the time at 64 tokens and nine tenths at 256, beside SDPA. Longer rows keep transformers' choice, which
    does not hold the weights of attention for the backward pass. Where all rows of more than `PLAIN_ROW` tokens are
    `all_alike` in length, so that few graphs are compiled, models of ours have `BLOCKWISE`, which goes by precision and
    by whether blocks are compiled."""
    if device.type != "cpu":
        return
    # Models of others may ask more of attention.
    if longest > PLAIN_ROW and all_alike and isinstance(model, ScratchPreTrainedModel):
        model.set_attn_implementation(BLOCKWISE)
    elif longest <= SHORT_ROW:
        model.set_attn_implementation("eager")
