"""The loss of all models: the mean cross-entropy of the scored positions.

Positions whose label is -100 are not scored. If a batch has no scored position, the loss and its gradient are 0, where
the mean of `F.cross_entropy` is NaN.

Dimension letters: N positions, R positions of a chunk, C hidden size, V vocabulary.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .autocast import computed_dtype

POSITIONS_PER_CHUNK = 512  # positions whose logits are in memory at the same time
LOGITS_PER_PIECE = 2**19  # on the CPU, logits whose gradients are computed at the same time, so that they fit its cache
VOCAB_PER_PIECE = 8192  # tokens of the vocabulary whose gradients are cast at the same time


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
        hidden_states, head: instead of the logits, states (..., C) and the layer that maps them to logits; the logits
            are then never all in memory at the same time.
        num_items_in_batch: divide the summed loss by this number instead of the number of scored positions.
        label_smoothing: fraction of the target's probability that is distributed over all tokens.
        softcapping: cap of the logits that are computed from `hidden_states` and `head`; it is not applied to `logits`.

    Returns:
        A scalar; 0, with a gradient of zeros, if no position is scored.
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
    """The divisor of a summed loss: `num_items_in_batch` if given, otherwise the number of labels that are not -100; at
    least 1. The labels may have any shape."""
    if num_items_in_batch is None:
        num_items_in_batch = (labels != -100).sum()
    if isinstance(num_items_in_batch, torch.Tensor):
        return num_items_in_batch.clamp(min=1)
    return max(num_items_in_batch, 1)


def next_token_labels(labels: torch.Tensor) -> torch.Tensor:
    """Labels (B, T) of a causal model, shifted so that position t holds token t + 1; -100 at the end."""
    return F.pad(labels, (0, 1), value=-100)[:, 1:]


def shift_right(labels: torch.Tensor, decoder_start_token_id: int, pad_token_id: int) -> torch.Tensor:
    """Labels (B, T), shifted right by one to the decoder's inputs (B, T); -100 becomes padding."""
    shifted = labels.roll(1, dims=-1)
    shifted[:, 0] = decoder_start_token_id
    return shifted.masked_fill(shifted == -100, pad_token_id)


def linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    softcapping: float | None = None,
) -> torch.Tensor:
    """`F.cross_entropy(hidden_states @ weight.T + bias, labels, reduction="sum", label_smoothing=…)` without all
    logits in memory: logits, losses and gradients are computed for a chunk of a few hundred positions at a time
    (Wijmans et al. 2024, arXiv:2411.09009, and Hsu et al. 2024, arXiv:2410.10989).

    Args:
        hidden_states: (N, C).
        weight, bias: of the head, (V, C) and (V,).
        labels: (N,); positions with -100 are not scored.
        label_smoothing: fraction of the target's probability that is distributed over all tokens.
        softcapping: c in logits = c tanh(logits / c); not with label smoothing.

    Returns:
        The sum of the losses, a float32 scalar.
    """
    assert not (label_smoothing and softcapping), "no model has both"
    dtype = computed_dtype(weight)
    with torch.autocast(weight.device.type, enabled=False):  # which would cast the float32 products below to 16 bits
        return _LinearCrossEntropy.apply(
            hidden_states, weight, bias, labels, label_smoothing, softcapping, dtype, torch.is_grad_enabled()
        )


class _LinearCrossEntropy(torch.autograd.Function):
    """With logits z, p = softmax(z), label y and label smoothing s, the loss of a position is
    logsumexp(z) - (1 - s) z_y - s mean(z), and its gradient with respect to z is p - (1 - s) onehot(y) - s / V. The
    terms s mean(z) and s / V are the same for every label, so they are computed separately, from the mean of the head's
    rows. If z = c tanh(u / c), the gradient with respect to u is that with respect to z times 1 - (z / c)²."""

    @staticmethod
    def forward(ctx, hidden_states, weight, bias, labels, smoothing, cap, dtype, grad_enabled):
        needs_states, needs_weight, needs_bias = (grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        needs_grad = needs_states or needs_weight or needs_bias
        # Allocated first, so that it reuses the last step's block of memory before smaller tensors fragment it.
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
        chunk = piece_size = POSITIONS_PER_CHUNK
        if weight.device.type == "cpu":
            piece_size = max(1, LOGITS_PER_PIECE // vocab_size)
            chunk = max(chunk, piece_size)  # with a small vocabulary, fewer operations
        for start in range(0, len(labels), chunk):
            rows = slice(start, start + chunk)
            keep = scored[rows, None]  # (R, 1)
            x, y = states[rows] * keep, labels[rows, None].clamp(min=0)  # (R, C), (R, 1)
            grad_logits = F.linear(x, head, head_bias)  # (R, V): the logits, which their gradients overwrite
            pieces = zip(grad_logits.split(piece_size), y.split(piece_size), strict=True)
            losses = torch.cat([losses_and_grads_(*piece, smoothing, cap, needs_grad) for piece in pieces])
            if smoothing:
                losses -= smoothing * ((x.float() @ head_mean)[:, None] + bias_mean)
            total += (losses * keep).sum()
            if not needs_grad:
                continue
            if grad_weight is not None:
                add_matmul_(grad_weight, grad_logits, x)
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


def losses_and_grads_(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float, cap: float | None, needs_grad: bool
) -> torch.Tensor:
    """The losses (R, 1) in float32; if requested, the logits are overwritten by their gradients. Both without the terms
    of label smoothing that are the same for every label.

    Args:
        logits: (R, V), before soft-capping.
        labels: (R, 1), each a token of the vocabulary.
        smoothing: label smoothing.
        cap: cap of the logits, if any.
        needs_grad: whether to overwrite the logits by their gradients.
    """
    scores = logits.float()
    if cap is not None:
        scores = scores.div_(cap).tanh_()
        slope = 1 - scores.square()
        scores *= cap
    highest, target = scores.amax(-1, keepdim=True), scores.gather(1, labels)  # each (R, 1)
    probabilities = torch.softmax(scores, -1, out=scores)
    logsumexp = highest - probabilities.amax(-1, keepdim=True).log()  # the largest is never rounded to 0
    if needs_grad:
        probabilities.scatter_add_(1, labels, torch.full_like(target, smoothing - 1))
        if cap is not None:
            probabilities *= slope
        logits.copy_(probabilities)
    return logsumexp - (1 - smoothing) * target


def add_matmul_(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left^T @ right, of (R, V) and (R, C), to the total (V, C), in place. If the total has a wider dtype, the
    product is computed and cast piece by piece, so that only a piece of it is in memory at the same time."""
    if left.dtype == total.dtype:
        total.addmm_(left.T, right)
        return
    for part, columns in zip(total.split(VOCAB_PER_PIECE), left.split(VOCAB_PER_PIECE, dim=1), strict=True):
        part += columns.T @ right
