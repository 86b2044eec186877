"""The loss of a model that predicts tokens: the cross-entropy of what it expected and what came."""

import torch
from torch.nn import functional as F

ROWS = 512  # logits of so many positions exist at a time
COLUMNS = 8192  # gradients of so many tokens of the vocabulary are converted at a time


def linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    softcapping: float | None = None,
) -> torch.Tensor:
    """`F.cross_entropy(hidden_states @ weight.T + bias, labels, reduction="sum", label_smoothing=…)`, without ever
    holding all logits: they are made, scored and turned into gradients a few hundred positions at a time, while they
    lie in the processor's cache (Wijmans et al. 2024, arXiv:2411.09009, and Hsu et al. 2024, arXiv:2410.10989).

    Args:
        hidden_states: (N, C).
        weight, bias: of the head, (V, C) and (V,).
        labels: (N,); positions with -100 are not scored.
        label_smoothing: share of the target's probability that is spread over all tokens.
        softcapping: logits z become c tanh(z / c) with this c; without label smoothing only.

    Returns:
        The sum of the losses, a float32 scalar.
    """
    assert not (label_smoothing and softcapping), "no model has both"
    dtype = (
        torch.get_autocast_dtype(weight.device.type) if torch.is_autocast_enabled(weight.device.type) else weight.dtype
    )
    with torch.autocast(weight.device.type, enabled=False):  # what is float32 below is so for a reason
        return _LinearCrossEntropy.apply(
            hidden_states, weight, bias, labels, label_smoothing, softcapping, dtype, torch.is_grad_enabled()
        )


class _LinearCrossEntropy(torch.autograd.Function):
    """With p = softmax(z), the loss of a position is logsumexp(z) - (1 - s) z_y - s mean(z), and its gradient by z is
    p - (1 - s) [y] - s / V. The parts with s are the same for every token, so they are added as a whole. Where z is
    c tanh(x / c), the gradient by x is that by z times 1 - (z / c)²."""

    @staticmethod
    def forward(ctx, hidden_states, weight, bias, labels, smoothing, cap, dtype, wants_gradients):
        states, head = hidden_states.to(dtype), weight.to(dtype)
        head_bias = None if bias is None else bias.to(dtype)
        scored = labels != -100
        vocab_size = weight.shape[0]
        if smoothing:
            head_mean, bias_mean = head.float().mean(0), 0.0 if bias is None else bias.float().mean()
        grad_states = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=weight.device)
        for start in range(0, len(labels), ROWS):
            rows = slice(start, start + ROWS)
            keep = scored[rows, None]
            x, y = states[rows] * keep, labels[rows, None].clamp(min=0)
            logits = F.linear(x, head, head_bias).float()  # (R, V)
            if cap is not None:
                logits = logits.div_(cap).tanh_()
                slope = 1 - logits.square()
                logits *= cap
            highest, expected = logits.amax(-1, keepdim=True), logits.gather(1, y)
            probabilities = torch.softmax(logits, -1, out=logits)
            logsumexp = highest - probabilities.amax(-1, keepdim=True).log()  # that one is never rounded to 0
            losses = logsumexp - (1 - smoothing) * expected
            if smoothing:
                losses -= smoothing * ((x.float() @ head_mean)[:, None] + bias_mean)
            total += (losses * keep).sum()
            if not wants_gradients:
                continue
            probabilities.scatter_add_(1, y, torch.full_like(y, -(1 - smoothing), dtype=torch.float32))
            if cap is not None:
                probabilities *= slope
            grad_logits = probabilities.to(dtype)
            grad_x = grad_logits @ head
            add_product_(grad_weight, grad_logits, x)
            if smoothing:
                grad_x -= (smoothing * head_mean).to(dtype)
                grad_weight -= x.float().sum(0) * (smoothing / vocab_size)
            grad_states[rows] = grad_x * keep
            if grad_bias is not None:
                grad_bias += (keep.float().T @ probabilities)[0] - keep.sum() * (smoothing / vocab_size)
        ctx.save_for_backward(grad_states.to(hidden_states.dtype), grad_weight.to(weight.dtype), grad_bias)
        return total

    @staticmethod
    def backward(ctx, grad):
        grad_states, grad_weight, grad_bias = ctx.saved_tensors
        return (
            grad_states * grad,
            grad_weight * grad,
            None if grad_bias is None else grad_bias * grad,
            None,
            None,
            None,
            None,
            None,
        )


def add_product_(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left^T @ right, (R, V) and (R, C), to the total (V, C), in place. Where its dtype is wider, piece by piece:
    what is to be added is converted, and so no more than a piece of it ever exists."""
    if left.dtype == total.dtype:
        total.addmm_(left.T, right)
        return
    for part, columns in zip(total.split(COLUMNS), left.split(COLUMNS, dim=1), strict=True):
        part += columns.T @ right
