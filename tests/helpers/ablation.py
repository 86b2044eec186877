"""Parts of a model switched off by hooks of torch: what the edits of a page's engine must be equal to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

Edits = dict[str, Any]


@contextmanager
def ablated(layers: Any, edits: Edits) -> Iterator[None]:
    """Inside the block, parts of these blocks are off.

    Args:
        layers: the blocks of a stack.
        edits: as in web/engine/edits.js, without hidden tokens.
    """
    handles = []
    for index, layer in enumerate(layers):
        for kind, name in (("heads", "self_attn"), ("crossHeads", "cross_attn")):
            for head in (int(one.split(".")[1]) for one in edits.get(kind, []) if one.split(".")[0] == str(index)):
                attention = getattr(layer, name)
                handles.append(attention.o_proj.register_forward_pre_hook(without_head(head, attention.head_dim)))
        if index in edits.get("attentions", []):
            handles.append(silent(layer.attn_output_layernorm or layer.self_attn))
        if index in edits.get("crossAttentions", []):
            handles.append(silent(layer.cross_attn))
        if index in edits.get("mlps", []):
            handles.append(silent(layer.mlp_output_layernorm or layer.mlp))
        if index in edits.get("blocks", []):
            handles.append(layer.register_forward_hook(lambda module, inputs, output: inputs[0]))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_head(head: int, head_dim: int) -> Any:
    """A hook that sets the features of a head to 0 in the input of the output projection."""

    def hook(module, inputs):
        attended = inputs[0].clone()
        attended[..., head * head_dim : (head + 1) * head_dim] = 0
        return (attended,)

    return hook


def silent(module: Any) -> Any:
    """Set the output of a module to 0, of attention without its weights; return the handle of the hook."""

    def hook(module, inputs, output):
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    return module.register_forward_hook(hook)


def hiding_mask(config: Any, length: int, hidden: set[int]) -> dict[str, torch.Tensor]:
    """Additive masks of causal attention by layer type, in which other tokens do not attend to hidden ones."""
    query, key = torch.arange(length)[:, None], torch.arange(length)
    masks = {}
    for layer_type in set(config.layer_types or ["full_attention"]):
        visible = key <= query
        if layer_type == "sliding_attention":
            visible &= query - key < config.sliding_window
        visible &= ~torch.isin(key, torch.tensor(sorted(hidden))) | (key == query)
        masks[layer_type] = torch.where(visible, 0.0, torch.finfo(torch.float32).min)[None, None]
    return masks


@contextmanager
def recorded(layers: Any) -> Iterator[list[torch.Tensor]]:
    """Inside the block, collect the input of the first block and the output of each (T, C)."""
    states: list[torch.Tensor] = []

    def before(module, inputs):
        states.append(inputs[0][0])

    def after(module, inputs, output):
        states.append(output[0])

    handles = [layers[0].register_forward_pre_hook(before), *(layer.register_forward_hook(after) for layer in layers)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
