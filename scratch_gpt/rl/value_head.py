"""How much reward is still to be expected: what PPO learns beside the policy, and nobody publishes."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

NAME = "value_head"


class ValueHead(nn.Module):
    """A number from the last hidden state of each token. It begins as 0 everywhere.

    Args:
        hidden_size: of the policy (C).
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, T, C) to (B, T)."""
        return self.score(hidden_states.float()).squeeze(-1)


def add_value_head(policy: PreTrainedModel) -> None:
    """Give a model a head, which shares its trunk and is trained with it."""
    policy.add_module(NAME, ValueHead(policy.config.hidden_size))


def without_value_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of the policy alone."""
    return {name: weight for name, weight in weights.items() if not name.startswith(f"{NAME}.")}
