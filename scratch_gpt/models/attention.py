"""Attention: each token's output is a weighted average of the values of all tokens; the weights are the softmax of the
scaled dot products of its query with their keys.

`eager_attention_forward` is the reference. SDPA, flash and flex attention come from transformers'
`ALL_ATTENTION_FUNCTIONS`; a test checks SDPA and flex attention against the reference.

Dimension letters: B batch, T query tokens, S key tokens, H query heads, G key-value heads, D head size, R rotated
features of a head, C hidden size.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from .compatibility import attention_function, update_cache
from .feed_forward import OutputProjection
from .normalization import build_norm
from .packing import PackedMask, packed_attention
from .positions import apply_rotary


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q K^T * scaling + mask) V (Vaswani et al. 2017, arXiv:1706.03762, equation 1), the softmax in float32.

    Args:
        module: the attention module; dropout is applied if it is in training mode.
        query: (B, H, T, D).
        key, value: (B, G, S, D); each key-value head serves H/G query heads (Ainslie et al. 2023, arXiv:2305.13245).
        attention_mask: additive, broadcastable to (B, H, T, S): 0 where a query may attend, very negative elsewhere.
        scaling: factor of the dot products, 1 / sqrt(D).
        dropout: fraction of the attention weights set to zero in training.
        softcap: c in scores = c tanh(scores / c) (Gemma 2, arXiv:2408.00118); None disables it.

    Returns:
        The weighted averages of the values (B, T, H, D) and the attention weights (B, H, T, S).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)  # (B, H, S, D)
    scores = query @ key.transpose(-1, -2) * scaling  # (B, H, T, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask
    # At least in float32; in float64 if the scores are, whose mask would be -inf in float32, and NaN for padding.
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ScratchAttention(nn.Module):
    """Multi-head attention with grouped key-value heads, optional rotary positions, query-key norm, sliding window and
    soft-capping of the scores.

    Queries are computed from the hidden states; keys and values from the same states (self-attention) or from
    `key_value_states` (cross-attention of a decoder to the encoder's states).
    """

    def __init__(self, config, layer_idx: int, is_causal: bool = True):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        is_sliding = config.layer_types is not None and config.layer_types[layer_idx] == "sliding_attention"
        self.sliding_window = config.sliding_window if is_sliding else None
        if is_sliding and not is_causal:  # its width on each side without the token, which flash attention counts
            self.sliding_window = config.sliding_window + 1
        options = {"sliding_window": self.sliding_window, "softcap": config.attn_logit_softcapping}
        self.attention_options = {name: value for name, value in options.items() if value is not None}

        query_size, kv_size = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.attention_bias)
        self.o_proj = OutputProjection(query_size, config.hidden_size, bias=config.attention_output_bias)
        self.norm_per_head = config.qk_norm_per_head
        norm_sizes = (self.head_dim, self.head_dim) if self.norm_per_head else (query_size, kv_size)
        self.q_norm, self.k_norm = (build_norm(config, size) if config.qk_norm else None for size in norm_sizes)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        key_value_states: torch.Tensor | None = None,
        key_position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from hidden states (B, T, C).

        Args:
            hidden_states: (B, T, C).
            position_embeddings: cosines and sines, each (B, T, R), that rotate the queries and, in self-attention,
                the keys.
            attention_mask: additive mask, broadcastable to (B, H, T, S), or what the attention function takes instead;
                a `PackedMask` if the hidden states are a packed row.
            cache: keys and values of earlier tokens (and of the source), which is updated in place.
            key_value_states: states to attend to in cross-attention (B, S, C).
            key_position_embeddings: cosines and sines, each (B, S, R), that rotate the keys in cross-attention.

        Returns:
            The output (B, T, C) and the attention weights (B, H, T, S); fused attention functions return None for them.
        """
        batch_and_tokens = hidden_states.shape[:-1]
        query = self._split_heads(self.q_proj(hidden_states), self.q_norm)  # (B, H, T, D)
        if position_embeddings is not None:
            query = apply_rotary(query, *position_embeddings)
        if key_value_states is None:
            key, value = self._keys_and_values(hidden_states, position_embeddings)  # (B, G, T, D)
            if cache is not None:
                self_attention_cache: Any = getattr(cache, "self_attention_cache", cache)
                key, value = update_cache(self_attention_cache, key, value, self.layer_idx, kwargs)  # (B, G, S, D)
        else:
            key, value = self._source_keys_and_values(key_value_states, key_position_embeddings, cache)  # (B, G, S, D)

        attention: Any = attention_function(self.config, eager_attention_forward)
        if isinstance(attention_mask, PackedMask):
            attention = packed_attention
        attended, weights = attention(  # (B, T, H, D)
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **self.attention_options,
            **kwargs,
        )
        attended = attended.reshape(*batch_and_tokens, -1).contiguous()  # (B, T, H * D)
        return self.o_proj(attended), weights  # (B, T, C)

    def _split_heads(self, projected: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
        """Split (B, T, heads * D) into (B, heads, T, D), and normalize each head, or all of them together before."""
        if norm is not None and not self.norm_per_head:
            projected = norm(projected)
        heads = projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, T, D)
        return norm(heads) if norm is not None and self.norm_per_head else heads

    def _keys_and_values(
        self, states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Project states (B, S, C) to keys and values, each (B, G, S, D)."""
        key, value = self._split_heads(self.k_proj(states), self.k_norm), self._split_heads(self.v_proj(states))
        if position_embeddings is not None:
            key = apply_rotary(key, *position_embeddings)
        return key, value

    def _source_keys_and_values(
        self,
        states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        cache: Cache | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the source (B, S, C), each (B, G, S, D). The source is the same for all target tokens, so
        with a cache they are computed once."""
        if not isinstance(cache, EncoderDecoderCache):
            return self._keys_and_values(states, position_embeddings)
        if cache.is_updated.get(self.layer_idx):
            layer: Any = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        cache.is_updated[self.layer_idx] = True
        key, value = self._keys_and_values(states, position_embeddings)
        return update_cache(cache.cross_attention_cache, key, value, self.layer_idx, {})
