"""R-Drop: a model that reads each text twice, with other units dropped, should expect the same both times (Liang et al.
2021, arXiv:2106.14448)."""

from __future__ import annotations

import torch


def symmetric_divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(KL(p‖q) + KL(q‖p)) / 2 = ½ Σ (p - q)(log p - log q) for the distributions p and q of two sets of logits.

    Args:
        first, second: (N, V).

    Returns:
        The sum over the N positions, a float32 scalar.
    """
    p, q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q)).sum() / 2
