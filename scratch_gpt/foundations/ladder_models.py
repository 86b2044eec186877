"""The rungs of the ladder, and their models.

Rungs that are a special case of the package's models use `models/`. Only the others are implemented here: the window,
the recurrent network, and incomplete GPT blocks.

All models map ids (B, T) to logits (B, T, V). Dimension letters: B batch, T characters, C features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class Rung:
    """A step of the ladder.

    Attributes:
        name: name of the model.
        idea: difference to the previous rung, in a few words.
        build: builds the model, given the vocabulary size.
        meaning: what the model is or adds, in a sentence.
    """

    name: str
    idea: str
    build: Callable[[int], nn.Module]
    meaning: str


BLOCK = {"feed_forward": True, "residual": True, "norm": True}
ROTARY: dict[str, Any] = {"norm_type": "rms_norm", "position_type": "rotary"}
# An intermediate size with about as many weights as 4C without the gate.
SWIGLU: dict[str, Any] = {"hidden_act": "silu", "mlp_gated": True, "intermediate_size": 344}
SLIDING: dict[str, Any] = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
WINDOWED: dict[str, Any] = {**ROTARY, **SWIGLU, "qk_norm": True, **SLIDING, "sliding_window": 16}
PARALLEL: dict[str, Any] = {**WINDOWED, "parallel_residual": True}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 172, "mlp_bias": False}
RUNGS = (
    Rung("bigram", "a table of pairs", Bigram, "for each character a row of scores for the next one"),
    Rung("window", f"{WINDOW} embeddings", Window, f"the embeddings of the last {WINDOW} characters, a hidden layer"),
    Rung(
        "recurrent",
        "a recurrent state",
        Recurrent,
        "one vector, the state, is updated by every character: h_t = tanh(x_t W + h_(t-1) U + b) (Elman 1990)",
    ),
    Rung(
        "one head",
        "attention",
        partial(IncompleteGPT, heads=1),
        "attention instead of the state: characters and positions are embedded, and one head mixes the past",
    ),
    Rung(
        "many heads",
        f"{HEADS} heads",
        partial(IncompleteGPT, heads=HEADS),
        "several heads look for different things at the same time",
    ),
    Rung(
        "feed-forward",
        "an MLP per token",
        partial(IncompleteGPT, heads=HEADS, feed_forward=True),
        "after the mixing, two layers compute on each character's vector: C → 4C → C, GELU between them",
    ),
    Rung(
        "residuals",
        "residual connections",
        partial(IncompleteGPT, heads=HEADS, feed_forward=True, residual=True),
        "attention and feed-forward add to the vector instead of replacing it",
    ),
    Rung(
        "layer norm",
        "normalized inputs",
        partial(IncompleteGPT, heads=HEADS, **BLOCK),
        "a norm before each part and before the output; a complete block of a Transformer (Vaswani et al. 2017)",
    ),
    Rung(
        "GPT init",
        "small, tied weights",
        partial(GPT, num_hidden_layers=1),
        "small random weights, and one table for input embedding and output (GPT-2)",
    ),
    Rung("GPT", f"{BLOCKS} blocks", GPT, f"{BLOCKS} blocks, so that a head can use what heads below have found"),
    Rung(
        "RMSNorm", "no mean, no bias", partial(GPT, norm_type="rms_norm"), "x / √mean(x²) times a learned scale (Llama)"
    ),
    Rung(
        "rotary positions",
        "relative positions",
        partial(GPT, **ROTARY),
        "pairs of numbers of query and key are turned by t · θ_i, θ_i = 10000^(-2i/D), so that their product depends "
        "only on how far apart they are (RoFormer)",
    ),
    Rung(
        "SwiGLU",
        "a gated feed-forward",
        partial(GPT, **ROTARY, **SWIGLU),
        "(silu(x W_g) · x W_u) W_d: one layer decides how much of the other passes (PaLM, Llama)",
    ),
    Rung(
        "q/k norm",
        "normalized queries",
        partial(GPT, **ROTARY, **SWIGLU, qk_norm=True),
        "queries and keys are normalized before they are turned, so that scores can't grow (Qwen3, Gemma 3)",
    ),
    Rung(
        "sliding windows",
        "local attention",
        partial(GPT, **WINDOWED),
        "two of three blocks see the last 16 characters only, which saves time on long texts (Mistral, Gemma)",
    ),
    Rung(
        "parallel residual",
        "branches side by side",
        partial(GPT, **PARALLEL),
        "attention and feed-forward read the same input and are added together (GPT-J, GPT-NeoX)",
    ),
    Rung(
        "experts",
        "2 of 4, half the size",
        partial(GPT, **(PARALLEL | EXPERTS)),
        "four feed-forward networks, of which a router chooses two for each character: more weights, the same work "
        "(Mixtral)",
    ),
)
