"""Attention for training on a processor, where rows are long, blocks are compiled and numbers are bfloat16.

Forward it is SDPA's own kernel. Its gradient takes six times as long there as its result; here it is made of plain
products over blocks of queries, in the way of Dao et al. 2022 (arXiv:2205.14135): the weights of a block are made anew
from what is known of their rows, and never held for the whole. What stands between the products is left to the
compiler; uncompiled it would be slower than SDPA, to which everything else goes.

Dimension letters: B batch, T tokens, H query heads, G key-value heads, D head size.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..models.precision import computed_dtype

BLOCKWISE = "blockwise"
LONG_ROW = 256  # tokens; up to here plain attention is as fast, and faster than SDPA
BLOCKS = 4  # of queries: 5/8 of all pairs are multiplied, where a causal row needs 1/2


def blockwise_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of a row to itself; arguments and result are those of `eager_attention_forward`, without the
    weights."""
    dtype, causal = computed_dtype(query), kwargs.get("is_causal", module.is_causal)
    suits = torch.compiler.is_compiling() and query.device.type == "cpu" and dtype == torch.bfloat16
    if not (suits and causal and attention_mask is None and not dropout and key.shape[2] == query.shape[2] > LONG_ROW):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    attended = _Blockwise.apply(query.to(dtype), key.to(dtype), value.to(dtype), scaling)
    return attended.transpose(1, 2).contiguous(), None


class _Blockwise(torch.autograd.Function):
    """With weights W = exp(S - logsumexp(S)) of scores S = Q K^T * scaling and a gradient G of W V, that of the scores
    is W * (G V^T - rowsum(G * W V)), from which those of queries and keys follow. As the scores are rounded, a row of
    weights does not sum to 1; what is left to do is done to the small matrices that it is multiplied with."""

    @staticmethod
    def forward(ctx, query, key, value, scaling):
        groups = query.shape[1] // key.shape[1]
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        repeated = repeat_kv(key, groups), repeat_kv(value, groups)  # (B, H, T, D)
        attended, logsumexp = attention(query, *repeated, 0.0, True, scale=scaling)  # (B, H, T, D), (B, H, T)
        ctx.save_for_backward(query, key, value, attended, logsumexp)
        ctx.scaling = scaling
        return attended

    @staticmethod
    def backward(ctx, grad):
        query, key, value, attended, logsumexp = ctx.saved_tensors
        length, dtype, groups = query.shape[2], query.dtype, query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        expected = (grad.float() * attended.float()).sum(-1, keepdim=True)  # (B, H, T, 1)
        grads_query, grad_key, grad_value = [], torch.zeros(()), torch.zeros(())
        for block in range(BLOCKS):
            start, end = length * block // BLOCKS, length * (block + 1) // BLOCKS
            rows = slice(start, end)
            own, own_grad, keys, values = query[:, :, rows], grad[:, :, rows], key[:, :, :end], value[:, :, :end]
            scores = (own @ keys.transpose(-1, -2)).float() * ctx.scaling
            sees = torch.arange(end)[None, :] <= torch.arange(start, end)[:, None]
            weights = torch.where(sees, (scores - logsumexp[:, :, rows, None]).exp(), 0.0).to(dtype)
            grad_scores = (own_grad @ values.transpose(-1, -2)).float() - expected[:, :, rows]
            grad_scores = (weights.float() * grad_scores * ctx.scaling).to(dtype)
            total = weights.float().sum(-1, keepdim=True)  # nearly 1
            own, own_grad = (own / total).to(dtype), (own_grad / total).to(dtype)
            grads_query.append((grad_scores @ keys / total).to(dtype))
            room = (0, 0, 0, length - end)
            grad_key = grad_key + nn.functional.pad(grad_scores.transpose(-1, -2) @ own, room).float()
            grad_value = grad_value + nn.functional.pad(weights.transpose(-1, -2) @ own_grad, room).float()
        grad_key, grad_value = (grad.unflatten(1, (-1, groups)).sum(2).to(dtype) for grad in (grad_key, grad_value))
        return torch.cat(grads_query, dim=2), grad_key, grad_value, None


AttentionInterface.register(BLOCKWISE, blockwise_attention_forward)
AttentionMaskInterface.register(BLOCKWISE, sdpa_mask)
