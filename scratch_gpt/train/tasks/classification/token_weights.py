"""How much tokens tell about labels, counted before training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from ....data.batching.encoding import LabelledTokens
from ....models.modeling_scratch_encoder import ScratchEncoderModel
from ....models.ngram_embedding import NgramEmbedding

LEAST = 1e-6  # of what is as frequent with every label, and may tell something in a run


def count_token_weights(model: ScratchEncoderModel, texts: LabelledTokens, mute_ids: list[int]) -> None:
    """Set the weights of tokens and of each size of runs: the greatest difference between labels of the logarithm of
    their share among the features of a label's texts, each counted once a text, and one more for each (Wang and Manning
    2012, aclanthology.org/P12-2018, where there are two labels). What no text has, and mute tokens, get 0, and nothing
    else does.

    Args:
        model: a trunk whose config says `token_weights`.
        texts: the training texts.
        mute_ids: tokens that say nothing, nor runs with them.
    """
    assert model.token_weights is not None
    found, labels = np.unique(texts.labels, return_inverse=True)  # a label without texts would have a say in all
    config = model.config
    tokens = np.zeros((len(found), config.vocab_size), dtype=np.float32)
    runs = np.zeros((len(config.ngram_sizes), len(found), config.ngram_buckets), dtype=np.float32)
    for number, label in enumerate(labels):
        ids = np.asarray(texts.tokens[number]).astype(np.int64)
        tokens[label, np.unique(ids)] += 1
        plain = ~np.isin(ids, mute_ids)
        for counts, embed_ngrams in zip(runs, model.embed_ngrams, strict=True):
            assert isinstance(embed_ngrams, NgramEmbedding)
            size = embed_ngrams.size
            if len(ids) >= size:
                whole = sliding_window_view(plain, size).all(-1)
                rows = embed_ngrams.bucket_ids(model.replace_boundaries(torch.from_numpy(ids)[None]))[
                    0, size - 1 :
                ].numpy()
                counts[label, np.unique(rows[whole])] += 1
    tokens[:, mute_ids] = 0
    model.token_weights.tokens.copy_(torch.from_numpy(_spread(tokens)))
    for weights, counts in zip(model.token_weights.ngrams, runs, strict=True):
        weights.copy_(torch.from_numpy(_spread(counts)))


def _spread(counts: np.ndarray) -> np.ndarray:
    """Counts (K, features) to weights (features,)."""
    fractions = (counts + 1) / (counts + 1).sum(-1, keepdims=True)
    return np.maximum(np.ptp(np.log(fractions), axis=0), LEAST) * (counts.sum(0) > 0)
