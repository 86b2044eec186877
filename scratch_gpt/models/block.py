"""The transformer block: attention mixes information between positions, then the feed-forward network transforms
each position.

Each of them is a residual branch: its output is added to its input, so that gradients also flow through the identity.
A norm is applied to the input of each branch (pre-norm, GPT-2 and later), to each sum (post-norm, Vaswani et al. 2017,
GPT-1), to the output of each branch (OLMo 2) or to its input and its output (sandwich, Gemma 2). The decoder of an
encoder-decoder has a third branch between the two: cross-attention to the source. In a parallel block, attention and
feed-forward network read the same hidden states.

Dimension letters: B batch, T tokens, S source tokens, R rotated features of a head, C hidden size.
"""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import ScratchAttention
from .autocast import computed_dtype
from .compatibility import accepts_past_key_values
from .dropout import Dropout
from .experts import MixtureOfExperts
from .feed_forward import FeedForward
from .normalization import build_norm


class TransformerBlock(GradientCheckpointingLayer):
    """Self-attention, optional cross-attention and feed-forward network, with residual connections, dropout and norms.

    Args:
        config: a `TransformerBlockConfig`.
        layer_idx: index of the block, under which its keys and values are cached.
        is_causal: whether self-attention is causal.
        cross_attention: whether the block has a cross-attention branch.
    """

    def __init__(self, config, layer_idx: int, is_causal: bool = True, cross_attention: bool = False):
        super().__init__()
        self.pre_norm, self.post_norm = config.norm_position in ("pre", "sandwich"), config.norm_position == "post"
        self.parallel_residual = config.parallel_residual
        self.attention_type = config.layer_types[layer_idx] if config.layer_types else "full_attention"
        has_rotary = config.no_rope_layers is None or config.no_rope_layers[layer_idx]
        self.rotary_type = self.attention_type if has_rotary else None  # whose cosines and sines the layer uses
        has_norm, has_output_norm = self.pre_norm or self.post_norm, config.norm_position in ("branch", "sandwich")
        skips_first = layer_idx == 0 and not config.first_attention_norm
        self.input_layernorm = build_norm(config) if has_norm and not skips_first else None
        self.self_attn = ScratchAttention(config, layer_idx, is_causal)
        self.attn_output_layernorm = build_norm(config) if has_output_norm else None
        self.cross_attn_layernorm = build_norm(config) if cross_attention else None
        self.cross_attn = ScratchAttention(config, layer_idx, is_causal=False) if cross_attention else None
        self.post_attention_layernorm = build_norm(config) if has_norm and not config.parallel_shared_norm else None
        self.mlp = MixtureOfExperts(config) if config.num_experts else FeedForward(config)
        self.mlp_output_layernorm = build_norm(config) if has_output_norm else None
        self.dropout = Dropout(config.residual_dropout)

    @accepts_past_key_values
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
        """Apply the block. Gradient checkpointing tracks positional arguments only: pass by position both states and
        the mask, which has a gradient with relative positions.

        Args:
            hidden_states: (B, T, C).
            encoder_hidden_states: the encoder's states of the source (B, S, C), for cross-attention.
            attention_mask: mask of self-attention, as the attention function takes it.
            encoder_attention_mask: mask of cross-attention.
            position_embeddings: rotary cosines and sines of the tokens, each (B, T, R).
            encoder_position_embeddings: those of the source, each (B, S, R); without them, cross-attention is not
                rotated.
            cache: keys and values of earlier tokens (and of the source), which is updated in place.

        Returns:
            Hidden states (B, T, C).
        """
        residual = hidden_states  # (B, T, C)
        attn_input = self.maybe_pre_norm(self.input_layernorm, hidden_states)
        attn_output, _ = self.self_attn(  # (B, T, C)
            attn_input,
            attention_mask=attention_mask,
            position_embeddings=position_embeddings,
            cache=cache,
            **kwargs,
        )
        if self.parallel_residual:
            norm = self.post_attention_layernorm
            mlp_output = self.mlp(attn_input if norm is None else self.maybe_pre_norm(norm, residual))  # (B, T, C)
            return residual + self.dropout(attn_output) + self.dropout(mlp_output)
        hidden_states = self.add(residual, attn_output, self.input_layernorm, self.attn_output_layernorm)

        if self.cross_attn is not None:
            attn_output, _ = self.cross_attn(  # (B, T, C)
                self.maybe_pre_norm(self.cross_attn_layernorm, hidden_states),
                key_value_states=encoder_hidden_states,
                position_embeddings=position_embeddings if encoder_position_embeddings is not None else None,
                key_position_embeddings=encoder_position_embeddings,
                attention_mask=encoder_attention_mask,
                cache=cache,
                **kwargs,
            )
            hidden_states = self.add(hidden_states, attn_output, self.cross_attn_layernorm)

        mlp_output = self.mlp(self.maybe_pre_norm(self.post_attention_layernorm, hidden_states))  # (B, T, C)
        return self.add(hidden_states, mlp_output, self.post_attention_layernorm, self.mlp_output_layernorm)

    def maybe_pre_norm(self, norm: nn.Module | None, hidden_states: torch.Tensor) -> torch.Tensor:
        """The input (B, T, C) of a branch: normalized in a pre-norm block, and cast to autocast's dtype once, so that
        the linear layers of the branch do not each keep a cast copy."""
        branch_input = norm(hidden_states) if self.pre_norm and norm is not None else hidden_states
        return branch_input.to(computed_dtype(branch_input))

    def add(
        self, residual: torch.Tensor, output: torch.Tensor, norm: nn.Module | None, output_norm: nn.Module | None = None
    ) -> torch.Tensor:
        """Add the output of a branch to its input.

        Args:
            residual: the input (B, T, C).
            output: the output (B, T, C).
            norm: the norm of the branch, which in a post-norm block normalizes the sum.
            output_norm: a norm of the output, or None.
        """
        if output_norm is not None:
            output = output_norm(output)
        hidden_states = residual + self.dropout(output)
        return norm(hidden_states) if self.post_norm and norm is not None else hidden_states
