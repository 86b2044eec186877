"""Fast decoding for `generate` and `pipeline`: the tokens of transformers' own loop, with less overhead per token.

transformers' loop runs the whole model for each token: it prepares inputs, builds masks, grows the cache by copying and
calls every module, which for a small model costs more than the arithmetic. Here the model processes the prompt as usual
(prefill); after that, each decoding step is a fixed sequence of matrix products on a preallocated cache of keys and
values. fast_generation.py decides when this is used, and leaves all other cases to transformers.

The formulas are those of block.py, for one token per row; tests compare the two. What a model needs is decided when its
decoder is built, so that a step contains nothing else. decoding_cache.py holds the cache, decoding_attention.py and
functional_layers.py the parts of a block.

Dimension letters: B rows, H query heads, G key-value heads, D head size, R rotated features of a head, C hidden size,
S cached tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .block import TransformerBlock
from .decoding_attention import Rotary, StepCrossAttention, StepSelfAttention
from .decoding_cache import KeyValueBuffer, LayerViews, additive_mask
from .functional_layers import Function, functional_feed_forward, functional_linear, functional_norm
from .positions import RotaryEmbeddings, SinusoidalPositions, check_length

Step = Callable[[torch.Tensor, LayerViews, Rotary | None, torch.Tensor | None], torch.Tensor]


def block_step(
    block: TransformerBlock,
    attention: StepSelfAttention,
    cross_attention: StepCrossAttention | None,
    like: torch.Tensor,
) -> Step:
    """A block, for one token per row, as a function of the hidden states (B, C), and of the cached keys and values, the
    rotary positions and the mask of `StepSelfAttention.step`; it returns hidden states (B, C).

    Args:
        block: the module.
        attention: its self-attention.
        cross_attention: its cross-attention, or None.
        like: a tensor of the model's dtype, on its device.
    """

    def norm(name: str) -> Function | None:
        module = getattr(block, name)
        return None if module is None else functional_norm(module, like)

    feed_forward, post_norm = functional_feed_forward(block.mlp), block.post_norm
    input_norm, mlp_norm = norm("input_layernorm"), norm("post_attention_layernorm")
    if block.parallel_residual:
        return parallel_step(attention.step, feed_forward, input_norm, mlp_norm)
    attend = residual_branch(attention.step, input_norm, norm("attn_output_layernorm"), post_norm)
    feed_forward = residual_branch(feed_forward, mlp_norm, norm("mlp_output_layernorm"), post_norm)
    if cross_attention is None:
        return lambda x, cached, rotary, mask: feed_forward(attend(x, *cached, rotary, mask))
    cross_attend = residual_branch(cross_attention.step, norm("cross_attn_layernorm"), None, post_norm)
    return lambda x, cached, rotary, mask: feed_forward(cross_attend(attend(x, *cached, rotary, mask), rotary))


def residual_branch(
    branch: Callable[..., torch.Tensor], norm: Function | None, output_norm: Function | None, post_norm: bool
) -> Callable[..., torch.Tensor]:
    """A residual branch as a function of hidden states (B, C) and of the further arguments of the branch.

    Args:
        branch: the branch itself.
        norm: norm of its input or, if `post_norm`, of the sum; None without one.
        output_norm: norm of its output, or None.
        post_norm: whether the sum is normalized.
    """
    if post_norm and norm is not None:
        return lambda x, *inputs: norm(branch(x, *inputs).add_(x))
    if norm is None and output_norm is None:
        return lambda x, *inputs: branch(x, *inputs).add_(x)
    if norm is None:
        return lambda x, *inputs: output_norm(branch(x, *inputs)).add_(x)  # type: ignore[misc]
    if output_norm is None:
        return lambda x, *inputs: branch(norm(x), *inputs).add_(x)
    return lambda x, *inputs: output_norm(branch(norm(x), *inputs)).add_(x)


def parallel_step(
    attend: Callable[..., torch.Tensor], feed_forward: Function, norm: Function | None, mlp_norm: Function | None
) -> Step:
    """A parallel block as the function that `block_step` returns.

    Args:
        attend, feed_forward: the two branches.
        norm: norm of the first branch's input, or None.
        mlp_norm: norm of the second branch's input; None if it is that of the first.
    """

    def step(x: torch.Tensor, cached: LayerViews, rotary: Rotary | None, mask: torch.Tensor | None) -> torch.Tensor:
        attn_input = x if norm is None else norm(x)
        mlp_input = attn_input if mlp_norm is None else mlp_norm(x)
        return attend(attn_input, *cached, rotary, mask).add_(feed_forward(mlp_input)).add_(x)

    return step


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
        self.embed_scale = getattr(trunk, "embed_scale", 1.0)
        self.embedding_norm = None if trunk.embedding_norm is None else functional_norm(trunk.embedding_norm, like)
        self.final_norm, self.lm_head = functional_norm(trunk.norm, like), functional_linear(model.lm_head)
        self.softcapping = getattr(self.config, "final_logit_softcapping", None)

        mask = None if attention_mask is None else additive_mask(attention_mask, like.dtype)
        windows = [block.self_attn.sliding_window for block in trunk.layers]
        distinct_windows = list(dict.fromkeys(windows))
        prompt = [(layer.keys, layer.values) for layer in self_attention_cache.layers]
        self.buffers = [
            KeyValueBuffer(
                [kv for kv, its_window in zip(prompt, windows, strict=True) if its_window == window], mask, window
            )
            for window in distinct_windows
        ]
        self.position_capacity = self.cached + self.buffers[0].free  # positions in the tables, without the offset
        self.next_growth = self.position_capacity  # number of cached tokens at which a buffer or the tables are full
        embeddings = [rotary_embedding(trunk, block) for block in trunk.layers]
        self.rotary_embeddings = list(dict.fromkeys(embeddings))  # distinct ones; None stands for no rotary positions
        self.build_position_tables(like)

        source: Any = getattr(cache, "cross_attention_cache", None)
        source_layers = [None] * len(trunk.layers) if source is None else source.layers
        source_mask = None if source_mask is None else additive_mask(source_mask[::beams], like.dtype)
        use_matmul = like.device.type == "cpu" and like.dtype == torch.float32 and len(like) > 1
        # Of each block: its step, and the indices of its buffer and of its rotary positions.
        self.blocks: list[tuple[Step, int, int]] = []
        for i, block in enumerate(trunk.layers):
            rotated = None if embeddings[i] is None else 2 * len(embeddings[i].inv_freq)
            cross_attention = None
            if (layer := source_layers[i]) is not None:
                source_rotated = rotated if self.config.cross_attention_rotary else None
                cross_attention = StepCrossAttention(
                    block.cross_attn, layer.keys, layer.values, source_mask, beams, source_rotated
                )
            self_attention = StepSelfAttention(block.self_attn, use_matmul, rotated)
            step = block_step(block, self_attention, cross_attention, like)
            indices = distinct_windows.index(windows[i]), self.rotary_embeddings.index(embeddings[i])
            self.blocks.append((step, *indices))

    def build_position_tables(self, like: torch.Tensor) -> None:
        """Position embeddings, rotary cosines and sines, and relative positions of all positions within the capacity,
        in the dtype and on the device of `like`, which is a tensor (..., G, tokens, D)."""
        positions = torch.arange(self.position_capacity + self.position_offset, device=like.device)
        embed_positions = self.trunk.embed_positions
        self.position_embeddings = embed_positions.weight if isinstance(embed_positions, nn.Embedding) else None
        if isinstance(embed_positions, SinusoidalPositions):
            self.position_embeddings = embed_positions(positions).to(like.dtype)  # (positions, C)
        self.rotary: list[Rotary | None] = []
        for embedding in self.rotary_embeddings:
            if embedding is None:
                self.rotary.append(None)
                continue
            cos, sin = (x[:, None] for x in embedding(like, positions[:, None]))  # each (positions, 1, 1, R/2)
            # Each (positions, 1, 1, R)
            self.rotary.append((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))
        self.relative_bias: torch.Tensor | None = None
        if self.trunk.relative_bias is not None:
            bias = self.trunk.relative_bias.bias(1, self.position_capacity, self.position_capacity - 1)[:, :, 0]
            self.relative_bias = bias.unflatten(1, (like.shape[-3], -1)).to(like.dtype)  # (1, G, H / G, positions)

    def grow_buffers(self) -> None:
        """Grow the buffers and position tables that are full."""
        for buffer in self.buffers:
            if not buffer.free:
                buffer.grow()
        if self.cached == self.position_capacity:
            self.position_capacity *= 2
            self.build_position_tables(self.buffers[0].keys)
        self.next_growth = min(self.position_capacity, *(self.cached + buffer.free for buffer in self.buffers))

    def step(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, token ids (B,), and return the logits of the next one (B, V).

        Raises:
            ValueError: if there are more tokens than learned positions.
        """
        index, position = self.cached, self.position
        if index >= self.max_positions:
            check_length(self.config, index + 1)
        if index == self.next_growth:
            self.grow_buffers()
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
        rotary = [None if table is None else (table[0][position], table[1][position]) for table in self.rotary]
        caches = [buffer.append(self.relative_bias) for buffer in self.buffers]
        for step, buffer_idx, rotary_idx in self.blocks:
            layers, mask = caches[buffer_idx]
            x = step(x, next(layers), rotary[rotary_idx], mask)
        self.cached, self.position = index + 1, position + 1
        logits = self.lm_head(self.final_norm(x))  # (B, V)
        if self.softcapping is not None:
            logits = self.softcapping * torch.tanh(logits / self.softcapping)
        return logits

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Continue with these rows (B,). The source is not reordered: beams stay with their source."""
        for buffer in self.buffers:
            buffer.reorder(beam_idx)
        if self.embed_ngrams is not None:
            self.previous_tokens = self.previous_tokens[beam_idx]


def rotary_embedding(trunk: Any, block: TransformerBlock) -> Any:
    """The rotary embedding of a block; None if it has no rotary positions."""
    if block.rotary_type is None or not isinstance(trunk.rotary_emb, RotaryEmbeddings):
        return None if block.rotary_type is None else trunk.rotary_emb
    return trunk.rotary_emb[block.rotary_type]
