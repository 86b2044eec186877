"""The transformer block: attention mixes information between positions, then the feed-forward network transforms
each position.

Each of them is a residual branch: its output is added to its input, so that gradients also flow through the identity.
The norm precedes each branch (pre-norm, GPT-2 and later) or follows each sum (post-norm, Vaswani et al. 2017, GPT-1).
The decoder of an encoder-decoder has a third branch between the two: cross-attention to the source.
"""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import ScratchAttention
from .autocast import computed_dtype
from .dropout import Dropout
from .feed_forward import FeedForward
from .normalization import build_norm


class TransformerBlock(GradientCheckpointingLayer):
    """Self-attention, cross-attention if asked for, and feed-forward, with residuals, dropout and norms, as `config`
    says."""

    def __init__(self, config, layer_idx: int, is_causal: bool = True, cross_attention: bool = False):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.input_layernorm = build_norm(config)
        self.self_attn = ScratchAttention(config, layer_idx, is_causal)
        self.cross_attn_layernorm = build_norm(config) if cross_attention else None
        self.cross_attn = ScratchAttention(config, layer_idx, is_causal=False) if cross_attention else None
        self.post_attention_layernorm = build_norm(config)
        self.mlp = FeedForward(config)
        self.dropout = Dropout(config.residual_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        encoder_position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Hidden states (B, T, C) in and out; `encoder_hidden_states` (B, S, C) are the source, where there is one.
        Cross-attention is rotated where `encoder_position_embeddings` are given.

        Gradient checkpointing follows positional arguments only: pass both kinds of states by position.
        """
        residual = hidden_states
        attended, _ = self.self_attn(
            self.maybe_pre_norm(self.input_layernorm, hidden_states),
            attention_mask=attention_mask,
            position_embeddings=position_embeddings,
            cache=cache,
            **kwargs,
        )
        hidden_states = self.maybe_post_norm(self.input_layernorm, residual + self.dropout(attended))

        if self.cross_attn is not None and self.cross_attn_layernorm is not None:
            residual = hidden_states
            attended, _ = self.cross_attn(
                self.maybe_pre_norm(self.cross_attn_layernorm, hidden_states),
                key_value_states=encoder_hidden_states,
                position_embeddings=position_embeddings if encoder_position_embeddings is not None else None,
                key_position_embeddings=encoder_position_embeddings,
                attention_mask=encoder_attention_mask,
                cache=cache,
                **kwargs,
            )
            hidden_states = self.maybe_post_norm(self.cross_attn_layernorm, residual + self.dropout(attended))

        residual = hidden_states
        mlp_output = self.mlp(self.maybe_pre_norm(self.post_attention_layernorm, hidden_states))
        return self.maybe_post_norm(self.post_attention_layernorm, residual + self.dropout(mlp_output))

    def maybe_pre_norm(self, norm: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        """The input of a branch: normalized in a pre-norm block, and cast to the dtype of autocast once, so that the
        linear layers of the branch do not keep a cast copy each."""
        read = norm(hidden_states) if self.pre_norm else hidden_states
        return read.to(computed_dtype(read))

    def maybe_post_norm(self, norm: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        """The sum of a residual branch and its input: normalized in a post-norm block."""
        return hidden_states if self.pre_norm else norm(hidden_states)
