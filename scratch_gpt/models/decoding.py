"""The fast way to write, behind the ordinary `generate` and `pipeline`: the same tokens, one lean step for each.

transformers' own loop runs the whole model once a token: inputs are prepared, masks built, a cache grown by copying,
and every module called, which at the size of a learner's model costs more than the arithmetic. Here the prompt is read
as usual, and from there on each token takes a fixed list of products over keys and values that lie still.
generation.py says when, and leaves everything else to transformers.

The formulas are those of block.py and attention.py, for one token a row; tests hold the two equal.

Dimension letters: B rows, H query heads, G key-value heads, D head size, C hidden size, S tokens seen, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .attention import ScratchAttention
from .block import TransformerBlock
from .feed_forward import FeedForward
from .normalization import LayerNorm
from .positions import SinusoidalPositions, check_length, rotate_half

Rotary = tuple[torch.Tensor, torch.Tensor]

FIRST_ROOM = 256  # tokens that there is room for at first, beside the prompt; doubled when full
COPIED_WEIGHTS = 2**20  # up to so many numbers in a matrix, `generate` copies it once, laid out for one row


class StepAttention:
    """Attention of one token a row, to the tokens so far or to a source."""

    def __init__(self, attention: ScratchAttention):
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.groups = attention.k_proj.out_features // self.head_dim
        self.heads = self.groups * attention.num_key_value_groups
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.output = linear(attention.o_proj)


class StepSelfAttention(StepAttention):
    """Attention to the tokens so far, whose keys and values stand in buffers with room for more.

    SDPA is fastest for a single row; for several, in float32 on a processor, two products and a softmax are.
    """

    def __init__(self, attention: ScratchAttention, key: torch.Tensor, value: torch.Tensor, room: int):
        super().__init__(attention)
        self.project = together(attention.q_proj, attention.k_proj, attention.v_proj)
        self.by_products = key.device.type == "cpu" and key.dtype == torch.float32 and len(key) > 1
        self.nothing = key.new_zeros(1, 1, 1)
        self.grow(key, value, room)

    def grow(self, key: torch.Tensor, value: torch.Tensor, room: int) -> None:
        """Make room for so many tokens, of which the first have these keys and values (B, G, S, D)."""
        seen = key.shape[2]
        self.keys, self.values = (x.new_empty(*x.shape[:2], room, x.shape[3]) for x in (key, value))
        self.keys[:, :, :seen], self.values[:, :, :seen] = key, value

    def reorder(self, rows: torch.Tensor, seen: int) -> None:
        for buffer in (self.keys[:, :, :seen], self.values[:, :, :seen]):
            buffer.copy_(buffer.index_select(0, rows))

    def step(self, x: torch.Tensor, place: int, rotary: Rotary | None, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend from the tokens at `place`, (B, C) to (B, C); the mask is additive, (B, 1, 1, place + 1)."""
        heads = self.project(x).view(len(x), -1, self.head_dim)  # (B, H + 2 G, D)
        query, key, value = heads.split((self.heads, self.groups, self.groups), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        self.keys.select(2, place).copy_(key)
        self.values.select(2, place).copy_(value)
        keys, values = self.keys.narrow(2, 0, place + 1), self.values.narrow(2, 0, place + 1)
        query = query.view(len(x), self.groups, -1, self.head_dim)  # the heads of a group read the same keys
        if not self.by_products:
            attended = F.scaled_dot_product_attention(query, keys, values, mask, scale=self.scaling)
            return self.output(attended.reshape(len(x), -1))
        scores = torch.baddbmm(  # (B * G, H / G, S)
            self.nothing, query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), beta=0, alpha=self.scaling
        )
        if mask is not None:
            scores.unflatten(0, (len(x), -1)).add_(mask)
        return self.output(torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1)).view(len(x), -1))


class StepCrossAttention(StepAttention):
    """Attention to the source, whose keys and values stand still. The beams of a source read the same ones, so they
    are no more than further queries."""

    def __init__(
        self, attention: ScratchAttention, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, beams: int
    ):
        super().__init__(attention)
        self.beams, self.mask = beams, mask
        self.key, self.value = key[::beams].contiguous(), value[::beams].contiguous()  # (B / beams, G, S, D)
        self.project = linear(attention.q_proj)

    def step(self, x: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
        query = self.project(x).view(len(x), self.heads, self.head_dim)
        if self.q_norm is not None:
            query = self.q_norm(query)
        if rotary is not None:
            query = rotate(query, rotary)
        query = query.view(-1, self.beams, self.groups, self.heads // self.groups, self.head_dim).transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            query.flatten(2, 3), self.key, self.value, self.mask, scale=self.scaling
        )  # (B / beams, G, beams * H / G, D)
        attended = attended.unflatten(2, (self.beams, -1)).transpose(1, 2)
        return self.output(attended.reshape(len(x), -1))


class StepDecoder:
    """A model that has read its prompt, ready to write token by token.

    It stands in for the cache while transformers searches with beams, and so can be reordered like one.
    """

    def __init__(
        self,
        model: Any,
        trunk: Any,
        cache: Any,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        beams: int = 1,
    ):
        """Args:
        model, trunk: the model with its head, and its stack of blocks that reads the target.
        cache: keys and values of the prompt, and of the source where there is one.
        position_ids: of the prompt (B, S); without them, positions count from 0.
        attention_mask: 1 for the prompt's tokens, 0 for padding (B, S); None where there is none.
        source_mask: the same of the source.
        beams: so many rows, one after the other, read the same source.
        """
        self.config, self.trunk = model.config, trunk
        own: Any = getattr(cache, "self_attention_cache", cache)
        self.seen = own.get_seq_length()
        self.room = self.seen + FIRST_ROOM
        first = own.layers[0].keys
        self.mask = None if attention_mask is None else F.pad(additive(attention_mask, first.dtype), (0, FIRST_ROOM))
        self.position: int | torch.Tensor = self.seen  # where a row's next token stands; a tensor where rows differ
        self.ahead = 0  # by how much positions run before the count of tokens
        if position_ids is not None:
            first_row, *others = (position_ids[:, -1] + 1).tolist()
            same = all(position == first_row for position in others)
            self.position = first_row if same else position_ids[:, -1] + 1
            self.ahead = max(0, max(first_row, *others, self.seen) - self.seen)

        self.ngrams = getattr(trunk, "embed_ngrams", None)
        if self.ngrams is not None:  # the last layer of the cache has the tokens
            self.previous = self.ngrams.last_of(own.layers.pop().keys[:, 0, :, 0], self.position, attention_mask)
        self.attentions = [
            StepSelfAttention(block.self_attn, layer.keys, layer.values, self.room)
            for block, layer in zip(trunk.layers, own.layers, strict=True)
        ]
        self.sources: list[StepCrossAttention] = []
        source: Any = getattr(cache, "cross_attention_cache", None)
        if source is not None:
            mask = None if source_mask is None else additive(source_mask[::beams], first.dtype)
            self.sources = [
                StepCrossAttention(block.cross_attn, layer.keys, layer.values, mask, beams)
                for block, layer in zip(trunk.layers, source.layers, strict=True)
            ]
        self.norms = [[lean(norm) for norm in norms_of(block)] for block in trunk.layers]
        self.thoughts = [feed_forward(block.mlp) for block in trunk.layers]
        self.scale = getattr(trunk, "embed_scale", 1.0)
        self.embedding_norm = None if trunk.embedding_norm is None else lean(trunk.embedding_norm)
        self.last_norm, self.head = lean(trunk.norm), linear(model.lm_head)
        self.softcapping = getattr(self.config, "final_logit_softcapping", None)
        self.source_is_rotated = getattr(self.config, "cross_attention_rotary", False)
        self.pre_norm = self.config.norm_position == "pre"
        self.look_up(first)

    def look_up(self, like: torch.Tensor) -> None:
        """Tables of all positions that there is room for: vectors to add, and angles to turn by."""
        positions = torch.arange(self.room + self.ahead, device=like.device)
        learned = self.trunk.embed_positions
        self.vectors = learned.weight if isinstance(learned, nn.Embedding) else None
        if isinstance(learned, SinusoidalPositions):
            self.vectors = learned(positions).to(like.dtype)  # (room, C)
        self.angles: Rotary | None = None
        if self.trunk.rotary_emb is not None:
            cos, sin = self.trunk.rotary_emb(like, positions[:, None])  # each (room, 1, D)
            self.angles = cos, sin

    def make_room(self) -> None:
        more, self.room = self.room, 2 * self.room
        for attention in self.attentions:
            attention.grow(attention.keys, attention.values, self.room)
        if self.mask is not None:
            self.mask = F.pad(self.mask, (0, more))
        self.look_up(self.attentions[0].keys)

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B,), the next of each row, to the logits (B, V) of the one after.

        Raises:
            ValueError: more tokens than learned positions.
        """
        place, position = self.seen, self.position
        check_length(self.config, place + 1)
        if place == self.room:
            self.make_room()
        x = F.embedding(token_ids, self.trunk.embed_tokens.weight)  # (B, C)
        if self.ngrams is not None:
            x = x + self.ngrams(self.ngrams.rows_of(token_ids[:, None], self.previous))[:, 0]
            self.previous = torch.cat((self.previous[:, 1:], token_ids[:, None]), dim=1)
        if self.scale != 1.0:
            x = x * self.scale
        if self.vectors is not None:
            x = x + self.vectors[position]
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        rotary = None if self.angles is None else (self.angles[0][position], self.angles[1][position])
        mask = None if self.mask is None else self.mask[..., : place + 1]
        for i, attention in enumerate(self.attentions):
            x = self.residual(self.norms[i][0], x, partial(attention.step, place=place, rotary=rotary, mask=mask))
            if self.sources:
                turn = rotary if self.source_is_rotated else None
                x = self.residual(self.norms[i][1], x, partial(self.sources[i].step, rotary=turn))
            x = self.residual(self.norms[i][-1], x, self.thoughts[i])
        self.seen, self.position = place + 1, position + 1
        logits = self.head(self.last_norm(x))
        if self.softcapping is not None:
            logits = self.softcapping * torch.tanh(logits / self.softcapping)
        return logits

    def residual(
        self, norm: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, branch: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        return x + branch(norm(x)) if self.pre_norm else norm(x + branch(x))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Go on from these rows (B,). The source stays: beams never change theirs."""
        for attention in self.attentions:
            attention.reorder(beam_idx, self.seen)
        if self.ngrams is not None:
            self.previous = self.previous[beam_idx]


def linear(layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear layer without the cost of a module's call and of finding its weights, which tell at one row."""
    return partial(F.linear, weight=layer.weight, bias=layer.bias)


def lean(norm: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A norm, likewise."""
    if type(norm) is LayerNorm:
        shape = list(norm.weight.shape)
        return partial(torch.layer_norm, normalized_shape=shape, weight=norm.weight, bias=norm.bias, eps=norm.eps)
    return norm.forward


def together(*layers: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """One product for layers that read the same: x to their results, one after the other in the last dimension.

    Its weights are a copy with the longer side contiguous, which a single row reads a fifth faster.
    """
    if sum(layer.weight.numel() for layer in layers) > COPIED_WEIGHTS:
        parts = [linear(layer) for layer in layers]
        return parts[0] if len(parts) == 1 else lambda x: torch.cat([part(x) for part in parts], dim=-1)
    weight = torch.cat([layer.weight for layer in layers])
    if weight.shape[0] > weight.shape[1]:
        weight = weight.t().contiguous().t()
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return partial(F.linear, weight=weight, bias=bias)


def feed_forward(mlp: FeedForward) -> Callable[[torch.Tensor], torch.Tensor]:
    """`FeedForward.forward`, likewise."""
    activation, down = mlp.activation, linear(mlp.down_proj)
    if mlp.gate_proj is None:
        up = together(mlp.up_proj)
        return lambda x: down(activation(up(x)))
    gate_and_up = together(mlp.gate_proj, mlp.up_proj)

    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = gate_and_up(x).chunk(2, dim=-1)
        return down(activation(gate) * up)

    return gated


def norms_of(block: TransformerBlock) -> list[nn.Module]:
    """The norms of a block's branches, in their order."""
    norms = [block.input_layernorm, block.cross_attn_layernorm, block.post_attention_layernorm]
    return [norm for norm in norms if norm is not None]


def rotate(x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Turn the heads (B, heads, D) of one token a row; cos and sin are (1, D) or (B, 1, D)."""
    return x * rotary[0] + rotate_half(x) * rotary[1]


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of ones and zeros (B, S) as what is added to the scores (B, 1, 1, S)."""
    return (mask[:, None, None] == 0).to(dtype) * torch.finfo(dtype).min
