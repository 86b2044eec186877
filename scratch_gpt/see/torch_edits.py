"""Parts of a model switched off by hooks of torch: the edits of a page, as web/engine/edits.js has them.

Dimension letters: B batch, H heads, T queries, S keys, C hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ScratchError

# The names of a page's edits, and the fields that they are here.
NAMES = {
    "heads": "heads",
    "crossHeads": "cross_heads",
    "attentions": "attentions",
    "crossAttentions": "cross_attentions",
    "mlps": "mlps",
    "blocks": "blocks",
    "hiddenTokens": "hidden_tokens",
}


@dataclass(frozen=True)
class Edits:
    """What is switched off in a stack; in an encoder-decoder in its decoder.

    Attributes:
        heads: "layer.head", whose share of the output of self-attention is absent.
        cross_heads: the same for cross-attention.
        attentions: layers whose self-attention adds 0 to the residual stream.
        cross_attentions: layers whose cross-attention adds 0.
        mlps: layers whose feed-forward network adds 0.
        blocks: layers that are the identity.
        hidden_tokens: positions that no other position attends to. In an encoder they are also left out of pooling,
            n-grams and token weights, and of cross-attention.
        encoder: those of the encoder of an encoder-decoder.
    """

    heads: frozenset[str] = frozenset()
    cross_heads: frozenset[str] = frozenset()
    attentions: frozenset[int] = frozenset()
    cross_attentions: frozenset[int] = frozenset()
    mlps: frozenset[int] = frozenset()
    blocks: frozenset[int] = frozenset()
    hidden_tokens: frozenset[int] = frozenset()
    encoder: Edits | None = None

    @classmethod
    def from_json(cls, content: Any) -> Edits:
        """Edits from what a page sends; None is none.

        Raises:
            ScratchError: it is not an object of such lists.
        """
        if content is None:
            return cls()
        unknown = set(content) - {*NAMES, "encoder"} if isinstance(content, dict) else content
        if unknown:
            raise ScratchError(f"edits are {unknown!r}: want an object with some of {', '.join(NAMES)}, encoder")
        fields: dict[str, Any] = {}
        for name, field in NAMES.items():
            values, kind = content.get(name) or [], str if name.lower().endswith("heads") else int
            if not isinstance(values, list) or not all(type(value) is kind for value in values):
                raise ScratchError(f"edits.{name} is {values!r}: want a list of {kind.__name__}")
            fields[field] = frozenset(values)
        encoder = content.get("encoder")
        return cls(**fields, encoder=None if encoder is None else cls.from_json(encoder))

    @property
    def of_encoder(self) -> Edits:
        """Those of the encoder."""
        return self.encoder or Edits()

    def heads_off(self, layer: int, cross: bool = False) -> list[int]:
        """The heads of a layer that are off."""
        parts = (each.partition(".") for each in (self.cross_heads if cross else self.heads))
        return [int(head) for found, _, head in parts if found == str(layer) and head.isdigit()]


@contextmanager
def edited(layers: Any, edits: Edits, start: int = 0, hidden_source: frozenset[int] = frozenset()) -> Iterator[None]:
    """Inside the block, parts of these blocks are off.

    Args:
        layers: the blocks of a stack, with eager attention.
        edits: what is off.
        start: position of the first query: the number of tokens in the cache.
        hidden_source: positions of the source that cross-attention does not attend to.
    """
    handles: list[Any] = []
    for index, layer in enumerate(layers):
        for attention, cross in ((layer.self_attn, False), (layer.cross_attn, True)):
            if attention is not None and (heads := edits.heads_off(index, cross)):
                handles.append(attention.o_proj.register_forward_pre_hook(without_heads(heads, attention.head_dim)))
        if index in edits.attentions:
            handles.append(switched_off(layer.attn_output_layernorm or layer.self_attn))
        if index in edits.cross_attentions and layer.cross_attn is not None:
            handles.append(switched_off(layer.cross_attn))
        if index in edits.mlps:
            handles.append(switched_off(layer.mlp_output_layernorm or layer.mlp))
        if edits.hidden_tokens or hidden_source:
            hook = hidden_keys(edits.hidden_tokens, start, hidden_source)
            handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        if index in edits.blocks:
            handles.append(layer.register_forward_hook(lambda module, inputs, output: inputs[0]))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_heads(heads: list[int], head_dim: int) -> Any:
    """A hook that sets the features of heads to 0 in the input (B, T, H * D) of the output projection."""

    def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        attended = inputs[0].clone()
        for head in heads:
            attended[..., head * head_dim : (head + 1) * head_dim] = 0
        return (attended,)

    return hook


def switched_off(module: nn.Module) -> Any:
    """Set the output of a module to 0, of attention without its weights; returns the handle of the hook."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    return module.register_forward_hook(hook)


def hidden_keys(hidden: frozenset[int], start: int, hidden_source: frozenset[int]) -> Any:
    """A hook of a block that hides keys in the masks of its attention. A hidden token attends to itself."""

    def hook(module: nn.Module, inputs: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        states, source, mask = inputs
        length = states.shape[1]  # T
        own = torch.arange(length) + start
        mask = hide(mask, states, hidden, start + length if mask is None else mask.shape[-1], own)
        if source is not None and hidden_source:
            found = kwargs["encoder_attention_mask"]
            kwargs = {**kwargs, "encoder_attention_mask": hide(found, states, hidden_source, source.shape[1])}
        return (states, source, mask), kwargs

    return hook


def hide(
    mask: torch.Tensor | None,
    states: torch.Tensor,
    hidden: frozenset[int],
    num_keys: int,
    own: torch.Tensor | None = None,
) -> torch.Tensor:
    """An additive mask (B, 1 or H, T, S) in which some keys are hidden.

    Args:
        mask: the mask; None if nothing is masked.
        states: of the queries (B, T, C).
        hidden: the keys.
        num_keys: S.
        own: the key of each query itself (T,), which it always sees.
    """
    length = states.shape[1]
    if mask is None:
        mask = states.new_zeros(1, 1, length, num_keys)
    blocked = torch.zeros(length, num_keys, dtype=torch.bool)
    blocked[:, [key for key in hidden if 0 <= key < num_keys]] = True
    if own is not None:
        blocked[torch.arange(length), own] = False
    return mask.masked_fill(blocked.to(mask.device), torch.finfo(mask.dtype).min)
