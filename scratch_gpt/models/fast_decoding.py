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

import time
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import nn

from .compiled_step import find_compiler
from .decoding_attention import Rotary, Source
from .decoding_cache import KeyValueBuffer, additive_mask
from .decoding_step import DecodingStep, distinct_rotary_embeddings, distinct_windows
from .positions import SinusoidalPositions, check_length
from .step_threads import is_small, threads


class StepDecoder:
    """Decodes token by token after the prefill."""

    def __init__(
        self,
        model: Any,
        trunk: Any,
        cache: Any,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        beams: int = 1,
        remaining: int = 0,
    ):
        """Args:
        model, trunk: the model with its head, and its stack of causal blocks.
        cache: keys and values of the prompt, and of the source if there is one.
        position_ids: of the prompt (B, S); without them, positions count from 0.
        attention_mask: 1 for tokens of the prompt and 0 for padding (B, S); None without padding.
        source_mask: the same for the source.
        beams: number of consecutive rows with the same source.
        remaining: largest number of steps, by which compiling the step is worth it or not.
        """
        self.model, self.config, self.trunk, self.beams = model, model.config, trunk, beams
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

        mask = None if attention_mask is None else additive_mask(attention_mask, like.dtype)
        windows = [block.self_attn.sliding_window for block in trunk.layers]
        prompt = [(layer.keys, layer.values) for layer in self_attention_cache.layers]
        self.buffers = [
            KeyValueBuffer(
                [kv for kv, its_window in zip(prompt, windows, strict=True) if its_window == window], mask, window
            )
            for window in distinct_windows(trunk)
        ]
        self.position_capacity = self.cached + self.buffers[0].free  # positions in the tables, without the offset
        self.next_growth = self.position_capacity  # number of cached tokens at which a buffer or the tables are full
        self.build_position_tables(like)

        source: Any = getattr(cache, "cross_attention_cache", None)
        source_mask = None if source_mask is None else additive_mask(source_mask[::beams], like.dtype)
        self.sources: list[Source | None] = [None] * len(trunk.layers)
        if source is not None:  # the same for all beams of a source
            keys_and_values = [(layer.keys[::beams], layer.values[::beams]) for layer in source.layers]
            self.sources = [(keys.contiguous(), values.contiguous(), source_mask) for keys, values in keys_and_values]
        self.remaining = remaining
        self.one_thread = like.device.type == "cpu" and is_small(model, len(like))
        self.compiler = find_compiler(self, model, beams)
        self.compiled = None if self.compiler is None else self.compiler.find()

    @cached_property
    def compute(self) -> DecodingStep:
        """The readable step; built when it is needed, since a compiled one makes it unnecessary."""
        keys = self.buffers[0].keys[0]
        return DecodingStep(self.model, self.trunk, keys, len(keys), self.beams)

    def build_position_tables(self, like: torch.Tensor) -> None:
        """Position embeddings, rotary cosines and sines, and relative positions of all positions within the capacity,
        in the dtype and on the device of `like`, which is a tensor (..., G, tokens, D)."""
        positions = torch.arange(self.position_capacity + self.position_offset, device=like.device)
        embed_positions = self.trunk.embed_positions
        self.position_embeddings = embed_positions.weight if isinstance(embed_positions, nn.Embedding) else None
        if isinstance(embed_positions, SinusoidalPositions):
            self.position_embeddings = embed_positions(positions).to(like.dtype)  # (positions, C)
        self.rotary: list[Rotary | None] = []
        for embedding in distinct_rotary_embeddings(self.trunk):
            if embedding is None:
                self.rotary.append(None)
                continue
            cos, sin = embedding(like, positions[:, None])
            self.rotary.append((cos[:, None], sin[:, None]))  # each (positions, 1, 1, R)
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
        if self.compiled is not None:
            self.compiled.inputs.refresh()

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
        ngrams = None
        if self.embed_ngrams is not None:
            buckets = self.embed_ngrams.bucket_ids(token_ids[:, None], self.previous_tokens)
            ngrams = self.embed_ngrams(buckets)[:, 0]
            self.previous_tokens = torch.cat((self.previous_tokens[:, 1:], token_ids[:, None]), dim=1)
        if self.compiled is not None:
            logits = self.compiled(token_ids, ngrams)
            self.cached, self.position = index + 1, position + 1
            return logits
        started = time.perf_counter()
        positions = None if self.position_embeddings is None else self.position_embeddings[position]
        rotary = [None if table is None else (table[0][position], table[1][position]) for table in self.rotary]
        caches = [buffer.append(self.relative_bias) for buffer in self.buffers]
        self.cached, self.position = index + 1, position + 1
        with threads(1) if self.one_thread else nullcontext():
            logits = self.compute(token_ids, ngrams, positions, rotary, caches, self.sources)
        if self.compiler is not None:
            self.compiled = self.compiler.consider(time.perf_counter() - started)
        return logits

    def reorder(self, rows: torch.Tensor) -> None:
        """Continue with these rows (B,), which have the same source as those that they replace."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for buffer in self.buffers:
            buffer.replace(moved, rows[moved])
        if self.embed_ngrams is not None:
            self.previous_tokens = self.previous_tokens[rows]
