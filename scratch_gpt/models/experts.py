"""A mixture of experts: several feed-forward networks, of which a router chooses a few for each token, so that a model
has many parameters and computes with few of them (Shazeer et al. 2017, arXiv:1701.06538).

Dimension letters: N tokens, E experts, K experts per token, C hidden size, I intermediate size.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .feed_forward import ACTIVATIONS


class Router(nn.Module):
    """Scores the experts for each token, and chooses the best (Fedus et al. 2021, arXiv:2101.03961)."""

    def __init__(self, config):
        super().__init__()
        self.num_experts_per_tok = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose experts for hidden states (N, C).

        Returns:
            The logits of all experts (N, E); the weights of the chosen ones (N, K), which are their probabilities,
            divided by their sum if the config says so; and their indices (N, K).
        """
        logits = F.linear(hidden_states, self.weight)  # (N, E)
        weights, chosen = logits.softmax(dim=-1, dtype=torch.float32).topk(self.num_experts_per_tok, dim=-1)  # (N, K)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights.to(hidden_states.dtype), chosen


class Experts(nn.Module):
    """Gated feed-forward networks, down(act(gate(x)) * up(x)), whose weights are stacked."""

    def __init__(self, config):
        super().__init__()
        experts, hidden_size, intermediate_size = config.num_experts, config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * intermediate_size, hidden_size))  # (E, 2 I, C)
        self.down_proj = nn.Parameter(torch.empty(experts, hidden_size, intermediate_size))  # (E, C, I)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The weighted sum (N, C) of the outputs of the chosen experts.

        Args:
            hidden_states: of the tokens (N, C).
            weights: of each token's experts (N, K).
            chosen: indices of each token's experts (N, K).
        """
        if torch.compiler.is_compiling() and not self.training:  # the loop below depends on the data
            return self.gathered(hidden_states, weights, chosen)
        output = torch.zeros_like(hidden_states)
        for index in chosen.unique().tolist():
            tokens, rank = torch.where(chosen == index)  # the tokens that chose this expert, and as which of K
            gate, up = F.linear(hidden_states[tokens], self.gate_up_proj[index]).chunk(2, dim=-1)
            expert_output = F.linear(self.activation(gate) * up, self.down_proj[index])  # (tokens, C)
            output.index_add_(0, tokens, (expert_output * weights[tokens, rank, None]).to(output.dtype))
        return output

    def gathered(self, hidden_states: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The same in operations that do not depend on the data, for compiled decoding of a few tokens: the weights of
        each token's experts are copied, which takes N * K times the memory of an expert."""
        gate_up = torch.einsum("nc,nkic->nki", hidden_states, self.gate_up_proj[chosen])  # (N, K, 2 I)
        gate, up = gate_up.chunk(2, dim=-1)
        outputs = torch.einsum("nki,nkci->nkc", self.activation(gate) * up, self.down_proj[chosen])  # (N, K, C)
        return (outputs * weights[..., None]).sum(dim=1).to(hidden_states.dtype)


class MixtureOfExperts(nn.Module):
    """A router and its experts, in place of a feed-forward network."""

    def __init__(self, config):
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transform hidden states (..., C) to (..., C)."""
        tokens = hidden_states.flatten(0, -2)  # (N, C)
        _, weights, chosen = self.gate(tokens)
        return self.experts(tokens, weights, chosen).view_as(hidden_states)


def load_balancing_loss(
    router_logits: tuple[torch.Tensor, ...], num_experts_per_tok: int, attention_mask: Any = None
) -> torch.Tensor:
    """E * sum over experts of f * P: f is the number of times that an expert was chosen per token, P its mean
    probability; smallest if all experts are chosen equally often (Fedus et al. 2021, arXiv:2101.03961, equations 4 to
    6, over the tokens of all layers together as in Mixtral).

    Args:
        router_logits: of each layer (N, E).
        num_experts_per_tok: number of experts that process a token, K.
        attention_mask: 1 for tokens and 0 for padding (B, cached tokens + T), with N = B * T; padding is not counted.
            Masks of another form are ignored.

    Returns:
        The loss, a scalar.
    """
    logits = torch.cat([layer.float() for layer in router_logits])  # (layers * N, E)
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        new = attention_mask[:, -(len(router_logits[0]) // len(attention_mask)) :]  # (B, T)
        logits = logits[new.flatten().bool().repeat(len(router_logits))]
    probabilities = logits.softmax(dim=-1)
    chosen = F.one_hot(probabilities.topk(num_experts_per_tok, dim=-1).indices, logits.shape[-1])  # (layers * N, K, E)
    chosen_share = chosen.float().sum(dim=1).mean(dim=0)  # (E,)
    return logits.shape[-1] * (chosen_share * probabilities.mean(dim=0)).sum()


def check_router_gradient(loss: torch.Tensor, router: nn.Module) -> None:
    """Check that a load balancing loss has a gradient, if the router is trained.

    Raises:
        ValueError: if it has none, because the blocks were computed without a graph.
    """
    if not loss.requires_grad and any(parameter.requires_grad for parameter in router.parameters()):
        raise ValueError(
            "the load balancing loss has no gradient, since gradient checkpointing with use_reentrant=True computes "
            "the blocks without a graph: use use_reentrant=False, or set output_router_logits=False to train without it"
        )
