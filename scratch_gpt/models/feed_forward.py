"""The feed-forward network (MLP) of a block: a projection to a wider space and back, for each position separately.

Dimension letters: B batch, T tokens, C hidden size, I intermediate size.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh approximation, as GPT-2 uses it (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return F.gelu(x, approximate="tanh")


def relu2(x: torch.Tensor) -> torch.Tensor:
    """The square of ReLU (So et al. 2021, Primer, arXiv:2109.08668)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "relu2": relu2,
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "silu": F.silu,
}


class OutputProjection(nn.Linear):
    """The last linear layer of a residual branch, initialized as `config.output_projection_init` says."""


class FeedForward(nn.Module):
    """down(act(up(x))) or, if gated, down(act(gate(x)) * up(x)), which with SiLU is SwiGLU (Shazeer 2020,
    arXiv:2002.05202)."""

    def __init__(self, config):
        super().__init__()
        self.gate_proj = (
            nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias) if config.mlp_gated else None
        )
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = OutputProjection(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transform hidden states (B, T, C) to (B, T, C)."""
        up = self.up_proj(hidden_states)  # (B, T, I)
        if self.gate_proj is None:
            return self.down_proj(self.activation(up))
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * up)
