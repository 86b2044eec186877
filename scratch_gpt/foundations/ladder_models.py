"""The models of the ladder.

Rungs that are a special case of the package's models use `models/`. Only the others are implemented here: the window,
the recurrent network, and incomplete GPT blocks.

All models map ids (B, T) to logits (B, T, V). Dimension letters: B batch, T characters, C features, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..models.attention import ScratchAttention
from ..models.configuration_scratch_bigram import ScratchBigramConfig
from ..models.configuration_scratch_gpt import ScratchGPTConfig
from ..models.feed_forward import FeedForward
from ..models.modeling_scratch_bigram import ScratchBigramForCausalLM
from ..models.modeling_scratch_gpt import ScratchGPTForCausalLM
from ..models.normalization import build_norm
from .text import WINDOW, WindowNetwork

HIDDEN, BLOCKS, HEADS, CONTEXT = 128, 3, 4, 64
NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


class Bigram(nn.Module):
    """A table of logits for the character after each character."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.model = ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=vocab_size))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        return self.model(ids).logits


class Window(nn.Module):
    """`WindowNetwork` at each position; sequences are padded on the left with id 0."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.network = WindowNetwork(vocab_size, dimensions=16, hidden_size=HIDDEN)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        windows = F.pad(ids, (WINDOW - 1, 0)).unfold(1, WINDOW, 1)  # (B, T, WINDOW)
        return self.network(windows.flatten(0, 1)).unflatten(0, ids.shape)


class Recurrent(nn.Module):
    """A recurrent network (Elman 1990)."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, HIDDEN)
        self.input = nn.Linear(HIDDEN, HIDDEN)
        self.recurrent = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.lm_head = nn.Linear(HIDDEN, vocab_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        inputs = self.input(self.embed_tokens(ids))  # (B, T, C)
        state, states = torch.zeros_like(inputs[:, 0]), []
        for step in inputs.unbind(1):
            state = torch.tanh(step + self.recurrent(state))
            states.append(state)
        return self.lm_head(torch.stack(states, dim=1))


class IncompleteGPT(nn.Module):
    """A GPT of one block, with parts missing.

    Args:
        vocab_size: number of distinct characters, V.
        heads: number of attention heads.
        feed_forward: whether the block has a feed-forward layer.
        residual: whether it has residual connections.
        norm: whether it has layer norms.
    """

    def __init__(
        self, vocab_size: int, heads: int, feed_forward: bool = False, residual: bool = False, norm: bool = False
    ):
        super().__init__()
        config = gpt_config(vocab_size, num_attention_heads=heads, attn_implementation="sdpa")
        self.residual = residual
        self.embed_tokens = nn.Embedding(vocab_size, HIDDEN)
        self.embed_positions = nn.Embedding(CONTEXT, HIDDEN)
        branches = [ScratchAttention(config, 0), *([FeedForward(config)] if feed_forward else [])]
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList(build_norm(config) if norm else nn.Identity() for _ in range(len(branches) + 1))
        self.lm_head = nn.Linear(HIDDEN, vocab_size, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]  # (B, T, C)
        for branch, norm in zip(self.branches, self.norms, strict=False):
            output = branch(norm(x))
            output = output[0] if isinstance(output, tuple) else output
            x = x + output if self.residual else output
        return self.lm_head(self.norms[-1](x))


class GPT(nn.Module):
    """The GPT of `models/`.

    Args:
        vocab_size: number of distinct characters, V.
        settings: fields of the config that differ from `gpt_config`.
    """

    def __init__(self, vocab_size: int, **settings: Any):
        super().__init__()
        self.model = ScratchGPTForCausalLM(gpt_config(vocab_size, **settings))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids (B, T) to logits (B, T, V)."""
        return self.model(ids, use_cache=False).logits


def gpt_config(vocab_size: int, **settings: Any) -> ScratchGPTConfig:
    """Return a config of GPT-2's style in the ladder's size; `settings` override its fields."""
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, **NO_DROPOUT}
    return ScratchGPTConfig.from_preset(
        "gpt2", vocab_size=vocab_size, max_position_embeddings=CONTEXT, **{**sizes, **settings}
    )
