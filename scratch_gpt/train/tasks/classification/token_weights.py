"""Naive Bayes weights of tokens and n-grams, counted before training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from ....data.batching.encoding import LabelledTokens
from ....models.modeling_scratch_encoder import ScratchEncoderModel
from ....models.ngram_embedding import NgramEmbedding

MIN_WEIGHT = 1e-6  # of a token that is equally frequent with every label, but may be informative in an n-gram


def count_token_weights(model: ScratchEncoderModel, texts: LabelledTokens, ignored_ids: list[int]) -> None:
    """Set the weights of tokens and n-grams. A weight is the largest difference between labels of the log frequency of
    the feature among those of the label's texts, counted once per text and with add-one smoothing (Wang and Manning
    2012, aclanthology.org/P12-2018, generalised from two labels). Only features of no text, and ignored tokens and
    n-grams with them, get the weight 0.

    Args:
        model: base model whose config has `token_weights`.
        texts: the training texts.
        ignored_ids: token ids that are uninformative, such as padding.
    """
    assert model.token_weights is not None
    found, labels = np.unique(texts.labels, return_inverse=True)  # a label without texts would affect every weight
    config = model.config
    tokens = np.zeros((len(found), config.vocab_size), dtype=np.float32)
    ngrams = np.zeros((len(config.ngram_sizes), len(found), config.ngram_buckets), dtype=np.float32)
    for number, label in enumerate(labels):
        ids = np.asarray(texts.tokens[number]).astype(np.int64)
        tokens[label, np.unique(ids)] += 1
        is_counted = ~np.isin(ids, ignored_ids)
        for counts, embed_ngrams in zip(ngrams, model.embed_ngrams, strict=True):
            assert isinstance(embed_ngrams, NgramEmbedding)
            size = embed_ngrams.size
            if len(ids) >= size:
                is_valid = sliding_window_view(is_counted, size).all(-1)
                rows = embed_ngrams.bucket_ids(model.replace_boundaries(torch.from_numpy(ids)[None]))[
                    0, size - 1 :
                ].numpy()
                counts[label, np.unique(rows[is_valid])] += 1
    tokens[:, ignored_ids] = 0
    model.token_weights.tokens.copy_(torch.from_numpy(_log_frequency_range(tokens)))
    for weights, counts in zip(model.token_weights.ngrams, ngrams, strict=True):
        weights.copy_(torch.from_numpy(_log_frequency_range(counts)))


def _log_frequency_range(counts: np.ndarray) -> np.ndarray:
    """Counts (K, features) to weights (features,)."""
    frequencies = (counts + 1) / (counts + 1).sum(-1, keepdims=True)
    return np.maximum(np.ptp(np.log(frequencies), axis=0), MIN_WEIGHT) * (counts.sum(0) > 0)
