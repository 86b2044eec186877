"""A decoding step as a function of one token per row and the cached keys and values, put together once for a model.

The formulas are those of block.py, for one token per row; tests compare the two. What a model needs is decided when the
function is built, so that a step contains nothing else. fast_decoding.py holds the state that changes from step to
step, and compiled_step.py compiles the function.

Dimension letters: B rows, G key-value heads, D head size, R rotated features of a head, C hidden size, S cached tokens,
V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from .block import TransformerBlock
from .decoding_attention import Rotary, Source, StepCrossAttention, StepSelfAttention, TracedSelfAttention
from .decoding_cache import LayerViews
from .functional_layers import Function, functional_feed_forward, functional_linear, functional_norm
from .positions import RotaryEmbeddings

Step = Callable[[torch.Tensor, LayerViews, Rotary | None, torch.Tensor | None, Source | None], torch.Tensor]


class DecodingStep:
    """The function from token ids to logits.

    Args:
        model, trunk: the model with its head, and its stack of causal blocks.
        like: a tensor of the model's dtype, on its device.
        rows: number of rows, B.
        beams: number of consecutive rows with the same source.
    """

    def __init__(self, model: Any, trunk: Any, like: torch.Tensor, rows: int, beams: int = 1):
        config = model.config
        self.embed_tokens = trunk.embed_tokens.weight
        self.embed_scale = getattr(trunk, "embed_scale", 1.0)
        self.embedding_norm = None if trunk.embedding_norm is None else functional_norm(trunk.embedding_norm, like)
        self.final_norm, self.lm_head = functional_norm(trunk.norm, like), functional_linear(model.lm_head)
        self.softcapping = getattr(config, "final_logit_softcapping", None)
        windows, embeddings = distinct_windows(trunk), distinct_rotary_embeddings(trunk)
        use_matmul = like.device.type == "cpu" and like.dtype == torch.float32 and rows > 1
        # Of each block: its step, and the indices of its window and of its rotary embedding.
        self.blocks: list[tuple[Step, int, int]] = []
        for block in trunk.layers:
            embedding = rotary_embedding(trunk, block)
            rotated = None if embedding is None else 2 * len(embedding.inv_freq)
            cross_attention = None
            if getattr(block, "cross_attn", None) is not None:
                source_rotated = rotated if config.cross_attention_rotary else None
                cross_attention = StepCrossAttention(block.cross_attn, like, beams, source_rotated)
            self_attention = (
                TracedSelfAttention(block.self_attn, like, rotated)
                if torch.compiler.is_exporting()
                else StepSelfAttention(block.self_attn, like, use_matmul, rotated)
            )
            step = block_step(block, self_attention, cross_attention, like)
            self.blocks.append((step, windows.index(block.self_attn.sliding_window), embeddings.index(embedding)))

    def __call__(
        self,
        token_ids: torch.Tensor,
        ngrams: torch.Tensor | None,
        positions: torch.Tensor | None,
        rotary: Sequence[Rotary | None],
        caches: Sequence[tuple[Iterator[LayerViews], torch.Tensor | None]],
        sources: Sequence[Source | None],
    ) -> torch.Tensor:
        """The logits (B, V) of the token after each row's token.

        Args:
            token_ids: (B,).
            ngrams: vectors of the n-grams that end at the tokens (B, C), or None.
            positions: position embeddings (B or 1, C), or None.
            rotary: for each of `distinct_rotary_embeddings`, cosines and sines of the positions.
            caches: for each of `distinct_windows`, what `KeyValueBuffer.append` returns.
            sources: keys, values and mask of the source for each block, or None.
        """
        x = F.embedding(token_ids, self.embed_tokens)  # (B, C)
        if ngrams is not None:
            x = x + ngrams
        if self.embed_scale != 1.0:
            x = x * self.embed_scale
        if positions is not None:
            x = x + positions
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        for (step, window, embedding), source in zip(self.blocks, sources):  # noqa: B905  (checking it would cost time)
            layers, mask = caches[window]
            x = step(x, next(layers), rotary[embedding], mask, source)
        logits = self.lm_head(self.final_norm(x))
        if self.softcapping is not None:
            logits = self.softcapping * torch.tanh(logits / self.softcapping)
        return logits


def block_step(
    block: TransformerBlock,
    attention: StepSelfAttention | TracedSelfAttention,
    cross_attention: StepCrossAttention | None,
    like: torch.Tensor,
) -> Step:
    """A block, for one token per row, as a function of the hidden states (B, C), of the cached keys and values, the
    rotary positions and the mask of `StepSelfAttention.step`, and of the source; it returns hidden states (B, C).

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
        return lambda x, cached, rotary, mask, source: feed_forward(attend(x, *cached, rotary, mask))
    cross_attend = residual_branch(cross_attention.step, norm("cross_attn_layernorm"), None, post_norm)

    def step(
        x: torch.Tensor, cached: LayerViews, rotary: Rotary | None, mask: torch.Tensor | None, source: Source | None
    ) -> torch.Tensor:
        return feed_forward(cross_attend(attend(x, *cached, rotary, mask), source, rotary))

    return step


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
        return lambda x, *inputs: output_norm(branch(x, *inputs)).add_(x)  # type: ignore[misc]  # not None here
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

    def step(
        x: torch.Tensor, cached: LayerViews, rotary: Rotary | None, mask: torch.Tensor | None, source: Source | None
    ) -> torch.Tensor:
        attn_input = x if norm is None else norm(x)
        mlp_input = attn_input if mlp_norm is None else mlp_norm(x)
        return attend(attn_input, *cached, rotary, mask).add_(feed_forward(mlp_input)).add_(x)

    return step


def distinct_windows(trunk: Any) -> list[int | None]:
    """The distinct sliding windows of the blocks, in tokens; None stands for full attention."""
    return list(dict.fromkeys(block.self_attn.sliding_window for block in trunk.layers))


def distinct_rotary_embeddings(trunk: Any) -> list[Any]:
    """The distinct rotary embeddings of the blocks; None stands for no rotary positions."""
    return list(dict.fromkeys(rotary_embedding(trunk, block) for block in trunk.layers))


def rotary_embedding(trunk: Any, block: TransformerBlock) -> Any:
    """The rotary embedding of a block; None if it has no rotary positions."""
    if block.rotary_type is None or not isinstance(trunk.rotary_emb, RotaryEmbeddings):
        return None if block.rotary_type is None else trunk.rotary_emb
    return trunk.rotary_emb[block.rotary_type]
