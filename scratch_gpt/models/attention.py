"""Attention: each token asks a question (query), every token offers a label (key) and a content (value), and the
answer is the average of the contents, weighted by how well the labels fit the question.

`eager_attention_forward` is the reference; SDPA, flash and flex attention come from transformers'
`ALL_ATTENTION_FUNCTIONS` and agree with it, which a test checks.

Dimension letters: B batch, T query tokens, S key tokens, H query heads, G key-value heads, D head size, C hidden size.
"""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .feed_forward import OutputProjection
from .normalization import build_norm
from .positions import apply_rotary


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q K^T * scaling + mask) V (Vaswani et al. 2017, equation 1), the softmax in float32.

    Args:
        query: (B, H, T, D).
        key, value: (B, G, S, D); each key-value head serves H/G query heads (Ainslie et al. 2023, arXiv:2305.13245).
        attention_mask: additive, broadcastable to (B, H, T, S), 0 where a query may look and very negative elsewhere.

    Returns:
        The attended values (B, T, H, D) and the weights (B, H, T, S).
    """
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)  # (B, H, S, D)
    value = value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling  # (B, H, T, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ScratchAttention(nn.Module):
    """Multi-head attention with grouped key-value heads, optional rotary positions and optional query-key norm."""

    def __init__(self, config, layer_idx: int, is_causal: bool = True):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout

        query_size, kv_size = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.attention_bias)
        self.o_proj = OutputProjection(query_size, config.hidden_size, bias=config.attention_bias)
        self.q_norm = build_norm(config, self.head_dim) if config.qk_norm else None
        self.k_norm = build_norm(config, self.head_dim) if config.qk_norm else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states (B, T, C) to the attended ones (B, T, C), and the weights (B, H, T, S) where eager."""
        batch_and_tokens = hidden_states.shape[:-1]
        per_head = (*batch_and_tokens, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(per_head).transpose(1, 2)  # (B, H, T, D)
        key = self.k_proj(hidden_states).view(per_head).transpose(1, 2)  # (B, G, T, D)
        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)  # (B, G, T, D)

        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if position_embeddings is not None:
            cos, sin = position_embeddings
            query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)  # (B, G, S, D)

        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        attended = attended.reshape(*batch_and_tokens, -1).contiguous()  # (B, T, H * D)
        return self.o_proj(attended), weights
