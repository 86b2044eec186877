"""The caches of a served model: keys and values of texts that a page has asked for, which the next one often continues.

The page sends all tokens each time, and the longest known beginning is not computed again. So it may step back, branch
and reload, and several pages may ask in turn: a cache that is dropped costs time and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from transformers.cache_utils import DynamicCache, EncoderDecoderCache

MAX_CACHES = 16  # texts; a beam search has one for each of its beams


class _Kept(NamedTuple):
    key: Hashable
    ids: tuple[int, ...]
    cache: Any


class KeptCaches:
    """The most recent caches of one model, and the trace of its last source."""

    def __init__(self) -> None:
        self.kept: list[_Kept] = []  # the most recent first
        self._source: tuple[Hashable, Any] | None = None

    def take(self, key: Hashable, ids: Sequence[int], limit: int) -> tuple[Any, int]:
        """The longest cache of a beginning of a text.

        Args:
            key: what else the keys and values depend on: the source and the edits.
            ids: all tokens of the text.
            limit: maximum number of tokens that may be in it.

        Returns:
            A cache that can be extended, or None, and the number of tokens in it.
        """
        found = [(min(shared_length(each.ids, ids), limit), each) for each in self.kept if each.key == key]
        length, best = max(found, key=lambda pair: pair[0], default=(0, None))
        if best is None or length == 0:
            return None, 0
        return copied(best.cache, length), length

    def keep(self, key: Hashable, ids: Sequence[int], cache: Any) -> None:
        """Keep the cache of a text; those of its beginnings are dropped.

        Args:
            key: as of `take`.
            ids: all tokens that are in the cache.
            cache: which is not changed from now on.
        """
        others = [each for each in self.kept if each.key != key or shared_length(each.ids, ids) < len(each.ids)]
        self.kept = [_Kept(key, tuple(ids), cache), *others][:MAX_CACHES]

    def source(self, *key: Hashable) -> Any:
        """The trace of the last source, if it has this key; else None."""
        return self._source[1] if self._source is not None and self._source[0] == key else None

    def keep_source(self, ids: Hashable, edits: Hashable, record: Hashable, trace: Any) -> None:
        """Keep the trace of a source.

        Args:
            ids: its tokens.
            edits: of the encoder.
            record: whether it is recorded.
            trace: of the encoder.
        """
        self._source = ((ids, edits, record), trace)


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens at the beginning that two texts share."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


def copied(cache: Any, length: int) -> Any:
    """A cache with the first tokens of another, which can be extended without changing that one: keys and values are
    never changed in place, so that both share them.

    Args:
        cache: a `DynamicCache` without windows, or an `EncoderDecoderCache` of two of them.
        length: number of tokens that are kept.
    """
    if isinstance(cache, EncoderDecoderCache):
        return EncoderDecoderCache(copied(cache.self_attention_cache, length), cache.cross_attention_cache)
    result = DynamicCache()
    for layer in cache.layers:
        layer = copy.copy(layer)
        layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
        result.layers.append(layer)
    return result
