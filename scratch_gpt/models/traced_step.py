"""A decoding step as a function of a flat list of tensors, the form in which it is compiled, and the list itself.

Dimension letters: B rows, G key-value heads, D head size, S attended tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .decoding_step import DecodingStep

EXAMPLE_SIZES = {"buffer": 300, "mask": 300, "cos": 400, "sin": 400, "positions": 410, "bias": 420}
EXAMPLE_SIZES |= {"keys": 30, "values": 30, "source mask": 30}


class StepInputs:
    """The inputs of a compiled step in the order in which it takes them, and which of their sizes vary.

    Args:
        decoder: a `StepDecoder`.
    """

    def __init__(self, decoder: Any):
        self.decoder = decoder
        self.rows = len(decoder.buffers[0].keys[0])
        self.per_row = isinstance(decoder.position, torch.Tensor)
        self.refresh()

    def refresh(self) -> None:
        """Collect the tensors that stay the same from step to step, until a buffer grows."""
        decoder = self.decoder
        named: list[tuple[str, torch.Tensor | None, tuple[int, ...]]] = []
        for buffer in decoder.buffers:
            named += [("buffer", buffer.buffer, (4,)), ("mask", buffer.mask, (3,))]
        for table in decoder.rotary:
            named += [("cos", table and table[0], (0,)), ("sin", table and table[1], (0,))]
        learned = isinstance(decoder.trunk.embed_positions, nn.Embedding)  # then they are weights
        named += [("positions", None if learned else decoder.position_embeddings, (0,))]
        named += [("bias", decoder.relative_bias, (3,))]
        for source in decoder.sources:
            named += [("keys", source and source[0], (2,)), ("values", source and source[1], (2,))]
        named += [("source mask", decoder.sources[0] and decoder.sources[0][2], (3,))]
        self.layout = [name if tensor is not None else "" for name, tensor, _ in named]
        # Compiled code assumes the strides of its examples.
        self.fixed = [tensor.contiguous() for _, tensor, _ in named if tensor is not None]
        self.varying = [dims for _, tensor, dims in named if tensor is not None]

    def __call__(self, token_ids: torch.Tensor, ngrams: torch.Tensor | None) -> list[torch.Tensor]:
        """The inputs of the next step, for which each buffer advances by one token."""
        decoder = self.decoder
        position = decoder.position if self.per_row else token_ids.new_full((1,), decoder.position)
        # Sizes reach compiled code as the shape of a tensor without elements; 2 more, since 0 and 1 are not general.
        sizes = [2 + size for buffer in decoder.buffers for size in buffer.advance()]
        inputs = [token_ids.contiguous(), position, token_ids.new_empty((*sizes, 0)), *self.fixed]
        return inputs if ngrams is None else [*inputs, ngrams.contiguous()]

    def examples(self) -> list[torch.Tensor]:
        """Inputs of a step. Sizes that are independent of each other differ here, or `export` takes them for one."""
        decoder, rows = self.decoder, self.rows
        token_ids = torch.zeros(rows, dtype=torch.long)
        position = torch.zeros(rows if self.per_row else 1, dtype=torch.long)
        sizes = [size + i for i in range(len(decoder.buffers)) for size in (150, 20)]  # index, and first attended token
        fixed = []
        for name, tensor, dims in zip(filter(None, self.layout), self.fixed, self.varying, strict=True):
            shape = list(tensor.shape)
            shape[dims[0]] = EXAMPLE_SIZES[name]
            fixed.append(tensor.new_zeros(shape))
        inputs = [token_ids, position, torch.empty(*sizes, 0), *fixed]
        if decoder.embed_ngrams is not None:
            inputs.append(fixed[0].new_zeros(rows, decoder.config.hidden_size))
        return inputs


class TracedStep(nn.Module):
    """The step as a function of a flat list of tensors, for `torch.export`.

    Args:
        model: the model with its head.
        inputs: describes the list.
        beams: number of consecutive rows with the same source.
    """

    def __init__(self, model: Any, inputs: StepInputs, beams: int):
        super().__init__()
        self.model, self.layout, self.beams = model, inputs.layout, beams
        self.num_buffers, self.num_tables = len(inputs.decoder.buffers), len(inputs.decoder.rotary)
        self.has_ngrams = inputs.decoder.embed_ngrams is not None

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """The logits (B, V), and for each buffer the keys and values of the tokens (2, blocks, B, G, D)."""
        token_ids, position, sizes, *rest = tensors
        trunk: Any = self.model.decoding_trunk
        ngrams = rest.pop() if self.has_ngrams else None
        given = iter(rest)
        taken: list[Any] = [next(given) if name else None for name in self.layout]
        buffers, taken = taken[: 2 * self.num_buffers], taken[2 * self.num_buffers :]
        tables, (positions, bias, *sources) = taken[: 2 * self.num_tables], taken[2 * self.num_tables :]
        step = DecodingStep(self.model, trunk, buffers[0], len(token_ids), self.beams)
        caches: list[Any] = []
        new: list[list[torch.Tensor]] = []
        for i, (buffer, mask) in enumerate(pairs(buffers)):
            new.append([])
            caches.append(past(buffer, sizes.shape[2 * i] - 2, sizes.shape[2 * i + 1] - 2, mask, bias, new[-1]))
        if isinstance(trunk.embed_positions, nn.Embedding):
            positions = trunk.embed_positions.weight
        positions = None if positions is None else positions[position]
        rotary = [None if cos is None else (cos[position], sin[position]) for cos, sin in pairs(tables)]
        source_mask = sources.pop()
        pairs_of_sources = [None if key is None else (key, value, source_mask) for key, value in pairs(sources)]
        logits = step(token_ids, ngrams, positions, rotary, caches, pairs_of_sources)
        return [logits, *(torch.stack((torch.stack(each[::2]), torch.stack(each[1::2]))) for each in new)]


def past(
    buffer: torch.Tensor,
    index: int,
    first: int,
    mask: torch.Tensor | None,
    bias: torch.Tensor | None,
    new: list[torch.Tensor],
) -> tuple[Any, Any]:
    """What `TracedSelfAttention.step` needs of a buffer, for each block and for all: see `KeyValueBuffer.append`.

    Args:
        buffer: keys and values (2, blocks, B, G, capacity, D).
        index: of the token.
        first: index of the first token to which it attends.
        mask: additive mask (B, 1, 1, capacity), or None.
        bias: relative positions, or None.
        new: list for the keys and values of the token.
    """
    length = index - first
    keys, values = (half.unbind() for half in buffer.narrow(4, first, length).unbind())
    masks = [x for x in (mask, bias) if x is not None]
    starts = [first if x is mask else x.shape[3] - length - 1 for x in masks]
    parts = [(x.narrow(3, i, length), x.narrow(3, i + length, 1)) for x, i in zip(masks, starts, strict=True)]
    mask_parts = None if not parts else tuple(sum(part) for part in zip(*parts, strict=True))
    return zip([new] * len(keys), keys, values, strict=True), mask_parts


def pairs(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Consecutive values in pairs."""
    return list(zip(values[::2], values[1::2], strict=True))
