"""The transformer block: tokens talk to each other (attention), then each thinks alone (feed-forward).

Each half is a residual branch: its result is added to its input, so that gradients have a straight way down. The norm
stands before each branch (pre-norm, GPT-2 and later) or after each sum (post-norm, the Transformer of 2017 and GPT-1).
"""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import ScratchAttention
from .feed_forward import FeedForward
from .normalization import build_norm


class TransformerBlock(GradientCheckpointingLayer):
    """Self-attention and feed-forward with residuals, dropout and norms, as `config` says."""

    def __init__(self, config, layer_idx: int, is_causal: bool = True):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.input_layernorm = build_norm(config)
        self.self_attn = ScratchAttention(config, layer_idx, is_causal)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Hidden states (B, T, C) in and out."""
        attention_kwargs = dict(
            attention_mask=attention_mask,
            position_embeddings=position_embeddings,
            past_key_values=past_key_values,
            **kwargs,
        )
        if self.pre_norm:
            attended, _ = self.self_attn(self.input_layernorm(hidden_states), **attention_kwargs)
            hidden_states = hidden_states + self.dropout(attended)
            return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))
        attended, _ = self.self_attn(hidden_states, **attention_kwargs)
        hidden_states = self.input_layernorm(hidden_states + self.dropout(attended))
        return self.post_attention_layernorm(hidden_states + self.dropout(self.mlp(hidden_states)))
