"""Fast decoding for `generate` and `pipeline`: the tokens of transformers' own loop, with less overhead per token.

transformers' loop runs the whole model for each token: it prepares inputs, builds masks, grows the cache by copying and
calls every module, which for a small model costs more than the arithmetic. Here the model processes the prompt as usual
(prefill); after that, each decoding step is a fixed sequence of matrix products on a preallocated cache of keys and
values. fast_generation.py decides when this is used, and leaves all other cases to transformers.

The formulas are those of block.py and attention.py, for one token per row; tests compare the two.

Dimension letters: B rows, H query heads, G key-value heads, D head size, C hidden size, S cached tokens, V vocabulary.
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

INITIAL_CAPACITY = 256  # tokens after the prompt for which the cache is first allocated; doubled when it is full
MAX_FUSED_WEIGHTS = 2**20  # weights of up to this many elements in total are copied into one fused matrix
MIN_SPLIT_WEIGHTS = 2**17  # a smaller matrix fits the cache of one core, and is not split into blocks


class StepAttention:
    """Attention of one token per row: what self-attention and cross-attention have in common."""

    def __init__(self, attention: ScratchAttention):
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.query_heads = self.kv_heads * attention.num_key_value_groups
        self.width = self.query_heads * self.head_dim
        norms, like = (attention.q_norm, attention.k_norm), attention.k_proj.weight
        self.q_norm, self.k_norm = (None if norm is None else functional_norm(norm, like) for norm in norms)
        self.o_proj = functional_linear(attention.o_proj)


class StepSelfAttention(StepAttention):
    """Self-attention to the cached tokens.

    SDPA is fastest for a single row; for several rows in float32 on a CPU, two matrix products and a softmax are.
    """

    def __init__(self, attention: ScratchAttention, use_matmul: bool):
        super().__init__(attention)
        self.qkv_proj = fused_linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.use_matmul, self.zero = use_matmul, attention.k_proj.weight.new_zeros(1, 1, 1)

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
            keys, values: those of the cached tokens and of this one (B, G, S, D).
            rotary: cosines and sines of the position, or None; see `rotate_`.
            mask: additive mask of the scores (B, 1, 1, S), or None.
        """
        heads = self.qkv_proj(x).view(-1, self.query_heads + 2 * self.kv_heads, 1, self.head_dim)  # (B, H + 2 G, 1, D)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = heads.narrow(1, 0, self.query_heads), heads.narrow(1, self.query_heads, self.kv_heads)
            query.copy_(self.q_norm(query))
            key.copy_(self.k_norm(key))
        if rotary is not None:
            rotate_(heads.narrow(1, 0, self.query_heads + self.kv_heads), rotary)
        query, key_and_value = heads.split_with_sizes((self.query_heads, 2 * self.kv_heads), 1)
        new_kv.copy_(key_and_value.view(-1, 2, self.kv_heads, 1, self.head_dim))
        if self.query_heads != self.kv_heads:  # the query heads of a group share keys: (B, G, H / G, D)
            query = query.reshape(-1, self.kv_heads, self.query_heads // self.kv_heads, self.head_dim)
        if not self.use_matmul:
            attended = F.scaled_dot_product_attention(query, keys, values, mask, scale=self.scaling)
            return self.o_proj(attended.reshape(-1, self.width))
        scores = torch.baddbmm(  # (B * G, H / G, S)
            self.zero, query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), beta=0, alpha=self.scaling
        )
        if mask is not None:
            scores.unflatten(0, (-1, self.kv_heads)).add_(mask)
        return self.o_proj(torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1)).view(-1, self.width))


class StepCrossAttention(StepAttention):
    """Cross-attention to the source, whose keys and values do not change. All beams of a source attend to the same keys
    and values, so they are treated as additional queries.

    Args:
        attention: the module.
        key, value: of the source, repeated for each beam (B, G, S, D).
        mask: additive mask of the source (B / beams, 1, 1, S), or None.
        beams: number of consecutive rows with the same source.
    """

    def __init__(
        self, attention: ScratchAttention, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, beams: int
    ):
        super().__init__(attention)
        self.beams, self.mask = beams, mask
        self.key, self.value = key[::beams].contiguous(), value[::beams].contiguous()  # (B / beams, G, S, D)
        self.q_proj = functional_linear(attention.q_proj)

    def step(self, x: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
        """Attend from one token per row, (B, C) to (B, C), rotated by the cosines and sines of its position, if any."""
        query = self.q_proj(x).view(-1, self.query_heads, 1, self.head_dim)  # (B, H, 1, D)
        if self.q_norm is not None:
            query = self.q_norm(query)
        if rotary is not None:
            rotate_(query, rotary)
        query = query.view(-1, self.beams, self.kv_heads, self.query_heads // self.kv_heads, self.head_dim)
        query = query.transpose(1, 2)  # (B / beams, G, beams, H / G, D)
        attended = F.scaled_dot_product_attention(
            query.flatten(2, 3), self.key, self.value, self.mask, scale=self.scaling
        )  # (B / beams, G, beams * H / G, D)
        attended = attended.unflatten(2, (self.beams, -1)).transpose(1, 2)
        return self.o_proj(attended.reshape(-1, self.width))


class StepDecoder:
    """Decodes token by token after the prefill.

    In beam search it takes the place of the cache in transformers' loop, so it has `reorder_cache`.
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
        model, trunk: the model with its head, and its stack of causal blocks.
        cache: keys and values of the prompt, and of the source if there is one.
        position_ids: of the prompt (B, S); without them, positions count from 0.
        attention_mask: 1 for tokens of the prompt and 0 for padding (B, S); None without padding.
        source_mask: the same for the source.
        beams: number of consecutive rows with the same source.
        """
        self.config, self.trunk = model.config, trunk
        self.max_positions = self.config.max_position_embeddings  # a copy: reading attributes of a config is slow
        self_attention_cache: Any = getattr(cache, "self_attention_cache", cache)
        self.cached = self_attention_cache.get_seq_length()  # number of cached tokens, S
        like = self_attention_cache.layers[0].keys
        self.mask = None if attention_mask is None else additive_mask(attention_mask, like.dtype)
        if self.mask is not None:
            self.mask = F.pad(self.mask, (0, INITIAL_CAPACITY))  # (B, 1, 1, capacity)
        self.position: int | torch.Tensor = self.cached  # of the next token; a tensor (B,) if rows differ
        self.position_offset = 0  # largest difference between a row's position and the number of cached tokens
        if position_ids is not None:
            first_row, *others = (position_ids[:, -1] + 1).tolist()
            same = all(position == first_row for position in others)
            self.position = first_row if same else position_ids[:, -1] + 1
            self.position_offset = max(0, max(first_row, *others, self.cached) - self.cached)

        self.embed_ngrams = getattr(trunk, "embed_ngrams", None)
        if self.embed_ngrams is not None:  # the last layer of the cache holds the tokens
            ids = self_attention_cache.layers.pop().keys[:, 0, :, 0]  # (B, S)
            self.previous_tokens = self.embed_ngrams.last_tokens(ids, self.position, attention_mask)
        use_matmul = like.device.type == "cpu" and like.dtype == torch.float32 and len(like) > 1
        self.self_attentions = [StepSelfAttention(block.self_attn, use_matmul) for block in trunk.layers]
        prompt = [(layer.keys, layer.values) for layer in self_attention_cache.layers]
        self.allocate_kv_cache(prompt, self.cached + INITIAL_CAPACITY)
        self.cross_attentions: list[StepCrossAttention] = []
        source: Any = getattr(cache, "cross_attention_cache", None)
        if source is not None:
            mask = None if source_mask is None else additive_mask(source_mask[::beams], like.dtype)
            self.cross_attentions = [
                StepCrossAttention(block.cross_attn, layer.keys, layer.values, mask, beams)
                for block, layer in zip(trunk.layers, source.layers, strict=True)
            ]
        self.norms = [[functional_norm(norm, like) for norm in norms_of(block)] for block in trunk.layers]
        self.feed_forwards = [functional_feed_forward(block.mlp) for block in trunk.layers]
        self.embed_scale = getattr(trunk, "embed_scale", 1.0)
        self.embedding_norm = None if trunk.embedding_norm is None else functional_norm(trunk.embedding_norm, like)
        self.final_norm, self.lm_head = functional_norm(trunk.norm, like), functional_linear(model.lm_head)
        self.softcapping = getattr(self.config, "final_logit_softcapping", None)
        self.cross_attention_rotary = getattr(self.config, "cross_attention_rotary", False)
        self.pre_norm = self.config.norm_position == "pre"
        self.build_position_tables(like)

    def build_position_tables(self, like: torch.Tensor) -> None:
        """Position embeddings and rotary cosines and sines of all positions within the capacity, in the dtype and on
        the device of `like`."""
        positions = torch.arange(self.capacity + self.position_offset, device=like.device)
        embed_positions = self.trunk.embed_positions
        self.position_embeddings = embed_positions.weight if isinstance(embed_positions, nn.Embedding) else None
        if isinstance(embed_positions, SinusoidalPositions):
            self.position_embeddings = embed_positions(positions).to(like.dtype)  # (positions, C)
        self.rotary: Rotary | None = None
        if self.trunk.rotary_emb is not None:
            cos, sin = (x[:, None] for x in self.trunk.rotary_emb(like, positions[:, None]))  # (positions, 1, 1, D/2)
            self.rotary = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)  # each (positions, 1, 1, D)

    def allocate_kv_cache(self, cached: list[tuple[torch.Tensor, torch.Tensor]], capacity: int) -> None:
        """Allocate keys and values of `capacity` tokens, and copy the cached ones, (B, G, S, D) per block."""
        rows, kv_heads, length, head_dim = cached[0][0].shape
        self.capacity = capacity
        self.buffer = cached[0][0].new_empty(2, len(cached), rows, kv_heads, capacity, head_dim)
        self.keys, self.values = self.buffer  # each (blocks, B, G, capacity, D)
        for i, (key, value) in enumerate(cached):
            self.keys[i, :, :, :length], self.values[i, :, :, :length] = key, value

    def grow_kv_cache(self) -> None:
        """Double the capacity."""
        if self.mask is not None:
            self.mask = F.pad(self.mask, (0, self.capacity))
        self.allocate_kv_cache(list(zip(self.keys, self.values, strict=True)), 2 * self.capacity)
        self.build_position_tables(self.buffer)

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, token ids (B,), and return the logits of the next one (B, V).

        Raises:
            ValueError: if there are more tokens than learned positions.
        """
        index, position = self.cached, self.position
        if index >= self.max_positions:
            check_length(self.config, index + 1)
        if index == self.capacity:
            self.grow_kv_cache()
        x = F.embedding(token_ids, self.trunk.embed_tokens.weight)  # (B, C)
        if self.embed_ngrams is not None:
            x = x + self.embed_ngrams(self.embed_ngrams.bucket_ids(token_ids[:, None], self.previous_tokens))[:, 0]
            self.previous_tokens = torch.cat((self.previous_tokens[:, 1:], token_ids[:, None]), dim=1)
        if self.embed_scale != 1.0:
            x = x * self.embed_scale
        if self.position_embeddings is not None:
            x = x + self.position_embeddings[position]
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        rotary = None if self.rotary is None else (self.rotary[0][position], self.rotary[1][position])
        mask = None if self.mask is None else self.mask[..., : index + 1]
        new_kv = self.buffer.narrow(4, index, 1).permute(1, 2, 0, 3, 4, 5).unbind()  # per block (B, 2, G, 1, D)
        keys, values = (x.narrow(3, 0, index + 1).unbind() for x in (self.keys, self.values))  # (B, G, S, D)
        for i, attention in enumerate(self.self_attentions):
            x = self.residual(self.norms[i][0], x, attention.step, new_kv[i], keys[i], values[i], rotary, mask)
            if self.cross_attentions:
                cross_rotary = rotary if self.cross_attention_rotary else None
                x = self.residual(self.norms[i][1], x, self.cross_attentions[i].step, cross_rotary)
            x = self.residual(self.norms[i][-1], x, self.feed_forwards[i])
        self.cached, self.position = index + 1, position + 1
        logits = self.lm_head(self.final_norm(x))  # (B, V)
        if self.softcapping is not None:
            logits = self.softcapping * torch.tanh(logits / self.softcapping)
        return logits

    def residual(
        self, norm: Function, x: torch.Tensor, branch: Callable[..., torch.Tensor], *inputs: Any
    ) -> torch.Tensor:
        """Apply a residual branch to hidden states (B, C).

        Args:
            norm: norm of the branch, before it (pre-norm) or after the sum (post-norm).
            x: hidden states (B, C).
            branch: the function of the normalized states.
            inputs: further arguments of the branch.
        """
        return branch(norm(x), *inputs).add_(x) if self.pre_norm else norm(branch(x, *inputs).add_(x))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Continue with these rows (B,). The source is not reordered: beams stay with their source."""
        for cached in self.buffer[..., : self.cached, :].flatten(0, 1):  # one by one: all at once takes twice as long
            cached.copy_(cached.index_select(0, beam_idx))
        if self.embed_ngrams is not None:
            self.previous_tokens = self.previous_tokens[beam_idx]


def functional_linear(layer: nn.Linear) -> Function:
    """A linear layer as a function (B, C) to (B, N), without the overhead of calling a module, looking up its weights
    and transposing them, which matters for a single row."""
    return functional_matmul(layer.weight, layer.bias)


def functional_matmul(weight: torch.Tensor, bias: torch.Tensor | None) -> Function:
    """x @ weight.T + bias as a function of x (B, C), for a weight (N, C) and a bias (N,)."""
    count = num_row_blocks(weight)
    if count > 1:
        return row_block_matmul(weight, bias, count)
    transposed = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, transposed)
    return lambda x: torch.addmm(bias, x, transposed)


def row_block_matmul(weight: torch.Tensor, bias: torch.Tensor | None, count: int) -> Function:
    """The same as a batched product of `count` blocks of the weight's rows, which is distributed over the cores where a
    single product would run on one."""
    blocks = weight.unflatten(0, (count, -1)).transpose(1, 2)  # (count, C, N / count)
    if bias is None:
        return lambda x: torch.bmm(x.expand(count, -1, -1), blocks).transpose(0, 1).reshape(len(x), -1)
    biases = bias.view(count, 1, -1)
    return lambda x: torch.baddbmm(biases, x.expand(count, -1, -1), blocks).transpose(0, 1).reshape(len(x), -1)


def num_row_blocks(weight: torch.Tensor) -> int:
    """Number of blocks of rows to split a weight (N, C) into for products with a few rows; 1 if it can't be split
    evenly. On AMD processors, MKL computes such products on one core; two read a large matrix twice as fast."""
    cores = torch.get_num_threads()
    if cores == 1 or weight.numel() < MIN_SPLIT_WEIGHTS or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return 1
    if not (torch.backends.mkl.is_available() and "AMD" in processor_name()):
        return 1
    counts = [count for count in range(cores, 2 * cores + 64) if len(weight) % count == 0]
    return min(
        counts, key=lambda count: -(-count // cores) / count, default=1
    )  # the smallest fraction for the busiest core


def processor_name() -> str:
    """Name of the CPU; empty in releases of torch that do not report it."""
    return getattr(torch.cpu, "get_capabilities", dict[str, str])().get("cpu_name", "")


def functional_norm(norm: nn.Module, like: torch.Tensor) -> Function:
    """A norm as a function, for inputs of the dtype and on the device of `like`."""
    if type(norm) is LayerNorm:
        shape, weight, bias, eps = list(norm.weight.shape), norm.weight, norm.bias, norm.eps
        return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
    if type(norm) is RMSNorm and like.device.type == "cpu" and like.dtype.itemsize >= 4:
        # x / sqrt(|x|² / C + eps) as x sqrt(C) / hypot(|x|, sqrt(eps C)): half the time of torch's kernel on a CPU.
        # Not in 16 bits, where the norm |x| would be too coarse.
        root = norm.hidden_size**0.5
        eps_root = like.new_tensor(norm.eps**0.5 * root)
        scale = root if norm.weight is None else norm.weight * root
        return lambda x: (x / torch.hypot(torch.linalg.vector_norm(x, 2, -1, True), eps_root)).mul_(scale)
    return norm.forward


def fused_linear(*layers: nn.Linear) -> Function:
    """Several linear layers with the same input as one function (B, C) to their concatenated outputs (B, sum of N).
    Small weights are copied into one matrix; large ones, which would take twice the memory, are not."""
    if sum(layer.weight.numel() for layer in layers) > MAX_FUSED_WEIGHTS:
        functions = [functional_linear(layer) for layer in layers]
        return lambda x: torch.cat([function(x) for function in functions], dim=-1)
    weight = torch.cat(tuple(layer.weight for layer in layers))
    biases = tuple(layer.bias for layer in layers if layer.bias is not None)
    return functional_matmul(weight, torch.cat(biases) if biases else None)


def functional_feed_forward(mlp: FeedForward) -> Function:
    """`FeedForward.forward` as a function (B, C) to (B, C)."""
    activation, down = mlp.activation, functional_linear(mlp.down_proj)
    if mlp.gate_proj is None:
        up = functional_linear(mlp.up_proj)
        return lambda x: down(activation(up(x)))
    gate_and_up = fused_linear(mlp.gate_proj, mlp.up_proj)

    def gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = gate_and_up(x).chunk(2, dim=-1)
        return down(activation(gate) * up)

    return gated


def norms_of(block: TransformerBlock) -> list[nn.Module]:
    """The norms of a block's branches, in order."""
    norms = [block.input_layernorm, block.cross_attn_layernorm, block.post_attention_layernorm]
    return [norm for norm in norms if norm is not None]


def rotate_(x: torch.Tensor, rotary: Rotary) -> None:
    """`apply_rotary` in place, for one token per row.

    Args:
        x: queries or keys (B, heads, 1, D).
        rotary: cosines, and sines that are negated in the first half of the features, each (1, 1, D) or (B, 1, 1, D).
    """
    swapped = x.roll(x.shape[-1] // 2, -1)
    x.mul_(rotary[0]).addcmul_(swapped, rotary[1])


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of ones and zeros (B, S) as a mask (B, 1, 1, S) to add to the scores: 0, or the minimum of `dtype`."""
    return (mask[:, None, None] == 0).to(dtype) * torch.finfo(dtype).min
