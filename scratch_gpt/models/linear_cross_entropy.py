"""The loss of all models here: the cross-entropy of predictions and labels, as a mean over the scored positions.

Positions whose label is -100 are not scored. A batch may score none: its loss is then 0, and so is its gradient, where
the mean of `F.cross_entropy` is NaN.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .autocast import computed_dtype

ROWS = 512  # logits of so many positions exist at a time
SCORED = 2**19  # so many logits are turned into gradients at a time on a processor, within its cache
COLUMNS = 8192  # gradients of so many tokens of the vocabulary are converted at a time


def token_loss(
    labels: torch.Tensor,
    logits: torch.Tensor | None = None,
    hidden_states: torch.Tensor | None = None,
    head: nn.Linear | None = None,
    num_items_in_batch: int | torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    softcapping: float | None = None,
) -> torch.Tensor:
    """The mean cross-entropy of the scored positions, computed in float32.

    Args:
        labels: (...), as many as there are predictions, already shifted; positions with -100 are not scored.
        logits: (..., V).
        hidden_states, head: instead of the logits: states (..., C) and the layer that maps them to logits, which are
            then never held all at once.
        num_items_in_batch: divide the summed loss by this number, not by the count of scored positions here.
        label_smoothing: share of the target's probability that is spread over all tokens.
        softcapping: cap of the logits that `hidden_states` and `head` give; given logits are taken as they are.

    Returns:
        A scalar; 0, with a gradient of zeros, where no position is scored.
    """
    if logits is not None:
        flat, targets = logits.float().flatten(0, -2), labels.flatten().to(logits.device)
        total = F.cross_entropy(flat, targets, reduction="sum", label_smoothing=label_smoothing)
    else:
        assert hidden_states is not None, "give logits, or hidden states and a head"
        assert head is not None, "give logits, or hidden states and a head"
        flat, targets = hidden_states.flatten(0, -2), labels.flatten().to(hidden_states.device)
        total = linear_cross_entropy(flat, head.weight, targets, head.bias, label_smoothing, softcapping)
    divisor = scored_items(targets, num_items_in_batch)
    return total / (divisor.to(total.device) if isinstance(divisor, torch.Tensor) else divisor)


def scored_items(
    labels: torch.Tensor, num_items_in_batch: int | torch.Tensor | None = None
) -> int | float | torch.Tensor:
    """What a sum of losses is divided by: the number of scored labels, or the one given; at least 1."""
    if num_items_in_batch is None:
        num_items_in_batch = (labels != -100).sum()
    if isinstance(num_items_in_batch, torch.Tensor):
        return num_items_in_batch.clamp(min=1)
    return max(num_items_in_batch, 1)


def next_token_labels(labels: torch.Tensor) -> torch.Tensor:
    """Labels (B, T) of a causal model, shifted so that position t holds token t + 1; -100 at the end."""
    return F.pad(labels, (0, 1), value=-100)[:, 1:]


def linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    softcapping: float | None = None,
) -> torch.Tensor:
    """`F.cross_entropy(hidden_states @ weight.T + bias, labels, reduction="sum", label_smoothing=…)`, without ever
    holding all logits: they are made, scored and turned into gradients a few hundred positions at a time
    (Wijmans et al. 2024, arXiv:2411.09009, and Hsu et al. 2024, arXiv:2410.10989).

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
    dtype = computed_dtype(weight)
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
        needs_states, needs_weight, needs_bias = (wants_gradients and needed for needed in ctx.needs_input_grad[:3])
        wants_gradients = needs_states or needs_weight or needs_bias
        # First: the place of the last step's is free, and smaller blocks would cut it up.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        states, head = hidden_states.to(dtype), weight.to(dtype)
        head_bias = None if bias is None else bias.to(dtype)
        scored = labels != -100
        vocab_size = weight.shape[0]
        if smoothing:
            head_mean, bias_mean = head.float().mean(0), 0.0 if bias is None else bias.float().mean()
        grad_states = torch.empty_like(states) if needs_states else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        total = torch.zeros((), dtype=torch.float32, device=weight.device)
        at_once = max(1, SCORED // vocab_size) if weight.device.type == "cpu" else ROWS
        for start in range(0, len(labels), ROWS):
            rows = slice(start, start + ROWS)
            keep = scored[rows, None]
            x, y = states[rows] * keep, labels[rows, None].clamp(min=0)
            grad_logits = F.linear(x, head, head_bias)  # (R, V); as yet the logits, which their gradients replace
            pieces = zip(grad_logits.split(at_once), y.split(at_once), strict=True)
            losses = torch.cat([score_(logits, own, smoothing, cap, wants_gradients) for logits, own in pieces])
            if smoothing:
                losses -= smoothing * ((x.float() @ head_mean)[:, None] + bias_mean)
            total += (losses * keep).sum()
            if not wants_gradients:
                continue
            if grad_weight is not None:
                add_product_(grad_weight, grad_logits, x)
                if smoothing:
                    grad_weight -= x.float().sum(0) * (smoothing / vocab_size)
            if grad_states is not None:
                grad_x = grad_logits @ head
                if smoothing:
                    grad_x -= (smoothing * head_mean).to(dtype)
                grad_states[rows] = grad_x * keep
            if grad_bias is not None:
                grad_bias += grad_logits.mul_(keep).sum(0, dtype=torch.float32) - keep.sum() * (smoothing / vocab_size)
        ctx.save_for_backward(
            None if grad_states is None else grad_states.to(hidden_states.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            grad_bias,
        )
        return total

    @staticmethod
    def backward(ctx, grad):
        grads = (None if saved is None else saved * grad for saved in ctx.saved_tensors)
        return (*grads, None, None, None, None, None)


def score_(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float, cap: float | None, wants_gradients: bool
) -> torch.Tensor:
    """The losses (R, 1) of labels (R, 1) in float32, but for the part of smoothing that all tokens share; in the place
    of the logits (R, V), if wanted, the gradients by them, likewise."""
    scores = logits.float()
    if cap is not None:
        scores = scores.div_(cap).tanh_()
        slope = 1 - scores.square()
        scores *= cap
    highest, expected = scores.amax(-1, keepdim=True), scores.gather(1, labels)
    probabilities = torch.softmax(scores, -1, out=scores)
    logsumexp = highest - probabilities.amax(-1, keepdim=True).log()  # that one is never rounded to 0
    if wants_gradients:
        probabilities.scatter_add_(1, labels, torch.full_like(expected, smoothing - 1))
        if cap is not None:
            probabilities *= slope
        logits.copy_(probabilities)
    return logsumexp - (1 - smoothing) * expected


def add_product_(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left^T @ right, (R, V) and (R, C), to the total (V, C), in place. Where its dtype is wider, piece by piece:
    what is to be added is converted, and so no more than a piece of it ever exists."""
    if left.dtype == total.dtype:
        total.addmm_(left.T, right)
        return
    for part, columns in zip(total.split(COLUMNS), left.split(COLUMNS, dim=1), strict=True):
        part += columns.T @ right
