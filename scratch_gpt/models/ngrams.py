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

MULTIPLIER = 1_000_003  # a prime: neighbours in the vocabulary are spread over the table


class NgramEmbedding(nn.Module):
    """A vector for each run of n tokens. Runs have no list: each is hashed to one of a fixed number of rows, which runs
    may have to share (Joulin et al. 2016, arXiv:1607.01759)."""

    def __init__(self, size: int, buckets: int, config):
        super().__init__()
        self.size, self.pad_token_id = size, config.pad_token_id or 0
        self.embedding = nn.Embedding(buckets, config.hidden_size)

    def rows_of(
        self, input_ids: torch.Tensor, previous: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The row of each token (B, T) with the n - 1 before it.

        Args:
            previous: the tokens before the first one (B, any number).
            position_ids: of each token in its document (B or 1, T). What stands before a document, or before
                `previous`, counts as padding.
        """
        input_ids, length = input_ids.long(), input_ids.shape[1]  # 32 bits are too few for the product
        if previous is not None:
            input_ids = torch.cat((previous[:, max(0, previous.shape[1] - self.size + 1) :], input_ids), dim=1)
        ids = nn.functional.pad(input_ids, (length + self.size - 1 - input_ids.shape[1], 0), value=self.pad_token_id)
        rows = torch.zeros_like(ids[:, :length])
        for back in reversed(range(self.size)):
            token = ids[:, self.size - 1 - back :][:, :length]
            if position_ids is not None and back:
                token = token.masked_fill(position_ids < back, self.pad_token_id)
            rows = (rows * MULTIPLIER + token) % self.embedding.num_embeddings
        return rows

    def remember(self, input_ids: torch.Tensor, cache: Cache | None, layer: int) -> torch.Tensor | None:
        """The n - 1 tokens before these (B, n - 1). A cache keeps all tokens as one layer more, behind those of the
        blocks, so that they follow wherever it is cropped or its rows are reordered."""
        if cache is None:
            return None
        if cache.layer_class_to_replicate is None and len(cache.layers) == layer:
            longest = cache.layers[0].get_max_length()
            cache.layers.append(DynamicLayer() if longest < 0 else StaticLayer(longest))
        seen = cache.get_seq_length(layer)
        places = seen + torch.arange(1 - self.size, 0, device=input_ids.device)
        keys = input_ids.long()[:, None, :, None]
        keys, _ = cache.update(keys, keys[..., :0], layer)  # (B, 1, tokens, 1)
        return keys[:, 0, :, 0].index_select(1, places.clamp(min=0)).masked_fill(places < 0, self.pad_token_id)

    def last_of(self, input_ids: torch.Tensor, position: int | torch.Tensor) -> torch.Tensor:
        """The n - 1 tokens (B, n - 1) that stand before the token to come, whose position is one number, or one a row;
        padding where its document does not go back so far."""
        back = torch.arange(self.size - 1, 0, -1, device=input_ids.device)
        last = nn.functional.pad(input_ids, (self.size - 1, 0), value=self.pad_token_id)[:, 1 - self.size :]
        starts = position[:, None] if isinstance(position, torch.Tensor) else position
        return last.masked_fill(starts < back, self.pad_token_id)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """What `rows_of` gives (B, T) to vectors (B, T, C)."""
        return self.embedding(rows)


def check_ngrams(input_ids: torch.Tensor | None, kwargs: Mapping[str, Any]) -> None:
    """Refuse what runs of tokens can't be read from.

    Raises:
        ValueError: there are no token ids, or they come piecewise with a paged cache, which keeps none.
    """
    if input_ids is None:
        raise ValueError("this model reads runs of tokens together, and needs input_ids to know them by")
    if kwargs.get("cache") is not None:
        raise ValueError("this model reads runs of tokens together, which continuous batching keeps no trace of")


class TokenWeights(nn.Module):
    """How much tokens, and pairs of them, tell about the labels: the spread of their log-probabilities over the
    labels, which naive Bayes would add up (Wang and Manning 2012, aclanthology.org/P12-2018). Set before training, and
    never trained; 1 until then."""

    tokens: torch.Tensor
    bigrams: torch.Tensor

    def __init__(self, config):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.register_buffer("tokens", torch.empty(config.vocab_size))
        self.register_buffer("bigrams", torch.empty(config.bigram_buckets))
        self.reset()

    def reset(self) -> None:
        """What stands there until it is counted: 1, and 0 for padding."""
        tokens = torch.ones(len(self.tokens))
        if self.pad_token_id is not None:
            tokens[self.pad_token_id] = 0
        init.copy_(self.tokens, tokens)
        init.ones_(self.bigrams)

    def of_pairs(self, rows: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """Weights (B, T) of pairs, by their rows; 0 where either token has weight 0, as `<mask>` and padding have."""
        told = self.tokens[input_ids] != 0
        return self.bigrams[rows] * (told & nn.functional.pad(told[:, :-1], (1, 0)))
