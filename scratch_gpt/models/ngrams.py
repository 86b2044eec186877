"""What a text says if its words are thrown into a bag: tokens and pairs of neighbours, each with a vector and a weight.

Attention has to find out by itself which words matter, and which words belong together. On a few thousand texts that
is more than it can learn; here, pairs are features from the start, and how much each feature tells about the labels is
counted before training begins.

Dimension letters: B batch, T tokens, C hidden size, V vocabulary.
"""

import torch
from torch import nn
from transformers import initialization as init

MULTIPLIER = 1_000_003  # a prime: neighbours in the vocabulary are spread over the table


class BigramEmbedding(nn.Module):
    """A vector for each pair of neighbouring tokens. Pairs have no list: each is hashed to one of a fixed number of
    rows, which pairs may have to share (Joulin et al. 2016, arXiv:1607.01759)."""

    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.bigram_buckets, config.hidden_size)
        self.pad_token_id = config.pad_token_id or 0

    def rows_of(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The row of each token (B, T) with the one before it, which for the first one is padding."""
        input_ids = input_ids.long()  # 32 bits are too few for the product
        before = nn.functional.pad(input_ids[:, :-1], (1, 0), value=self.pad_token_id)
        return (before * MULTIPLIER + input_ids) % self.embedding.num_embeddings

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """What `rows_of` gives (B, T) to vectors (B, T, C)."""
        return self.embedding(rows)


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
