"""Formulas of learning from rewards and preferences, each a pure function of tensors.

Letters: B completions, T tokens of a completion, V size of the vocabulary. A mask (B, T) is true where a token was
chosen by the policy; what stands elsewhere changes nothing.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def token_log_probs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of tokens (B, T) under what they are drawn from, softmax(logits / temperature).

    Args:
        logits: (B, T, V), of any float type; the softmax is taken in float32.
        tokens: (B, T) ids; negative ones get 0.
    """
    scores = logits.float() / temperature
    chosen = scores.gather(-1, tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1) - scores.logsumexp(dim=-1)
    return chosen.masked_fill(tokens < 0, 0.0)


def token_entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Entropy of the distribution that each token is drawn from (B, T), in nats; the logits are (B, T, V)."""
    scores = logits.float() / temperature
    return scores.logsumexp(dim=-1) - (scores.softmax(dim=-1) * scores).sum(dim=-1)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values (B, T) where the mask is true."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()


def whiten(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The values with mean 0 and variance 1 where the mask is true, and 0 elsewhere."""
    centred = (values - masked_mean(values, mask)).masked_fill(~mask, 0.0)
    variance = centred.square().sum() / (mask.sum() - 1).clamp(min=1)
    return centred * torch.rsqrt(variance + 1e-8)


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, equation 16).

        delta_t = r_t + gamma · V_{t+1} - V_t        A_t = delta_t + gamma · lambda · A_{t+1}

    Args:
        rewards: (B, T), of the step that chooses token t.
        values: (B, T), of the text before token t; behind a completion the value is 0.
        mask: (B, T); the chosen tokens of a row stand side by side.
        gamma, gae_lambda: with both 1, the advantage is what is still to come, minus the value.

    Returns:
        Advantages and returns (advantage + value), each (B, T), 0 where the mask is false.
    """
    rewards, values = (x.masked_fill(~mask, 0.0) for x in (rewards, values))
    advantages, following = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    following_value = torch.zeros_like(following)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        following = (delta + gamma * gae_lambda * following).masked_fill(~mask[:, t], 0.0)
        following_value = values[:, t]
        advantages[:, t] = following
    return advantages, (advantages + values).masked_fill(~mask, 0.0)


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards (B,) minus the mean of the others: a baseline that does not depend on the completion that it judges, and
    so leaves the gradient of REINFORCE unbiased (Kool et al. 2019, openreview.net/forum?id=r1lgTGL5DE)."""
    others = (rewards.sum() - rewards) / max(len(rewards) - 1, 1)
    return rewards - others


def group_advantages(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """Rewards (B,) relative to those of the same prompt, in units of their deviation (GRPO: Shao et al. 2024,
    arXiv:2402.03300, section 4.1.2). Completions of one prompt stand side by side."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + 1e-4)).view(-1)


def policy_gradient_loss(log_probs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """-A · log p, of each token (B, T): its gradient is that of REINFORCE (Williams 1992)."""
    return -advantages * log_probs


def clipped_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, clip_range: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's objective (Schulman et al. 2017, arXiv:1707.06347, equation 7), as a loss.

        -min(ratio · A, clip(ratio, 1 - clip_range, 1 + clip_range) · A),   ratio = p / p_old

    Returns:
        The loss of each token, and whether clipping took its gradient, both (B, T).
    """
    ratio = (log_probs - old_log_probs).exp()
    free, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(free, clipped), clipped > free


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float
) -> torch.Tensor:
    """Half the squared error of each value (B, T), the greater of two: as it is, and held within `clip_range` of the
    old one (Ziegler et al. 2019, arXiv:1909.08593, in their code)."""
    held = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns).square(), (held - returns).square())


def kl_estimate(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """An estimate of KL(p ‖ other) from tokens that p chose: unbiased, never negative, of low variance, and fit to be
    differentiated ("k3" in Schulman 2020, joschu.net/blog/kl-approx.html)."""
    difference = other_log_probs - log_probs
    return difference.exp() - difference - 1


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """The loss of each pair (B,) in direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, equation
    7), from log-probabilities of whole answers (B,).

        -log sigmoid(beta · ((chosen - reference_chosen) - (rejected - reference_rejected)))
    """
    return -F.logsigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))
