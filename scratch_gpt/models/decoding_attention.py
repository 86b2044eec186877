"""Attention of a decoding step: one token per row attends to the cached tokens, or to the source.

The formulas are those of attention.py; which of them a model needs is decided when the objects are built.

Dimension letters: B rows, H query heads, G key-value heads, D head size, R rotated features of a head, C hidden size,
S attended tokens.
"""

import torch
from torch.nn import functional as F

from .attention import ScratchAttention
from .functional_layers import Function, functional_linear, functional_norm, fused_linear, stored

Rotary = tuple[torch.Tensor, torch.Tensor]
Source = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # keys, values, and an additive mask (B, 1, 1, S)


class StepAttention:
    """Attention of one token per row: what self-attention and cross-attention have in common."""

    def __init__(self, attention: ScratchAttention, like: torch.Tensor):
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.query_heads = self.kv_heads * attention.num_key_value_groups
        self.width = self.query_heads * self.head_dim
        norms = attention.q_norm, attention.k_norm
        self.q_norm, self.k_norm = (None if norm is None else functional_norm(norm, like) for norm in norms)
        self.norm_per_head = attention.norm_per_head
        self.o_proj = functional_linear(attention.o_proj)


class StepSelfAttention(StepAttention):
    """Self-attention to the cached tokens.

    SDPA is fastest for a single row; for several rows in float32 on a CPU, two matrix products and a softmax are. They
    also compute soft-capped scores, which SDPA does not support.

    Args:
        attention: the module.
        like: a tensor of the model's dtype, on its device.
        use_matmul: whether to use matrix products instead of SDPA.
        rotated: number of rotated features of a head, R.
    """

    def __init__(self, attention: ScratchAttention, like: torch.Tensor, use_matmul: bool, rotated: int | None = None):
        super().__init__(attention, like)
        self.qkv_proj = fused_linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.zero = like.new_zeros(1, 1, 1)
        self.partial = rotated if rotated != self.head_dim else None
        self.softcap = attention.config.attn_logit_softcapping
        if self.softcap is not None:
            self.attend = self._attend_softcapped
        else:
            self.attend = self._attend_by_matmul if use_matmul else self._attend_by_sdpa

    def step(
        self,
        x: torch.Tensor,
        new_kv: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        rotary: Rotary | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attend from one token per row, (B, C) to (B, C).

        Args:
            x: hidden states of the tokens (B, C).
            new_kv: output, the keys and values of the tokens (B, 2, G, 1, D): a view of the last position of `keys` and
                `values`.
            keys, values: those of the attended tokens, the last of which is this one (B, G, S, D).
            rotary: cosines and sines of the position, or None; see `rotate_`.
            mask: additive mask of the scores, broadcastable to (B, G, H / G, S), or None.
        """
        heads = self.qkv_proj(x).view(-1, self.query_heads + 2 * self.kv_heads, 1, self.head_dim)  # (B, H + 2 G, 1, D)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = heads.narrow(1, 0, self.query_heads), heads.narrow(1, self.query_heads, self.kv_heads)
            if not self.norm_per_head:
                query, key = query.flatten(1), key.flatten(1)  # views (B, H * D) and (B, G * D)
            query.copy_(self.q_norm(query))
            key.copy_(self.k_norm(key))
        if rotary is not None:
            rotated = heads.narrow(1, 0, self.query_heads + self.kv_heads)
            rotate_(rotated if self.partial is None else rotated.narrow(3, 0, self.partial), rotary)
        query, key_and_value = heads.split_with_sizes((self.query_heads, 2 * self.kv_heads), 1)
        new_kv.copy_(key_and_value.view(-1, 2, self.kv_heads, 1, self.head_dim))
        if self.query_heads != self.kv_heads:  # the query heads of a group share keys: (B, G, H / G, D)
            query = query.reshape(-1, self.kv_heads, self.query_heads // self.kv_heads, self.head_dim)
        return self.o_proj(self.attend(query, keys, values, mask).reshape(-1, self.width))

    def _attend_by_sdpa(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The weighted averages of the values (B, G, H / G, D), by a fused kernel; see `step` for the arguments."""
        return F.scaled_dot_product_attention(query, keys, values, mask, scale=self.scaling)

    def _attend_by_matmul(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The same (B * G, H / G, D) by two matrix products."""
        scores = torch.baddbmm(  # (B * G, H / G, S)
            self.zero, query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), beta=0, alpha=self.scaling
        )
        if mask is not None:
            scores.unflatten(0, (-1, self.kv_heads)).add_(mask)
        return torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1))

    def _attend_softcapped(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The same with scores c tanh(scores / c), and the softmax in float32, as in `eager_attention_forward`."""
        scores = torch.baddbmm(
            self.zero,
            query.flatten(0, 1),
            keys.flatten(0, 1).transpose(1, 2),
            beta=0,
            alpha=self.scaling / self.softcap,
        )
        scores = scores.tanh_().mul_(self.softcap)
        if mask is not None:
            scores.unflatten(0, (-1, self.kv_heads)).add_(mask)
        weights = scores.softmax(dim=-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(values.dtype)
        return torch.bmm(weights, values.flatten(0, 1))


class TracedSelfAttention(StepAttention):
    """`StepSelfAttention` for a compiled step: sums that the compiler turns into loops, in float32, and neither copies
    nor writes. The token's own key and value are handled beside the cached ones, and returned to be written later.

    Args:
        attention, like, rotated: see `StepSelfAttention`.
    """

    def __init__(self, attention: ScratchAttention, like: torch.Tensor, rotated: int | None = None):
        super().__init__(attention, like)
        self.partial = rotated if rotated != self.head_dim else None
        self.softcap = attention.config.attn_logit_softcapping
        self.projections = [functional_linear(x) for x in (attention.q_proj, attention.k_proj, attention.v_proj)]

    def step(
        self,
        x: torch.Tensor,
        new: list[torch.Tensor],
        keys: torch.Tensor,
        values: torch.Tensor,
        rotary: Rotary | None,
        mask: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """The same without writing.

        Args:
            x, rotary: see `StepSelfAttention.step`.
            new: list to which the key and the value of the tokens are appended, each (B, G, D).
            keys, values: those of the tokens before (B, G, S - 1, D).
            mask: the masks of the tokens before and of the token itself, or None.
        """
        query, key, value = (project(x) for project in self.projections)
        query, key = self._normalized(query, self.q_norm), self._normalized(key, self.k_norm)
        if rotary is not None:
            query, key = stored(self._rotated(query, rotary)), stored(self._rotated(key, rotary))
        query = query.view(-1, self.kv_heads, self.query_heads // self.kv_heads, self.head_dim).float()
        key, value = key.view(-1, self.kv_heads, self.head_dim), value.view(-1, self.kv_heads, self.head_dim)
        new += [key, value]
        past = self._scores((query[:, :, :, None] * keys.float()[:, :, None]).sum(-1), mask and mask[0])
        own = self._scores((query * key.float()[:, :, None]).sum(-1, keepdim=True), mask and mask[1])
        largest = torch.maximum(past.amax(-1, keepdim=True), own)  # (B, G, H / G, 1)
        weights, own = torch.exp(past - largest), torch.exp(own - largest)
        attended = (weights[..., None] * values.float()[:, :, None]).sum(-2) + own * value.float()[:, :, None]
        attended = attended / (weights.sum(-1, keepdim=True) + own)
        return self.o_proj(attended.to(x.dtype).reshape(-1, self.width))

    def _scores(self, products: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Scores of products of queries and keys (B, G, H / G, S)."""
        scores = products * self.scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        return scores if mask is None else scores + mask

    def _normalized(self, x: torch.Tensor, norm: Function | None) -> torch.Tensor:
        """Queries or keys (B, N) with their norm, as heads (B, N / D, D)."""
        if norm is None or self.norm_per_head:
            x = x.view(len(x), -1, self.head_dim)
            return x if norm is None else norm(x)
        return norm(x).view(len(x), -1, self.head_dim)

    def _rotated(self, x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """`rotate_` of heads (B, N / D, D), not in place."""
        size = self.head_dim if self.partial is None else self.partial
        rotated, rest = x[..., :size], x[..., size:]
        rotated = rotated * rotary[0][:, 0] + rotated.roll(size // 2, -1) * rotary[1][:, 0]
        return rotated if self.partial is None else torch.cat((rotated, rest), dim=-1)


class StepCrossAttention(StepAttention):
    """Cross-attention to the source, whose keys and values do not change. All beams of a source attend to the same keys
    and values, so they are treated as additional queries.

    Args:
        attention: the module.
        like: a tensor of the model's dtype, on its device.
        beams: number of consecutive rows with the same source.
        rotated: number of rotated features of a head, R; None if queries are not rotated.
    """

    def __init__(self, attention: ScratchAttention, like: torch.Tensor, beams: int, rotated: int | None = None):
        super().__init__(attention, like)
        self.beams, self.rotated = beams, rotated
        self.q_proj = functional_linear(attention.q_proj)

    def step(self, x: torch.Tensor, source: Source, rotary: Rotary | None) -> torch.Tensor:
        """Attend from one token per row, (B, C) to (B, C).

        Args:
            x: hidden states of the tokens (B, C).
            source: keys and values of the source, each (B / beams, G, S, D), and its additive mask, or None.
            rotary: cosines and sines of the position, or None; see `rotate_`.
        """
        query = self.q_proj(x)  # (B, H * D)
        if self.q_norm is not None and not self.norm_per_head:
            query = self.q_norm(query)
        query = query.view(-1, self.query_heads, 1, self.head_dim)  # (B, H, 1, D)
        if self.q_norm is not None and self.norm_per_head:
            query = self.q_norm(query)
        if rotary is not None and self.rotated is not None:
            rotate_(query.narrow(3, 0, self.rotated), rotary)
        query = query.view(-1, self.beams, self.kv_heads, self.query_heads // self.kv_heads, self.head_dim)
        query = query.transpose(1, 2)  # (B / beams, G, beams, H / G, D)
        attended = F.scaled_dot_product_attention(
            query.flatten(2, 3), *source, scale=self.scaling
        )  # (B / beams, G, beams * H / G, D)
        attended = attended.unflatten(2, (self.beams, -1)).transpose(1, 2)
        return self.o_proj(attended.reshape(-1, self.width))


def rotate_(x: torch.Tensor, rotary: Rotary) -> None:
    """`apply_rotary` in place, for one token per row.

    Args:
        x: the rotated features of queries or keys (B, heads, 1, R).
        rotary: cosines, and sines that are negated in the first half of the features, each (1, 1, R) or (B, 1, 1, R).
    """
    swapped = x.roll(x.shape[-1] // 2, -1)
    x.mul_(rotary[0]).addcmul_(swapped, rotary[1])
