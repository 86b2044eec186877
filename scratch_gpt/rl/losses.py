"""Losses, advantages and KL estimates of policy-gradient methods and DPO, each a pure function of tensors.

Dimensions: B completions, T tokens of a completion, V vocabulary size. A mask (B, T) is true where a token was sampled
by the policy; values elsewhere have no effect.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def token_log_probs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities (B, T) of tokens under softmax(logits / temperature).

    Args:
        logits: (B, T, V), of any float dtype; the softmax is computed in float32.
        tokens: token ids (B, T); the result is 0 for negative ids.
        temperature: softmax temperature.
    """
    scores = logits.float() / temperature
    chosen = scores.gather(-1, tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1) - scores.logsumexp(dim=-1)
    return chosen.masked_fill(tokens < 0, 0.0)


def token_entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Entropy (B, T), in nats, of softmax(logits / temperature); the logits are (B, T, V)."""
    scores = logits.float() / temperature
    return scores.logsumexp(dim=-1) - (scores.softmax(dim=-1) * scores).sum(dim=-1)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values (B, T) where the mask is true."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()


def whiten(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Standardise values (B, T) to mean 0 and variance 1 where the mask is true; 0 elsewhere."""
    centred = (values - masked_mean(values, mask)).masked_fill(~mask, 0.0)
    variance = centred.square().sum() / (mask.sum() - 1).clamp(min=1)
    return centred * torch.rsqrt(variance + 1e-8)


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, equation 16).

        delta_t = r_t + gamma · V_{t+1} - V_t        A_t = delta_t + gamma · lambda · A_{t+1}

    Args:
        rewards: (B, T), reward for sampling token t.
        values: (B, T), value of the text before token t; 0 after the end of a completion.
        mask: (B, T); the sampled tokens of a row are contiguous.
        gamma: discount factor.
        gae_lambda: trade-off between bias and variance. With gamma 1 and lambda 1 the advantage is the sum of the
            remaining rewards minus the value.

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
    """Rewards (B,) minus the mean of the others: a baseline that is independent of the completion it is applied to, so
    that the gradient of REINFORCE stays unbiased (Kool et al. 2019, openreview.net/forum?id=r1lgTGL5DE)."""
    others = (rewards.sum() - rewards) / max(len(rewards) - 1, 1)
    return rewards - others


def group_advantages(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """Rewards (B,) standardised within each group of completions of the same prompt (GRPO: Shao et al. 2024,
    arXiv:2402.03300, section 4.1.2). Completions of one prompt are adjacent."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + 1e-4)).view(-1)


def policy_gradient_loss(log_probs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """-A · log p of each token (B, T), whose gradient is the REINFORCE estimator (Williams 1992)."""
    return -advantages * log_probs


def clipped_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, clip_range: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's objective (Schulman et al. 2017, arXiv:1707.06347, equation 7), as a loss.

        -min(ratio · A, clip(ratio, 1 - clip_range, 1 + clip_range) · A),   ratio = p / p_old

    Args:
        log_probs: (B, T), under the policy being trained.
        old_log_probs: (B, T), under the policy that sampled the tokens.
        advantages: (B, T).
        clip_range: epsilon of the clipped ratio.

    Returns:
        The loss of each token, and whether clipping zeroed its gradient, both (B, T).
    """
    ratio = (log_probs - old_log_probs).exp()
    free, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(free, clipped), clipped > free


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float
) -> torch.Tensor:
    """Clipped value loss of each token (B, T): half the larger of two squared errors, of the value and of the value
    clipped to within `clip_range` of the old one (Ziegler et al. 2019, arXiv:1909.08593, in their code).

    Args:
        values: (B, T), from the value head being trained.
        old_values: (B, T), from the value head when the tokens were sampled.
        returns: (B, T), the targets.
        clip_range: maximum change of a value.
    """
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def kl_estimate(log_probs: torch.Tensor, other_log_probs: torch.Tensor) -> torch.Tensor:
    """Estimate KL(p ‖ other) from tokens sampled from p: unbiased, never negative, of low variance, and suitable as a
    loss ("k3" in Schulman 2020, joschu.net/blog/kl-approx.html). All tensors are (B, T)."""
    difference = other_log_probs - log_probs
    return difference.exp() - difference - 1


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Loss (B,) of direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, equation 7).

        -log sigmoid(beta · ((chosen - reference_chosen) - (rejected - reference_rejected)))

    Args:
        chosen: log-probabilities (B,) of the chosen answers under the policy, summed over tokens.
        rejected: those of the rejected answers.
        reference_chosen: those of the chosen answers under the reference model.
        reference_rejected: those of the rejected answers under the reference model.
        beta: strength of the KL constraint to the reference model.
    """
    return -F.logsigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))
