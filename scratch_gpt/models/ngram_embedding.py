"""N-gram embeddings: hashed embeddings of n-grams.

Attention has to learn which tokens belong together; little text or a short training run does not suffice for that. With
n-gram embeddings, n-grams are features from the start.

Dimension letters: B batch, T tokens, S cached tokens, C hidden size.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from .compatibility import is_paged, max_cache_length, update_cache

MULTIPLIER = 16_777_619  # the 32-bit FNV prime, with which few n-grams of characters collide


class NgramEmbedding(nn.Module):
    """A vector for each n-gram. Every n-gram is hashed to one of a fixed number of buckets, where n-grams may collide
    (Joulin et al. 2016, arXiv:1607.01759).

    Args:
        size: n.
        buckets: number of rows of the table, a power of two.
        hidden_size: C.
        fill_id: id used in place of the tokens before the first one of a text.
    """

    def __init__(self, size: int, buckets: int, hidden_size: int, fill_id: int):
        super().__init__()
        self.size, self.fill_id = size, fill_id
        self.embedding = nn.Embedding(buckets, hidden_size)

    def bucket_ids(
        self, input_ids: torch.Tensor, previous: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The bucket (B, T) of the n-gram that ends at each token: a polynomial hash of its ids.

        Args:
            input_ids: token ids (B, T).
            previous: the n - 1 tokens before the first one (B, n - 1); by default there are none.
            position_ids: position of each token in its document (B or 1, T); n-grams do not reach back into the
                document before.
        """
        input_ids, length = input_ids.long(), input_ids.shape[1]  # the product overflows 32 bits
        if previous is None:
            ids = nn.functional.pad(input_ids, (self.size - 1, 0), value=self.fill_id)
        else:
            ids = torch.cat((previous, input_ids), dim=1)
        buckets = torch.zeros_like(input_ids)
        for back in reversed(range(self.size)):
            token = ids[:, self.size - 1 - back :][:, :length]
            if position_ids is not None and back:
                token = token.masked_fill(position_ids < back, self.fill_id)
            buckets = (buckets * MULTIPLIER + token) % self.embedding.num_embeddings
        return buckets

    def bucket_ids_in_context(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: Cache | None,
        layer_idx: int,
    ) -> torch.Tensor:
        """The bucket (B, T) of the n-gram that ends at each token, including tokens in the cache.

        Args:
            input_ids: token ids (B, T).
            position_ids: position of each token in its document (B or 1, T); used without a padding mask.
            attention_mask: 1 for tokens and 0 for padding (B, S + T); n-grams skip padding, wherever it is.
            cache: the model's cache, to which the tokens are appended.
            layer_idx: index of the layer of the cache that holds the tokens.
        """
        cached = 0 if cache is None else cache.get_seq_length(layer_idx) + 0  # a copy: a static cache updates its own
        ids = input_ids.long() if cache is None else append_to_cache(cache, layer_idx, input_ids)
        if attention_mask is not None and attention_mask.ndim == 2:
            # A static cache is longer than its tokens; the mask also covers a tuned prefix, which has no ids.
            length = min(ids.shape[1], attention_mask.shape[1])
            compacted, index = self._compact(ids[:, :length], attention_mask[:, -length:])
            return self.bucket_ids(compacted).gather(1, index)[:, -input_ids.shape[1] :]
        previous = None if cache is None else self._tokens_before(ids, cached)
        return self.bucket_ids(input_ids, previous, position_ids)

    def last_tokens(
        self, ids: torch.Tensor, position: int | torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The last n - 1 tokens (B, n - 1), which precede the next token.

        Args:
            ids: all tokens so far (B, S).
            position: position of the next token in its document, one for all rows or one per row (B,); used without a
                mask.
            attention_mask: 1 for tokens and 0 for padding (B, S); padding is skipped.
        """
        if attention_mask is not None:
            compacted, index = self._compact(ids, attention_mask)
            return self._tokens_before(compacted, index[:, -1:] + 1)
        back = torch.arange(self.size - 1, 0, -1, device=ids.device)
        starts = position[:, None] if isinstance(position, torch.Tensor) else position
        return self._tokens_before(ids, ids.shape[1]).masked_fill(starts < back, self.fill_id)

    def forward(self, bucket_ids: torch.Tensor) -> torch.Tensor:
        """Buckets (B, T) to vectors (B, T, C)."""
        return self.embedding(bucket_ids)

    def _tokens_before(self, ids: torch.Tensor, index: int | torch.Tensor) -> torch.Tensor:
        """The n - 1 of the ids (B, S) before an index, which may differ per row (B, 1)."""
        indices = (index + torch.arange(1 - self.size, 0, device=ids.device)).expand(len(ids), -1)
        return ids.gather(1, indices.clamp(min=0)).masked_fill(indices < 0, self.fill_id)

    def _compact(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The ids (B, S) without the masked ones, left-aligned, and the index of each id among them (B, S); a masked id
        has the index of the last one before it."""
        unmasked, length = mask.bool(), ids.shape[1]
        index = unmasked.cumsum(-1) - 1
        target = index.masked_fill(~unmasked, length)
        compacted = ids.new_full((len(ids), length + 1), self.fill_id).scatter(1, target, ids)
        return compacted[:, :-1], index.clamp(min=0)


def append_to_cache(cache: Cache, layer_idx: int, input_ids: torch.Tensor) -> torch.Tensor:
    """Append tokens (B, T) to a cache and return all of its tokens (B, S + T; a static cache returns its full length).
    They are an additional layer after those of the blocks, so that cropping and reordering the cache includes them.

    Raises:
        ValueError: during `torch.export`, which would lose the layer, and for a static cache without its full length.
    """
    if cache.layer_class_to_replicate is None and len(cache.layers) == layer_idx:
        if torch.compiler.is_exporting():
            raise ValueError("this model keeps tokens in its cache, which can't be exported: export it without a cache")
        cache.layers.append(token_layer(cache))
    ids = input_ids.long()[:, None, :, None]
    return update_cache(cache, ids, ids[..., :0], layer_idx, {})[0][:, 0, :, 0]


def token_layer(cache: Cache) -> DynamicLayer | StaticLayer:
    """A layer for all tokens of a cache, static if the cache is.

    Raises:
        ValueError: if the cache is static and all its layers are sliding windows, which do not know its full length.
    """
    static = [layer for layer in cache.layers if isinstance(layer, StaticLayer)]
    if not static:
        return DynamicLayer()
    lengths = [max_cache_length(layer) for layer in static if not layer.is_sliding]
    if not lengths:
        raise ValueError(
            "this model has n-gram embeddings, for which a static cache needs a layer with full attention, and all "
            "layers have a sliding window: use the default cache"
        )
    return StaticLayer(max(lengths))


def check_ngram_inputs(input_ids: torch.Tensor | None, cache: Any, kwargs: Mapping[str, Any]) -> None:
    """Check that the inputs of a model with n-gram embeddings contain the n-grams.

    Raises:
        ValueError: if there are no token ids, or an engine with continuous batching passes them in pieces.
    """
    if input_ids is None:
        raise ValueError("this model has n-gram embeddings and needs input_ids")
    if is_paged(cache) or kwargs.get("attention_instances") is not None:  # the latter is vLLM's
        raise ValueError("this model has n-gram embeddings, for which continuous batching does not keep the tokens")
