"""What neighbours say together: a vector for each run of tokens, and how much tokens and pairs tell about labels.

Attention has to find out by itself which tokens belong together, and which of them matter. On little text, or in little
time, that is more than it can learn. Here, runs of tokens are features from the start; and a bag of them (the encoder's
style `fasttext`) weighs each by what was counted before training begins.

Dimension letters: B batch, T tokens, C hidden size, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from .positions import is_paged

MULTIPLIER = 16_777_619  # the prime of the FNV hash; runs of characters, above all, share few rows by it


class NgramEmbedding(nn.Module):
    """A vector for each run of n tokens. Runs have no list: each is hashed to one of a fixed number of rows, which runs
    may have to share (Joulin et al. 2016, arXiv:1607.01759).

    Args:
        size: n.
        buckets: rows, a power of two.
        hidden_size: C.
        filler: the id that stands for nothing, before the first token of a text.
    """

    def __init__(self, size: int, buckets: int, hidden_size: int, filler: int):
        super().__init__()
        self.size, self.filler = size, filler
        self.embedding = nn.Embedding(buckets, hidden_size)

    def rows_of(
        self, input_ids: torch.Tensor, previous: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The row of each token (B, T) with the n - 1 before it.

        Args:
            previous: the n - 1 tokens before the first one (B, n - 1); by default there are none.
            position_ids: of each token in its document (B or 1, T); what stands before a document is nothing.
        """
        input_ids, length = input_ids.long(), input_ids.shape[1]  # 32 bits are too few for the product
        if previous is None:
            ids = nn.functional.pad(input_ids, (self.size - 1, 0), value=self.filler)
        else:
            ids = torch.cat((previous, input_ids), dim=1)
        rows = torch.zeros_like(input_ids)
        for back in reversed(range(self.size)):
            token = ids[:, self.size - 1 - back :][:, :length]
            if position_ids is not None and back:
                token = token.masked_fill(position_ids < back, self.filler)
            rows = (rows * MULTIPLIER + token) % self.embedding.num_embeddings
        return rows

    def rows_in_context(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: Cache | None,
        layer: int,
    ) -> torch.Tensor:
        """The row of each token (B, T) with those before it in a cache, whose layer of this index keeps tokens. What a
        mask (B, tokens seen + T) hides is passed over, wherever it stands."""
        seen = 0 if cache is None else cache.get_seq_length(layer) + 0  # a static cache goes on counting in its tensor
        ids = input_ids.long() if cache is None else remember(cache, layer, input_ids)
        if attention_mask is not None and attention_mask.ndim == 2:
            length = min(ids.shape[1], attention_mask.shape[1])  # a static cache has room; a tuned prefix has no ids
            fused_linear, rank = self._compact(ids[:, :length], attention_mask[:, -length:])
            return self.rows_of(fused_linear).gather(1, rank)[:, -input_ids.shape[1] :]
        previous = None if cache is None else self._before(ids, seen)
        return self.rows_of(input_ids, previous, position_ids)

    def last_of(
        self, ids: torch.Tensor, position: int | torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The n - 1 tokens (B, n - 1) before the one to come: the last of `ids` (B, S) that a mask shows or, without
        one, those of its document, in which it has this position (one number, or one a row)."""
        if attention_mask is not None:
            fused_linear, rank = self._compact(ids, attention_mask)
            return self._before(fused_linear, rank[:, -1:] + 1)
        back = torch.arange(self.size - 1, 0, -1, device=ids.device)
        starts = position[:, None] if isinstance(position, torch.Tensor) else position
        return self._before(ids, ids.shape[1]).masked_fill(starts < back, self.filler)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (B, T) to vectors (B, T, C)."""
        return self.embedding(rows)

    def _before(self, ids: torch.Tensor, place: int | torch.Tensor) -> torch.Tensor:
        """The n - 1 of the ids (B, S) before a place, which may be one a row (B, 1)."""
        places = (place + torch.arange(1 - self.size, 0, device=ids.device)).expand(len(ids), -1)
        return ids.gather(1, places.clamp(min=0)).masked_fill(places < 0, self.filler)

    def _compact(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The ids (B, S) that a mask shows, moved together to the left, and where each id then stands (B, S); a hidden
        one, where the last before it does."""
        shown, nowhere = mask.bool(), ids.shape[1]
        rank = shown.cumsum(-1) - 1
        target = rank.masked_fill(~shown, nowhere)
        fused_linear = ids.new_full((len(ids), nowhere + 1), self.filler).scatter(1, target, ids)
        return fused_linear[:, :-1], rank.clamp(min=0)


def remember(cache: Cache, layer: int, input_ids: torch.Tensor) -> torch.Tensor:
    """Put tokens into a cache, and return all that it has (B, tokens, or more where it has room). They are one layer
    more, behind those of the blocks, so that they follow wherever it is cropped or its rows are reordered.

    Raises:
        ValueError: while a program is exported, which would lose the layer.
    """
    if cache.layer_class_to_replicate is None and len(cache.layers) == layer:
        if torch.compiler.is_exporting():
            raise ValueError("this model keeps tokens in its cache, which can't be exported: export it without a cache")
        longest = cache.layers[0].get_max_length()
        cache.layers.append(DynamicLayer() if longest < 0 else StaticLayer(longest))
    ids = input_ids.long()[:, None, :, None]
    return cache.update(ids, ids[..., :0], layer)[0][:, 0, :, 0]


def check_ngrams(input_ids: torch.Tensor | None, cache: Any, kwargs: Mapping[str, Any]) -> None:
    """Refuse what runs of tokens can't be read from.

    Raises:
        ValueError: there are no token ids, or they come piecewise from an engine whose cache keeps none.
    """
    if input_ids is None:
        raise ValueError("this model reads runs of tokens together, and needs input_ids to know them by")
    if is_paged(cache) or kwargs.get("attention_instances") is not None:  # the latter is vLLM's
        raise ValueError("this model reads runs of tokens together, which continuous batching keeps no trace of")


class TokenWeights(nn.Module):
    """How much tokens, and runs of them, tell about the labels: the spread of their log-probabilities over the
    labels, which naive Bayes would add up (Wang and Manning 2012, aclanthology.org/P12-2018). Set before training, and
    never trained; 1 until then."""

    tokens: torch.Tensor
    ngrams: torch.Tensor

    def __init__(self, config):
        super().__init__()
        self.pad_token_id, self.sizes = config.pad_token_id, config.ngram_sizes
        self.register_buffer("tokens", torch.empty(config.vocab_size))
        self.register_buffer("ngrams", torch.empty(len(self.sizes), config.ngram_buckets))
        self.reset()

    def reset(self) -> None:
        """What stands there until it is counted: 1, and 0 for padding."""
        tokens = torch.ones(len(self.tokens))
        if self.pad_token_id is not None:
            tokens[self.pad_token_id] = 0
        init.copy_(self.tokens, tokens)
        init.ones_(self.ngrams)

    def of_tokens(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Weights (B, T) of tokens; 0 where a token has stood in the text before."""
        return self.tokens[input_ids] * first_of_each(input_ids)

    def of_runs(self, number: int, rows: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """Weights (B, T) of the runs of the size of this number, by their rows; 0 where a run has stood in the text
        before, or any of its tokens has weight 0, as `<mask>` and padding have."""
        tells = told = self.tokens[input_ids] != 0
        for back in range(1, self.sizes[number]):
            told = told & nn.functional.pad(tells, (back, 0))[:, : tells.shape[1]]
        return self.ngrams[number][rows] * (told & first_of_each(rows.masked_fill(~told, -1)))


def first_of_each(rows: torch.Tensor) -> torch.Tensor:
    """Where each number, -1 or more, stands in its row (B, T) for the first time."""
    fused_linear, order = rows.sort(dim=-1, stable=True)
    new = fused_linear != nn.functional.pad(fused_linear, (1, 0), value=-2)[:, :-1]
    return torch.zeros_like(new).scatter(-1, order, new)
