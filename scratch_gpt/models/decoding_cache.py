"""The preallocated cache of fast decoding: keys and values of the blocks that attend to the same tokens.

transformers' cache grows by copying everything for each token. Here a token is written to memory that was allocated
before; full attention doubles the memory when it is full, and a sliding window moves its last tokens to the beginning.

Dimension letters: B rows, H query heads, G key-value heads, D head size, S attended tokens.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

INITIAL_CAPACITY = 256  # tokens for which memory is allocated in advance

LayerViews = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # of a block: new keys and values, all keys, all values


class KeyValueBuffer:
    """Keys and values of the blocks with the same sliding window, or of those without one.

    Args:
        prompt: keys and values of the prompt, each (B, G, tokens, D), per block. With a window, its last tokens
            suffice.
        mask: additive mask of the prompt (B, 1, 1, tokens), or None without padding.
        window: number of tokens that a token attends to, with itself; None for all.
    """

    def __init__(
        self, prompt: list[tuple[torch.Tensor, torch.Tensor]], mask: torch.Tensor | None, window: int | None = None
    ):
        self.window = window
        # With a window, this is never exceeded: the memory is shifted once per INITIAL_CAPACITY tokens.
        self.max_capacity = None if window is None else window - 1 + INITIAL_CAPACITY
        length = prompt[0][0].shape[2]
        kept = length if window is None else min(length, window - 1)
        self.end = kept  # number of tokens in the buffer
        self.mask = None if mask is None else mask[..., mask.shape[-1] - kept :]
        self._allocate([[x[:, :, length - kept :] for x in layer] for layer in prompt], kept + INITIAL_CAPACITY)

    @property
    def free(self) -> int:
        """Number of tokens until `grow` must be called."""
        return self.capacity - self.end

    def append(self, bias: torch.Tensor | None = None) -> tuple[Iterator[LayerViews], torch.Tensor | None]:
        """Append a token, whose keys and values are then to be written.

        Args:
            bias: relative positions, the last of which is that of the token to itself (1, G, H / G, S or more).

        Returns:
            For each block: where to write the keys and values of the token (B, 2, G, 1, D), and the keys and the values
            that it attends to, with its own, each (B, G, S, D); and the mask of the scores, broadcastable to
            (B, G, H / G, S), or None.
        """
        index, first = self.advance()
        length = index + 1 - first
        new = self.buffer.narrow(4, index, 1).permute(1, 2, 0, 3, 4, 5).unbind()
        keys, values = (half.unbind() for half in self.buffer.narrow(4, first, length).unbind())
        mask = None if self.mask is None else self.mask.narrow(3, first, length)
        if bias is not None:
            bias = bias[..., bias.shape[3] - length :]
            mask = bias if mask is None else mask + bias
        return zip(new, keys, values), mask  # noqa: B905  (of equal length; checking it would cost time in each step)

    def advance(self) -> tuple[int, int]:
        """Append a token; return its index, and that of the first token to which it attends."""
        index = self.end
        self.end = index + 1
        return index, 0 if self.window is None else max(0, index + 1 - self.window)

    def write(self, new: torch.Tensor) -> None:
        """Write the keys and values of the token that was appended last, (2, blocks, B, G, D)."""
        self.buffer.select(4, self.end - 1).copy_(new)

    def grow(self) -> None:
        """Double the capacity. With a window, up to its limit; then discard the tokens that are out of reach."""
        if self.max_capacity is None or self.capacity < self.max_capacity:
            if self.mask is not None:
                self.mask = self.mask[..., : self.end]
            self._allocate(list(zip(self.keys, self.values, strict=True)), 2 * self.capacity)
            return
        kept = self.max_capacity - INITIAL_CAPACITY  # window - 1
        for cached in self.buffer.flatten(0, 1):  # (B, G, capacity, D); one by one, since source and target may overlap
            cached[:, :, :kept] = cached[:, :, self.end - kept : self.end].clone()
        if self.mask is not None:
            self.mask = F.pad(self.mask[..., self.end - kept : self.end], (0, self.capacity - kept))
        self.end = kept

    def replace(self, rows: torch.Tensor, others: torch.Tensor) -> None:
        """Replace rows by copies of others, each (moved,)."""
        if len(rows):
            for cached in self.buffer[..., : self.end, :].flatten(0, 1):  # (B, G, end, D); all at once takes longer
                cached.index_copy_(0, rows, cached.index_select(0, others))

    def _allocate(self, cached: list, capacity: int) -> None:
        """Allocate memory for `capacity` tokens, and copy the cached keys and values, each (B, G, tokens, D)."""
        self.capacity = capacity if self.max_capacity is None else min(capacity, self.max_capacity)
        rows, kv_heads, length, head_dim = cached[0][0].shape
        self.buffer = cached[0][0].new_empty(2, len(cached), rows, kv_heads, self.capacity, head_dim)
        self.keys, self.values = self.buffer  # each (blocks, B, G, capacity, D)
        for i, (key, value) in enumerate(cached):
            self.keys[i, :, :, :length], self.values[i, :, :, :length] = key, value
        if self.mask is not None:
            self.mask = F.pad(self.mask, (0, self.capacity - length))  # (B, 1, 1, capacity)


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of ones and zeros (B, S) as a mask (B, 1, 1, S) to add to the scores: 0, or the minimum of `dtype`."""
    return (mask[:, None, None] == 0).to(dtype) * torch.finfo(dtype).min
