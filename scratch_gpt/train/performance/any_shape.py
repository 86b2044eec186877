"""Compilation of a block for batches of any shape, once: numbers of rows and of tokens are symbols of the graph.

By itself the compiler compiles for the shape of the first batch, again with symbols when the second one differs, and a
third time for batches on the other side of a size at which it would generate other code. Each takes as long as the
first, on two cores up to a minute.

Importing this module imports the compiler, which takes a second: it is imported only for compilation.

Letters: B rows of a batch, T tokens, S source tokens, R rotated features of a head, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx.experimental._config as shapes
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch.utils._pytree import tree_leaves

# Dimensions of an argument of a block that differ between batches, by their number: hidden states (B, T, C) and rotary
# cosines (B, T, R/2), masks (B, 1, T, S), positions and masks (B, T), positions (T).
VARYING = {1: (0,), 2: (0, 1), 3: (0, 1), 4: (0, 2, 3)}


def compile_for_any_shape(block: Any, device: str) -> None:
    """Compile a block in place, for batches of any shape. Evaluation runs uncompiled, and so do batches of one row or
    of one token, since a size of one can't be a symbol. What is compiled depends on the batch alone, so that a resumed
    run computes the same.

    Args:
        block: a `TransformerBlock`.
        device: type of its device.
    """
    eager: Callable[..., Any] = block._call_impl
    compiled = torch.compile(eager, backend=compile_without_size_guards if device == "cpu" else "inductor")

    def call(
        hidden_states: torch.Tensor,
        source: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if not (block.training and torch.is_grad_enabled()) or 1 in hidden_states.shape[:2]:
            return eager(hidden_states, source, attention_mask, **kwargs)
        if attention_mask is not None or not block.self_attn.is_causal:  # a causal block needs none without padding
            attention_mask = full_mask(block, attention_mask, hidden_states, hidden_states)
        if source is not None:
            mask = kwargs.pop("encoder_attention_mask", None)
            kwargs["encoder_attention_mask"] = full_mask(block, mask, hidden_states, source)
        for tensor in filter(torch.is_tensor, tree_leaves((hidden_states, source, attention_mask, kwargs))):
            torch._dynamo.maybe_mark_dynamic(tensor, VARYING.get(tensor.ndim, ()))
        return compiled(hidden_states, source, attention_mask, **kwargs)

    block._compiled_call_impl = call  # what `block.compile` sets, too; it is not saved with the module


def full_mask(block: Any, mask: torch.Tensor | None, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The mask of a batch with its rows, also if no row has padding: then there is none, or one for all rows, which
    would be compiled again.

    Args:
        block: the block.
        mask: (B or 1, heads or 1, T, S), or None.
        queries, keys: hidden states (B, T, C) and (B, S, C).
    """
    rows = len(queries)
    if mask is None:
        sdpa = block.self_attn.config._attn_implementation != "eager"  # whose mask is added to the scores
        ones = torch.ones if sdpa else torch.zeros
        dtype = torch.bool if sdpa else queries.dtype
        return ones(rows, 1, queries.shape[1], keys.shape[1], dtype=dtype, device=queries.device)
    return mask.expand(rows, -1, -1, -1).contiguous()


def compile_without_size_guards(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    """The backend "inductor", except that choices between two ways of generating code, such as that of a more exact sum
    for more than 4,096 numbers, do not limit the code to the sizes of the first batch; the default is generated."""
    return compile_fx(graph, inputs, inner_compile=_compile_inner)


def _compile_inner(*args: Any, **kwargs: Any) -> Any:
    with shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return compile_fx_inner(*args, **kwargs)
