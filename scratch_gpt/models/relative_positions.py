"""Relative positions: a learned bias of the attention scores that depends on the distance between query and key (T5,
Raffel et al. 2019, arXiv:1910.10683, section 2.1).

Distances are grouped into buckets: one for each small distance, and logarithmically wider ones for larger distances.
All layers of a stack share one table, a row per bucket and a column per head. The bias is computed once per forward
pass and added to the attention mask.

Dimension letters: B batch, H heads, T queries, S keys.
"""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .autocast import computed_dtype
from .compatibility import create_bidirectional_masks, create_causal_masks

# Attention functions that add a mask of real numbers to the scores; blockwise attention does so by SDPA.
SUPPORTED_ATTENTION = ("eager", "sdpa", "blockwise")


def relative_position_buckets(
    relative_positions: torch.Tensor, num_buckets: int, max_distance: int, bidirectional: bool
) -> torch.Tensor:
    """The bucket of each relative position, from 0 to `num_buckets` - 1.

    Half of the buckets of a direction are for the distances 0, 1, 2, …; the others divide the larger ones up to
    `max_distance` evenly by their logarithm, and the last one also has all distances beyond (T5, arXiv:1910.10683).

    Args:
        relative_positions: index of the key minus index of the query, of any shape.
        num_buckets: number of buckets.
        max_distance: distance from which all distances share the last bucket.
        bidirectional: whether there are separate buckets for later keys; otherwise they share that of distance 0.
    """
    first = torch.zeros_like(relative_positions)
    if bidirectional:
        num_buckets //= 2
        first = (relative_positions > 0) * num_buckets
        distances = relative_positions.abs()
    else:
        distances = (-relative_positions).clamp(min=0)
    exact = num_buckets // 2
    fraction = torch.log(distances.clamp(min=exact).float() / exact) / math.log(max_distance / exact)  # 0 and more
    logarithmic = (exact + (fraction * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return first + torch.where(distances < exact, distances, logarithmic)


class RelativePositionBias(nn.Embedding):
    """The table of the biases, with a row per bucket and a column per query head.

    Distances are those between indices in a row. Padding on either side and packed documents do not change them: both
    tokens of a pair move by the same number of indices.

    Args:
        config: a `TransformerBlockConfig`.
        bidirectional: whether queries attend to later keys, which then have their own buckets.
    """

    def __init__(self, config, bidirectional: bool):
        super().__init__(config.relative_attention_num_buckets, config.num_attention_heads)
        self.config, self.bidirectional = config, bidirectional
        self.max_distance = config.relative_attention_max_distance
        # Masks of eager attention are never omitted, and are additive.
        self.mask_config = copy.copy(config)
        self.mask_config._attn_implementation = "eager"

    def bias(self, num_queries: int, num_keys: int, cached: int | torch.Tensor = 0) -> torch.Tensor:
        """The bias of the scores of the last `num_queries` tokens (1, H, T, S).

        Args:
            num_queries: number of queries (T).
            num_keys: number of keys (S): more than there are tokens with a preallocated cache, and fewer with one that
                drops tokens outside of a window.
            cached: number of tokens before the first query.
        """
        queries = torch.arange(num_queries, device=self.weight.device) + cached
        keys = torch.arange(num_keys, device=self.weight.device) + (queries[-1] + 1 - num_keys).clamp(min=0)
        buckets = relative_position_buckets(
            keys - queries[:, None], self.num_embeddings, self.max_distance, self.bidirectional
        )  # (T, S)
        return F.embedding(buckets, self.weight).permute(2, 0, 1)[None]

    def add_to_mask(
        self, mask: torch.Tensor | None, inputs_embeds: torch.Tensor, cached: int | torch.Tensor = 0
    ) -> torch.Tensor:
        """Add the bias to a mask: (B, 1, T, S), additive or True where a query may attend, to (B or 1, H, T, S).

        Args:
            mask: the mask; None if all queries attend to all tokens.
            inputs_embeds: embeddings of the queries (B, T, C).
            cached: number of tokens before the first query.
        """
        length, dtype = inputs_embeds.shape[1], computed_dtype(inputs_embeds)
        smallest = torch.finfo(dtype).min  # not -inf: a row without any key would become NaN
        bias = self.bias(length, length if mask is None else mask.shape[-1], cached)
        if mask is not None and mask.dtype == torch.bool:
            bias = torch.where(mask, bias, smallest)
        elif mask is not None:
            bias = mask + bias
        return bias.clamp(min=smallest).to(dtype)

    def check_attention(self) -> None:
        """Check that the model's attention function adds real numbers to the scores.

        Raises:
            ValueError: if it does not.
        """
        name = self.config._attn_implementation
        if name not in (None, *SUPPORTED_ATTENTION):
            raise ValueError(
                f"attn_implementation is {name!r}, which can't add relative positions to the attention scores: "
                "set it to 'sdpa' or 'eager'"
            )


def build_relative_bias(config, bidirectional: bool) -> RelativePositionBias | None:
    """The relative positions of a stack; None for other positions."""
    return RelativePositionBias(config, bidirectional) if config.position_type == "relative" else None


def causal_masks(
    config: Any,
    relative_bias: RelativePositionBias | None,
    inputs_embeds: torch.Tensor,
    attention_mask: Any,
    cache: Any,
    position_ids: torch.Tensor | None = None,
) -> dict[str, Any]:
    """The masks of causal attention for each layer type, including relative positions.

    Args:
        config, inputs_embeds, attention_mask, cache, position_ids: see `create_causal_masks`.
        relative_bias: the relative positions of the stack, if it has them.

    Raises:
        ValueError: if the attention function does not support relative positions.
    """
    inputs = {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask, "cache": cache}
    if relative_bias is None:
        return create_causal_masks(config=config, position_ids=position_ids, **inputs)
    relative_bias.check_attention()
    masks = create_causal_masks(config=relative_bias.mask_config, position_ids=position_ids, **inputs)
    cached = 0 if cache is None else cache.get_seq_length()
    return {name: relative_bias.add_to_mask(mask, inputs_embeds, cached) for name, mask in masks.items()}


def bidirectional_masks(
    config: Any,
    relative_bias: RelativePositionBias | None,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> dict[str, Any]:
    """The masks of bidirectional self-attention for each layer type, including relative positions.

    Args:
        config, inputs_embeds, attention_mask: see `create_bidirectional_masks`.
        relative_bias: the relative positions of the stack, if it has them.

    Raises:
        ValueError: if the attention function does not support relative positions.
    """
    if relative_bias is None:
        return create_bidirectional_masks(config, inputs_embeds, attention_mask)
    relative_bias.check_attention()
    masks = create_bidirectional_masks(relative_bias.mask_config, inputs_embeds, attention_mask)
    return {name: relative_bias.add_to_mask(mask, inputs_embeds) for name, mask in masks.items()}
