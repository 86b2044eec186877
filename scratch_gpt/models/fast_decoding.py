"""The fast way to write, behind the ordinary `generate` and `pipeline`: the same tokens, one lean step for each.

transformers' own loop runs the whole model once a token: inputs are prepared, masks built, a cache grown by copying,
and every module called, which at the size of a learner's model costs more than the arithmetic. Here the prompt is read
as usual, and from there on each token takes a fixed list of products over keys and values that lie still.
generation.py says when, and leaves everything else to transformers.

The formulas are those of block.py and attention.py, for one token a row; tests hold the two equal.

Dimension letters: B rows, H query heads, G key-value heads, D head size, C hidden size, S tokens seen, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .attention import ScratchAttention
from .block import TransformerBlock
from .feed_forward import FeedForward
from .normalization import LayerNorm, RMSNorm
from .positions import SinusoidalPositions, check_length

Rotary = tuple[torch.Tensor, torch.Tensor]
Function = Callable[[torch.Tensor], torch.Tensor]

FIRST_ROOM = 256  # tokens that there is room for at first, beside the prompt; doubled when full
COPIED_WEIGHTS = 2**20  # matrices of up to so many numbers together are copied once into one
SHARED_WEIGHTS = 2**17  # a matrix of fewer numbers lies in a core's cache, and is multiplied there


class StepAttention:
    """Attention of one token a row, to the tokens so far or to a source."""

    def __init__(self, attention: ScratchAttention):
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.groups = attention.k_proj.out_features // self.head_dim
        self.heads = self.groups * attention.num_key_value_groups
        self.width = self.heads * self.head_dim
        norms, like = (attention.q_norm, attention.k_norm), attention.k_proj.weight
        self.q_norm, self.k_norm = (None if norm is None else functional_norm(norm, like) for norm in norms)
        self.output = linear(attention.o_proj)


class StepSelfAttention(StepAttention):
    """Attention to the tokens so far.

    SDPA is fastest for a single row; for several, in float32 on a processor, two products and a softmax are.
    """

    def __init__(self, attention: ScratchAttention, by_products: bool):
        super().__init__(attention)
        self.project = fused_linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.by_products, self.nothing = by_products, attention.k_proj.weight.new_zeros(1, 1, 1)

    def step(
        self,
        x: torch.Tensor,
        slot: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        rotary: Rotary | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attend from one token a row, (B, C) to (B, C).

        Args:
            slot: where its key and value are written (B, 2, G, 1, D), a view of the last place of the next two.
            keys, values: of the tokens so far, this one included (B, G, S, D).
            rotary: the angles of its position.
            mask: what is added to the scores (B, 1, 1, S).
        """
        heads = self.project(x).view(-1, self.heads + 2 * self.groups, 1, self.head_dim)  # (B, H + 2 G, 1, D)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = heads.narrow(1, 0, self.heads), heads.narrow(1, self.heads, self.groups)
            query.copy_(self.q_norm(query))
            key.copy_(self.k_norm(key))
        if rotary is not None:
            rotate_(heads.narrow(1, 0, self.heads + self.groups), rotary)
        query, new = heads.split_with_sizes((self.heads, 2 * self.groups), 1)
        slot.copy_(new.view(-1, 2, self.groups, 1, self.head_dim))
        if self.heads != self.groups:  # the heads of a group read the same keys
            query = query.reshape(-1, self.groups, self.heads // self.groups, self.head_dim)
        if not self.by_products:
            attended = F.scaled_dot_product_attention(query, keys, values, mask, scale=self.scaling)
            return self.output(attended.reshape(-1, self.width))
        scores = torch.baddbmm(  # (B * G, H / G, S)
            self.nothing, query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), beta=0, alpha=self.scaling
        )
        if mask is not None:
            scores.unflatten(0, (-1, self.groups)).add_(mask)
        return self.output(torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1)).view(-1, self.width))


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
        query = self.project(x).view(-1, self.heads, 1, self.head_dim)
        if self.q_norm is not None:
            query = self.q_norm(query)
        if rotary is not None:
            rotate_(query, rotary)
        query = query.view(-1, self.beams, self.groups, self.heads // self.groups, self.head_dim).transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            query.flatten(2, 3), self.key, self.value, self.mask, scale=self.scaling
        )  # (B / beams, G, beams * H / G, D)
        attended = attended.unflatten(2, (self.beams, -1)).transpose(1, 2)
        return self.output(attended.reshape(-1, self.width))


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
        self.longest = self.config.max_position_embeddings  # beyond it, look closer; to ask a config is slow
        own: Any = getattr(cache, "self_attention_cache", cache)
        self.seen = own.get_seq_length()
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
        by_products = first.device.type == "cpu" and first.dtype == torch.float32 and len(first) > 1
        self.attentions = [StepSelfAttention(block.self_attn, by_products) for block in trunk.layers]
        self.allocate_kv_cache([(layer.keys, layer.values) for layer in own.layers], self.seen + FIRST_ROOM)
        self.sources: list[StepCrossAttention] = []
        source: Any = getattr(cache, "cross_attention_cache", None)
        if source is not None:
            mask = None if source_mask is None else additive(source_mask[::beams], first.dtype)
            self.sources = [
                StepCrossAttention(block.cross_attn, layer.keys, layer.values, mask, beams)
                for block, layer in zip(trunk.layers, source.layers, strict=True)
            ]
        self.norms = [[functional_norm(norm, first) for norm in norms_of(block)] for block in trunk.layers]
        self.thoughts = [feed_forward(block.mlp) for block in trunk.layers]
        self.scale = getattr(trunk, "embed_scale", 1.0)
        self.embedding_norm = None if trunk.embedding_norm is None else functional_norm(trunk.embedding_norm, first)
        self.last_norm, self.head = functional_norm(trunk.norm, first), linear(model.lm_head)
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
            cos, sin = (x[:, None] for x in self.trunk.rotary_emb(like, positions[:, None]))  # each (room, 1, 1, D/2)
            self.angles = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def allocate_kv_cache(self, so_far: list[tuple[torch.Tensor, torch.Tensor]], room: int) -> None:
        """Let so many tokens have keys and values, the first of which are these, block by block (B, G, S, D)."""
        rows, groups, seen, head_dim = so_far[0][0].shape
        self.room = room
        self.buffer = so_far[0][0].new_empty(2, len(so_far), rows, groups, room, head_dim)
        self.keys, self.values = self.buffer
        for i, (key, value) in enumerate(so_far):
            self.keys[i, :, :, :seen], self.values[i, :, :, :seen] = key, value

    def grow_kv_cache(self) -> None:
        if self.mask is not None:
            self.mask = F.pad(self.mask, (0, self.room))
        self.allocate_kv_cache(list(zip(self.keys, self.values, strict=True)), 2 * self.room)
        self.look_up(self.buffer)

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B,), the next of each row, to the logits (B, V) of the one after.

        Raises:
            ValueError: more tokens than learned positions.
        """
        place, position = self.seen, self.position
        if place >= self.longest:
            check_length(self.config, place + 1)
        if place == self.room:
            self.grow_kv_cache()
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
        slots = self.buffer.narrow(4, place, 1).permute(1, 2, 0, 3, 4, 5).unbind()
        keys, values = (x.narrow(3, 0, place + 1).unbind() for x in (self.keys, self.values))
        for i, attention in enumerate(self.attentions):
            x = self.residual(self.norms[i][0], x, attention.step, slots[i], keys[i], values[i], rotary, mask)
            if self.sources:
                turn = rotary if self.source_is_rotated else None
                x = self.residual(self.norms[i][1], x, self.sources[i].step, turn)
            x = self.residual(self.norms[i][-1], x, self.thoughts[i])
        self.seen, self.position = place + 1, position + 1
        logits = self.head(self.last_norm(x))
        if self.softcapping is not None:
            logits = self.softcapping * torch.tanh(logits / self.softcapping)
        return logits

    def residual(
        self, norm: Function, x: torch.Tensor, branch: Callable[..., torch.Tensor], *inputs: Any
    ) -> torch.Tensor:
        return branch(norm(x), *inputs).add_(x) if self.pre_norm else norm(branch(x, *inputs).add_(x))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Go on from these rows (B,). The source stays: beams never change theirs."""
        for so_far in self.buffer[..., : self.seen, :].flatten(0, 1):  # one by one: all at once takes twice as long
            so_far.copy_(so_far.index_select(0, beam_idx))
        if self.ngrams is not None:
            self.previous = self.previous[beam_idx]


def linear(layer: nn.Linear) -> Function:
    """A linear layer without the cost of a module's call, of finding its weights and transposing them, which tells at
    one row."""
    return product(layer.weight, layer.bias)


def product(weight: torch.Tensor, bias: torch.Tensor | None) -> Function:
    count = num_row_blocks(weight)
    if count > 1:
        return product_of_blocks(weight, bias, count)
    transposed = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, transposed)
    return lambda x: torch.addmm(bias, x, transposed)


def product_of_blocks(weight: torch.Tensor, bias: torch.Tensor | None, count: int) -> Function:
    """The same as so many products at once, of blocks of the matrix's rows: cores share these where they would not
    share one product."""
    blocks = weight.unflatten(0, (count, -1)).transpose(1, 2)  # (count, C, N / count)
    if bias is None:
        return lambda x: torch.bmm(x.expand(count, -1, -1), blocks).transpose(0, 1).reshape(len(x), -1)
    biases = bias.view(count, 1, -1)
    return lambda x: torch.baddbmm(biases, x.expand(count, -1, -1), blocks).transpose(0, 1).reshape(len(x), -1)


def num_row_blocks(weight: torch.Tensor) -> int:
    """How many blocks to cut a matrix into for a few rows. MKL multiplies these on a single core of AMD's processors,
    where two cores read a matrix that is not small twice as fast. One that can't be cut evenly stays whole."""
    cores = torch.get_num_threads()
    if cores == 1 or weight.numel() < SHARED_WEIGHTS or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return 1
    if not (torch.backends.mkl.is_available() and "AMD" in processor_name()):
        return 1
    counts = [count for count in range(cores, 2 * cores + 64) if len(weight) % count == 0]
    return min(counts, key=lambda count: -(-count // cores) / count, default=1)  # the least for the busiest core


def processor_name() -> str:
    """What the processor calls itself; nothing in releases of torch that do not say."""
    return getattr(torch.cpu, "get_capabilities", dict[str, str])().get("cpu_name", "")


def functional_norm(norm: nn.Module, like: torch.Tensor) -> Function:
    """A norm, likewise, for features of the dtype and on the device of `like`."""
    if type(norm) is LayerNorm:
        shape, weight, bias, eps = list(norm.weight.shape), norm.weight, norm.bias, norm.eps
        return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
    if type(norm) is RMSNorm and like.device.type == "cpu" and like.dtype.itemsize >= 4:
        # x / sqrt(|x|² / C + eps) as x sqrt(C) / hypot(|x|, sqrt(eps C)), which takes half the time of torch's own on a
        # processor. In 16 bits the length would be too coarse.
        root = norm.hidden_size**0.5
        least = like.new_tensor(norm.eps**0.5 * root)
        scale = root if norm.weight is None else norm.weight * root
        return lambda x: (x / torch.hypot(torch.linalg.vector_norm(x, 2, -1, True), least)).mul_(scale)
    return norm.forward


def fused_linear(*layers: nn.Linear) -> Function:
    """One product for layers that read the same: x to their results, one after the other in the last dimension. Large
    weights, which this would hold twice, are left where they are."""
    if sum(layer.weight.numel() for layer in layers) > COPIED_WEIGHTS:
        parts = [linear(layer) for layer in layers]
        return lambda x: torch.cat([part(x) for part in parts], dim=-1)
    weight = torch.cat(tuple(layer.weight for layer in layers))
    biases = tuple(layer.bias for layer in layers if layer.bias is not None)
    return product(weight, torch.cat(biases) if biases else None)


def feed_forward(mlp: FeedForward) -> Function:
    """`FeedForward.forward`, likewise."""
    activation, down = mlp.activation, linear(mlp.down_proj)
    if mlp.gate_proj is None:
        up = linear(mlp.up_proj)
        return lambda x: down(activation(up(x)))
    gate_and_up = fused_linear(mlp.gate_proj, mlp.up_proj)

    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = gate_and_up(x).chunk(2, dim=-1)
        return down(activation(gate) * up)

    return gated


def norms_of(block: TransformerBlock) -> list[nn.Module]:
    """The norms of a block's branches, in their order."""
    norms = [block.input_layernorm, block.cross_attn_layernorm, block.post_attention_layernorm]
    return [norm for norm in norms if norm is not None]


def rotate_(x: torch.Tensor, rotary: Rotary) -> None:
    """`apply_rotary` in place: turn the heads (B, heads, 1, D) of one token a row by the cosines of all features, and
    their sines, negated in the first half, each (1, 1, D) or (B, 1, 1, D)."""
    swapped = x.roll(x.shape[-1] // 2, -1)
    x.mul_(rotary[0]).addcmul_(swapped, rotary[1])


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of ones and zeros (B, S) as what is added to the scores (B, 1, 1, S)."""
    return (mask[:, None, None] == 0).to(dtype) * torch.finfo(dtype).min
