"""Weights of tokens and n-grams for text classification, computed from the labels before training.

Dimension letters: B batch, T tokens, V vocabulary.
"""

import torch
from torch import nn
from transformers import initialization as init


class TokenWeights(nn.Module):
    """Weights of tokens and n-grams: how informative they are about the labels, as the range over the labels of their
    log-probabilities in a naive Bayes model (Wang and Manning 2012, aclanthology.org/P12-2018). Computed before
    training and not trained; 1 until then.

    Buffers: `tokens` (V,) and `ngrams` (number of n-gram sizes, buckets).
    """

    tokens: torch.Tensor
    ngrams: torch.Tensor

    def __init__(self, config):
        super().__init__()
        self.pad_token_id, self.sizes = config.pad_token_id, config.ngram_sizes
        self.register_buffer("tokens", torch.empty(config.vocab_size))
        self.register_buffer("ngrams", torch.empty(len(self.sizes), config.ngram_buckets))
        self.reset()

    def reset(self) -> None:
        """Set all weights to 1, and that of padding to 0."""
        tokens = torch.ones(len(self.tokens))
        if self.pad_token_id is not None:
            tokens[self.pad_token_id] = 0
        init.copy_(self.tokens, tokens)
        init.ones_(self.ngrams)

    def for_tokens(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Weights of tokens (B, T); 0 for all but the first occurrence of a token in a text."""
        return self.tokens[input_ids] * first_occurrences(input_ids)

    def for_ngrams(self, size_idx: int, bucket_ids: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """Weights of n-grams (B, T); 0 for all but the first occurrence of an n-gram in a text, and for n-grams with a
        token of weight 0, such as `<mask>` or padding.

        Args:
            size_idx: index of n in `config.ngram_sizes`.
            bucket_ids: bucket of the n-gram that ends at each token (B, T).
            input_ids: token ids (B, T).
        """
        informative = valid = self.tokens[input_ids] != 0
        for back in range(1, self.sizes[size_idx]):
            valid = valid & nn.functional.pad(informative, (back, 0))[:, : informative.shape[1]]
        return self.ngrams[size_idx][bucket_ids] * (valid & first_occurrences(bucket_ids.masked_fill(~valid, -1)))


def first_occurrences(ids: torch.Tensor) -> torch.Tensor:
    """Whether each id (B, T), -1 or more, is the first occurrence of its value in its row: a boolean tensor (B, T)."""
    ordered, order = ids.sort(dim=-1, stable=True)
    first = ordered != nn.functional.pad(ordered, (1, 0), value=-2)[:, :-1]
    return torch.zeros_like(first).scatter(-1, order, first)
