"""Packing: the texts of a padded batch one after the other in a single row, so that no padding is computed.

Norms, projections and feed-forward networks treat each token alone, so they take the packed row as it is. Only
attention must know where a text ends: it computes each text, or all texts of the same length, separately. The encoder
packs in inference on a CPU, where the time of a batch is that of its tokens.

Dimension letters: B batch, T tokens of a row with padding, N tokens of all texts without padding, H query heads,
G key-value heads, D head size.
"""

from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .hooks import has_no_hooks


class PackedMask(NamedTuple):
    """The attention mask of a packed row.

    Attributes:
        groups: number and length of the texts of each length, in the order of the row.
        mask: what all texts have in common, such as a sliding window or relative positions: additive, or True where a
            query may attend, (1, 1 or H, T, T); None if every token attends to all tokens of its text.
    """

    groups: list[tuple[int, int]]
    mask: torch.Tensor | None


class PackedTexts:
    """The places of a batch's tokens in a packed row, in which shorter texts come first.

    Args:
        real: True for tokens and False for padding (B, T).
        lengths: number of tokens of each text.
    """

    def __init__(self, real: torch.Tensor, lengths: list[int]):
        self.shape = real.shape
        order = torch.tensor(sorted(range(len(lengths)), key=lengths.__getitem__))
        rows, columns = real[order].nonzero(as_tuple=True)
        self.indices = order[rows] * real.shape[1] + columns  # in the flattened batch (N,)
        self.groups = [(len(list(texts)), length) for length, texts in groupby(sorted(lengths))]

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """A value for each token of the batch, (B or 1, T or 1, ...), as a packed row (1, N, ...)."""
        return padded.expand(*self.shape, *padded.shape[2:]).flatten(0, 1)[self.indices][None]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """A packed row (1, N, ...) as a batch (B, T, ...), with zeros in place of padding."""
        padded = packed.new_zeros(self.shape.numel(), *packed.shape[2:])
        return padded.index_copy_(0, self.indices, packed[0]).unflatten(0, self.shape)

    def masks(self, masks: dict[str, torch.Tensor | None]) -> dict[str, PackedMask]:
        """The masks of each layer type for one text of T tokens, (1, 1 or H, T, T), as masks of the packed row."""
        return {name: PackedMask(self.groups, mask) for name, mask in masks.items()}


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: PackedMask,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention within each text of a packed row, by SDPA.

    Args:
        module: the attention module, unused, as are other arguments of attention functions.
        query: (1, H, N, D).
        key, value: (1, G, N, D).
        attention_mask: where the texts are.
        scaling: factor of the dot products.

    Returns:
        The weighted averages of the values (1, N, H, D), and None in place of the attention weights.
    """
    groups, mask = attention_mask
    sizes = [count * length for count, length in groups]
    parts = zip(*(x[0].transpose(0, 1).split(sizes) for x in (query, key, value)), strict=True)
    attended = []
    for (count, length), part in zip(groups, parts, strict=True):
        q, k, v = (x.unflatten(0, (count, length)).transpose(1, 2) for x in part)  # (count, H or G, length, D)
        text_mask = None if mask is None else mask[..., :length, :length]
        output = F.scaled_dot_product_attention(
            q, k, v, attn_mask=text_mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        attended.append(output.transpose(1, 2).flatten(0, 1))  # (count * length, H, D)
    return torch.cat(attended)[None], None


def pack_texts(model: Any, states: torch.Tensor, attention_mask: Any, options: dict[str, Any]) -> PackedTexts | None:
    """Where the texts of a batch are in a packed row; None if the batch is to be computed with its padding.

    It is packed in inference on a CPU with SDPA, if there is padding, all of it before or after the tokens of a text,
    and nobody looks at or changes the states inside of the model: neither hooks, hidden states nor a graph.

    Args:
        model: the model, or the part of it that the packed row will go through.
        states: embeddings or hidden states of the batch (B, T, C).
        attention_mask: 1 for tokens and 0 for padding (B, T); any other mask is not packed.
        options: keyword arguments of the call, with which hidden states and attentions may be requested.
    """
    config = model.config
    if torch.is_grad_enabled() or states.device.type != "cpu" or config._attn_implementation != "sdpa":
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return None
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != states.shape[:2]:
        return None
    if any(options.get(name, getattr(config, name, False)) for name in ("output_hidden_states", "output_attentions")):
        return None
    real = attention_mask != 0
    lengths = real.sum(-1).tolist()
    if min(lengths) == states.shape[1] or min(lengths) == 0:
        return None
    if int((real[:, 1:] > real[:, :-1]).sum(-1).add(real[:, 0]).max()) > 1:  # tokens on both sides of padding
        return None
    is_hooked = torch.nn.modules.module._global_forward_hooks or torch.nn.modules.module._global_forward_pre_hooks
    if is_hooked or not all(has_no_hooks(module) for module in model.modules() if module is not model):
        return None
    return PackedTexts(real, lengths)
