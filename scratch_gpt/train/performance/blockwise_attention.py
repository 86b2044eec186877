"""Causal attention for training on a CPU: matrix products over blocks of queries.

Causal attention needs half of all query-key pairs; a block of queries skips the keys after its last query. SDPA skips
them too, but its backward pass takes twice as long as its forward pass, in bfloat16 six times. For sequences of
moderate length, the attention weights are stored for the backward pass; for longer ones they are recomputed, as in
Dao et al. 2022 (arXiv:2205.14135), so that memory is linear in the length. The latter relies on compilation of the
operations between its products.

Dimension letters: B batch, H query heads, G key-value heads, N = B * H, T tokens, S tokens up to a block's end, D head
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
BLOCK = 128  # minimum number of queries per block; smaller products are less efficient
MAX_BLOCKS = 4  # with four blocks, 5/8 of all pairs are computed; more blocks take long to compile
SHORT_ROW = 256  # tokens; up to here eager attention is faster than SDPA, except in uncompiled float32
LONG_ROW = 512  # tokens; for longer sequences attention weights are not stored, and in float32 SDPA is faster


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
    """Causal self-attention. Arguments and result are those of `eager_attention_forward`; the attention weights are not
    returned if the sequence is divided into blocks.

    Args:
        module: the attention module.
        query: (B, H, T, D).
        key, value: (B, G, S, D).
        attention_mask: None, or true where a query may attend (B, 1, T, S), such as within its document; it excludes
            the tokens after the query. If it is added to the scores, SDPA is used.
        scaling: factor of the scores.
        dropout: dropout probability of the attention weights.
        kwargs: further arguments of SDPA, such as `is_causal`.

    Returns:
        The output (B, T, H, D), and the attention weights or None.

    Raises:
        ValueError: if the scores are to be soft-capped, which neither SDPA nor the blocks support.
    """
    if kwargs.get("softcap") is not None:
        raise ValueError("blockwise attention does not support soft-capped scores: use 'eager' or 'flex_attention'")
    dtype, length = computed_dtype(query), query.shape[2]
    causal = kwargs.get("is_causal", module.is_causal) and key.shape[2] == length > 1
    is_added = attention_mask is not None and attention_mask.dtype != torch.bool  # such as relative positions
    if not causal or is_added or query.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float32):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    is_compiled, is_bf16 = torch.compiler.is_compiling(), dtype == torch.bfloat16
    stores_weights = length <= LONG_ROW and (is_compiled or is_bf16)
    recomputes = length > LONG_ROW and is_compiled and is_bf16 and attention_mask is None
    if not dropout and (stores_weights or recomputes):
        groups = query.shape[1] // key.shape[1]
        inputs = [x.to(dtype) for x in (query, repeat_kv(key, groups), repeat_kv(value, groups))]  # (B, H, T, D)
        if recomputes:
            attended = _BlockwiseRecomputed.apply(*inputs, scaling)
        else:
            attended = _Blockwise.apply(*inputs, attention_mask, scaling)
        return attended.transpose(1, 2).contiguous(), None
    if length > SHORT_ROW or not (dropout or is_compiled or is_bf16):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    visible = _causal(slice(0, length), length) if attention_mask is None else attention_mask
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return eager_attention_forward(module, query, key, value, mask, scaling, dropout)


class _Blockwise(torch.autograd.Function):
    """Blockwise attention that stores the attention weights. With weights W = softmax(S) of scores S = Q K^T * scaling
    and a gradient G of W V, the gradient of the scores is W * (G V^T - rowsum(W * G V^T)), from which those of queries
    and keys follow. Shapes are (B, H, T, D)."""

    @staticmethod
    def forward(ctx, query, key, value, mask, scaling):
        batch_and_heads = query.shape[:2]
        query, key, value = (x.contiguous().flatten(0, 1) for x in (query * scaling, key, value))  # (N, T, D)
        weights, attended = [], []
        for rows, end in blocks(query.shape[1]):
            visible = _causal(rows, end) if mask is None else mask[:, :, rows, :end]
            scores = query[:, rows] @ key[:, :end].mT  # (N, rows, S)
            scores.unflatten(0, batch_and_heads).masked_fill_(~visible, torch.finfo(scores.dtype).min)
            weights.append(scores.softmax(dim=-1))
            attended.append(weights[-1] @ value[:, :end])
        ctx.save_for_backward(query, key, value, *weights)
        ctx.scaling, ctx.batch_and_heads = scaling, batch_and_heads
        return torch.cat(attended, dim=1).unflatten(0, batch_and_heads)

    @staticmethod
    def backward(ctx, grad):
        query, key, value, *known = ctx.saved_tensors
        length, dtype, grad = query.shape[1], query.dtype, grad.contiguous().flatten(0, 1)
        grads_query, grad_key, grad_value = [], torch.zeros(()), torch.zeros(())
        for weights, (rows, end) in zip(known, blocks(length), strict=True):
            grad_weights = grad[:, rows] @ value[:, :end].mT
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, dtype)
            grads_query.append(grad_scores @ key[:, :end] * ctx.scaling)
            room = (0, 0, 0, length - end)
            grad_key = grad_key + nn.functional.pad(grad_scores.mT @ query[:, rows], room).float()
            grad_value = grad_value + nn.functional.pad(weights.mT @ grad[:, rows], room).float()
        grads = (torch.cat(grads_query, dim=1), grad_key.to(dtype), grad_value.to(dtype))
        return *(x.unflatten(0, ctx.batch_and_heads) for x in grads), None, None


class _BlockwiseRecomputed(torch.autograd.Function):
    """The same without storing W, which is recomputed as exp(S - logsumexp(S)); rowsum(W * G V^T) is rowsum(G * W V).
    Since these scores are rounded, a row of weights does not sum to 1; the small matrices that it is multiplied with
    are normalised instead. Shapes are (B, H, T, D), the layout of SDPA's kernel and the rest of the block."""

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
            is_visible = torch.arange(end)[None, :] <= torch.arange(rows.start, end)[:, None]
            weights = torch.where(is_visible, (scores - logsumexp[:, :, rows, None]).exp(), 0.0).to(dtype)
            grad_scores = (own_grad @ values.transpose(-1, -2)).float() - expected[:, :, rows]
            grad_scores = (weights.float() * grad_scores * ctx.scaling).to(dtype)
            total = weights.float().sum(-1, keepdim=True)  # nearly 1
            own, own_grad = (own / total).to(dtype), (own_grad / total).to(dtype)
            grads_query.append((grad_scores @ keys / total).to(dtype))
            room = (0, 0, 0, length - end)
            grad_key = grad_key + nn.functional.pad(grad_scores.transpose(-1, -2) @ own, room).float()
            grad_value = grad_value + nn.functional.pad(weights.transpose(-1, -2) @ own_grad, room).float()
        return torch.cat(grads_query, dim=2), grad_key.to(dtype), grad_value.to(dtype), None


def _causal(rows: slice, end: int) -> torch.Tensor:
    """Where the queries of these rows may attend among the keys up to `end`, (rows, end)."""
    keys = torch.arange(end, dtype=torch.int32)  # as wide as the scores, for the same vector width
    return keys <= keys[rows, None]


def blocks(length: int) -> Iterator[tuple[slice, int]]:
    """Iterate over the blocks of queries: the rows of each, and the number of keys visible to any of them."""
    count = min(MAX_BLOCKS, -(-length // BLOCK))
    for i in range(count):
        start, end = length * i // count, length * (i + 1) // count
        yield slice(start, end), end


AttentionInterface.register(BLOCKWISE, blockwise_attention_forward)
AttentionMaskInterface.register(BLOCKWISE, sdpa_mask)
