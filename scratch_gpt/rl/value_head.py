"""The value head of PPO: predicts the expected return at each token; not part of the published model."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

NAME = "value_head"


class ValueHead(nn.Module):
    """Linear layer from the last hidden state of each token to its value; initialised to zero.

    Args:
        hidden_size: hidden size of the policy (C).
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map hidden states (B, T, C) to values (B, T)."""
        return self.score(hidden_states.float()).squeeze(-1)


def add_value_head(policy: PreTrainedModel) -> None:
    """Add a value head to a model; it shares the model's trunk and is trained with it."""
    policy.add_module(NAME, ValueHead(policy.config.hidden_size))


def without_value_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the policy, without those of the value head."""
    return {name: weight for name, weight in weights.items() if not name.startswith(f"{NAME}.")}
