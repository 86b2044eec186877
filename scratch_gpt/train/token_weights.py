"""How much tokens tell about labels, counted before training."""

from __future__ import annotations

import numpy as np
import torch

from ..data.labelled import LabelledTokens
from ..models.modeling_scratch_encoder import ScratchEncoderModel

LEAST = 1e-6  # of what is as frequent with every label, and may tell something in a pair


def count_token_weights(model: ScratchEncoderModel, texts: LabelledTokens, special_ids: list[int]) -> None:
    """Set the weights of tokens and pairs: the greatest difference between labels of the logarithm of their share
    among the features of a label's texts, each counted once a text, and one more for each (Wang and Manning 2012,
    aclanthology.org/P12-2018, where there are two labels). What no text has, and special tokens, get 0, and nothing
    else does.

    Args:
        model: a trunk whose config says `token_weights`.
        texts: the training texts.
        special_ids: tokens that say nothing.
    """
    assert model.token_weights is not None
    found, labels = np.unique(texts.labels, return_inverse=True)  # a label without texts would have a say in all
    sizes = model.config.vocab_size, model.config.bigram_buckets
    tokens, pairs = (np.zeros((len(found), size), dtype=np.float32) for size in sizes)
    for number, label in enumerate(labels):
        ids = np.asarray(texts.tokens[number])
        tokens[label, np.unique(ids)] += 1
        if model.embed_bigrams is not None:
            rows = model.embed_bigrams.rows_of(torch.from_numpy(ids.astype(np.int64))[None])[0].numpy()
            plain = ~np.isin(ids, special_ids)
            pairs[label, np.unique(rows[1:][plain[1:] & plain[:-1]])] += 1
    tokens[:, special_ids] = 0
    model.token_weights.tokens.copy_(torch.from_numpy(_spread(tokens)))
    model.token_weights.bigrams.copy_(torch.from_numpy(_spread(pairs)))


def _spread(counts: np.ndarray) -> np.ndarray:
    """Counts (K, features) to weights (features,)."""
    shares = (counts + 1) / (counts + 1).sum(-1, keepdims=True)
    return np.maximum(np.ptp(np.log(shares), axis=0), LEAST) * (counts.sum(0) > 0)
