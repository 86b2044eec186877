"""Attention for training on a processor, where blocks are compiled: plain products over blocks of queries.

A causal row needs half of all pairs of tokens, and a block of queries leaves out the keys behind its last one. SDPA
leaves them out, too, but its gradient takes twice as long as its result, in bfloat16 six times. Of rows that are not
too long the weights are held for the way back; of longer ones they are made anew from what is known of them, in the way
of Dao et al. 2022 (arXiv:2205.14135), so that memory grows with the tokens and not with their square. What stands
between the products is left to the compiler; uncompiled this would be slower than SDPA.

Dimension letters: B batch, H query heads, G key-value heads, N = B * H, T tokens, S those up to a block's end, D head
size.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ...models.attention import eager_attention_forward
from ...models.autocast import computed_dtype

BLOCKWISE = "blockwise"
BLOCK = 128  # queries at least; smaller products take longer for each number
MOST_BLOCKS = 4  # of which 5/8 of all pairs are multiplied; more take long to compile
SHORT_ROW = 256  # tokens; up to here eager attention is taken in bfloat16, where it is faster than SDPA, or compiled
PLAIN_ROW = 64  # tokens; up to here it is as fast in float32, uncompiled; at 256 it takes up to a third longer on AMD
LONG_ROW = 512  # tokens; of longer ones weights are not held, in float32 SDPA is faster


def blockwise_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Causal attention of a row to itself; arguments and result are those of `eager_attention_forward`, without the
    weights where the row is cut into blocks."""
    dtype, length = computed_dtype(query), query.shape[2]
    causal = kwargs.get("is_causal", module.is_causal) and attention_mask is None and key.shape[2] == length > 1
    if not causal or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    suits = dtype == torch.bfloat16 or (dtype == torch.float32 and length <= LONG_ROW)
    if torch.compiler.is_compiling() and suits and not dropout and length > BLOCK:
        groups = query.shape[1] // key.shape[1]
        inputs = [x.to(dtype) for x in (query, repeat_kv(key, groups), repeat_kv(value, groups))]  # (B, H, T, D)
        if length > LONG_ROW:
            attended = _BlockwiseAnew.apply(*inputs, scaling)
        else:
            attended = _Blockwise.apply(*(x.contiguous().flatten(0, 1) for x in inputs), scaling)  # (N, T, D)
        return attended.reshape(query.shape).transpose(1, 2).contiguous(), None
    plain = PLAIN_ROW if dtype == torch.float32 and not torch.compiler.is_compiling() else SHORT_ROW
    if length > plain:
        return sdpa_attention_forward(module, query, key, value, None, dropout, scaling, **kwargs)
    mask = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)
    return eager_attention_forward(module, query, key, value, mask, scaling, dropout)


class _Blockwise(torch.autograd.Function):
    """With weights W = softmax(S) of scores S = Q K^T * scaling and a gradient G of W V, that of the scores is
    W * (G V^T - rowsum(W * G V^T)), from which those of queries and keys follow. Dimensions are (N, T, D)."""

    @staticmethod
    def forward(ctx, query, key, value, scaling):
        weights, attended = [], []
        for rows, end in blocks(query.shape[1]):
            scores = (query[:, rows] @ key[:, :end].mT).float() * scaling
            keys = torch.arange(end, dtype=torch.int32)  # as wide as the scores: compared as many at once
            scores = torch.where(keys <= keys[rows, None], scores, float("-inf"))  # (N, rows, S)
            weights.append(scores.softmax(dim=-1).to(query.dtype))
            attended.append(weights[-1] @ value[:, :end])
        ctx.save_for_backward(query, key, value, *weights)
        ctx.scaling = scaling
        return torch.cat(attended, dim=1)

    @staticmethod
    def backward(ctx, grad):
        query, key, value, *known = ctx.saved_tensors
        length, dtype, grad = query.shape[1], query.dtype, grad.contiguous()
        grads_query, grad_key, grad_value = [], torch.zeros(()), torch.zeros(())
        for weights, (rows, end) in zip(known, blocks(length), strict=True):
            grad_weights = (grad[:, rows] @ value[:, :end].mT).float()
            total = (weights.float() * grad_weights).sum(dim=-1, keepdim=True)
            grad_scores = (weights.float() * (grad_weights - total) * ctx.scaling).to(dtype)
            grads_query.append(grad_scores @ key[:, :end])
            room = (0, 0, 0, length - end)
            grad_key = grad_key + nn.functional.pad(grad_scores.mT @ query[:, rows], room).float()
            grad_value = grad_value + nn.functional.pad(weights.mT @ grad[:, rows], room).float()
        return torch.cat(grads_query, dim=1), grad_key.to(dtype), grad_value.to(dtype), None


class _BlockwiseAnew(torch.autograd.Function):
    """The same without W, which is exp(S - logsumexp(S)); and rowsum(W * G V^T) is rowsum(G * W V). As these scores are
    rounded, a row of weights does not sum to 1; what is left to do is done to the small matrices that it is multiplied
    with. Dimensions are (B, H, T, D), so that SDPA's kernel reads and writes as the rest of the block does."""

    @staticmethod
    def forward(ctx, query, key, value, scaling):
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        attended, logsumexp = attention(query, key, value, 0.0, True, scale=scaling)  # (B, H, T, D), (B, H, T)
        ctx.save_for_backward(query, key, value, attended, logsumexp)
        ctx.scaling = scaling
        return attended

    @staticmethod
    def backward(ctx, grad):
        query, key, value, attended, logsumexp = ctx.saved_tensors
        length, dtype = query.shape[2], query.dtype
        expected = (grad.float() * attended.float()).sum(-1, keepdim=True)  # (B, H, T, 1)
        grads_query, grad_key, grad_value = [], torch.zeros(()), torch.zeros(())
        for rows, end in blocks(length):
            own, own_grad, keys, values = query[:, :, rows], grad[:, :, rows], key[:, :, :end], value[:, :, :end]
            scores = (own @ keys.transpose(-1, -2)).float() * ctx.scaling
            sees = torch.arange(end)[None, :] <= torch.arange(rows.start, end)[:, None]
            weights = torch.where(sees, (scores - logsumexp[:, :, rows, None]).exp(), 0.0).to(dtype)
            grad_scores = (own_grad @ values.transpose(-1, -2)).float() - expected[:, :, rows]
            grad_scores = (weights.float() * grad_scores * ctx.scaling).to(dtype)
            total = weights.float().sum(-1, keepdim=True)  # nearly 1
            own, own_grad = (own / total).to(dtype), (own_grad / total).to(dtype)
            grads_query.append((grad_scores @ keys / total).to(dtype))
            room = (0, 0, 0, length - end)
            grad_key = grad_key + nn.functional.pad(grad_scores.transpose(-1, -2) @ own, room).float()
            grad_value = grad_value + nn.functional.pad(weights.transpose(-1, -2) @ own_grad, room).float()
        return torch.cat(grads_query, dim=2), grad_key.to(dtype), grad_value.to(dtype), None


def blocks(length: int) -> Iterator[tuple[slice, int]]:
    """The rows of each block of queries, and how many keys they may look at together."""
    count = min(MOST_BLOCKS, -(-length // BLOCK))
    for i in range(count):
        start, end = length * i // count, length * (i + 1) // count
        yield slice(start, end), end


AttentionInterface.register(BLOCKWISE, blockwise_attention_forward)
AttentionMaskInterface.register(BLOCKWISE, sdpa_mask)
