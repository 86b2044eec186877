"""Native twins of our encoder-decoder with the presets "bart", "mbart" and "pegasus"."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from .seq2seq import BartStyleTwin, SinesFirstTwin
from .twin import Weights

UNUSED_POSITIONS = 2  # rows before the first position in the position embeddings of BART


class LearnedPositionsTwin(BartStyleTwin):
    """Base class of BART and mBART, whose position embeddings begin with two rows that are not used."""

    names = {**BartStyleTwin.names, "embedding_norm": "layernorm_embedding"}

    def weights_from_native(self, weights: Weights, config: Any) -> Weights:
        """Convert a state dict of transformers to ours, without the unused position embeddings."""
        ours = super().weights_from_native(weights, config)
        return {n: w[UNUSED_POSITIONS:] if "embed_positions" in n else w for n, w in ours.items()}

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with unused position embeddings of zero."""
        native = super().weights_to_native(weights, config)
        unused = (0, 0, UNUSED_POSITIONS, 0)
        return {n: F.pad(w, unused) if "embed_positions" in n else w for n, w in native.items()}


class BartTwin(LearnedPositionsTwin):
    """BART (arXiv:1910.13461): the Transformer of 2017 with learned positions, a norm of the embeddings and GELU."""

    preset = "bart"
    config_class, model_class = BartConfig, BartForConditionalGeneration


class MBartTwin(LearnedPositionsTwin):
    """mBART: BART with norms before each branch and after the last block. The token of the target language, which its
    translations begin with, is in its generation config (`forced_bos_token_id`)."""

    preset = "mbart"
    config_class, model_class = MBartConfig, MBartForConditionalGeneration
    names = {**LearnedPositionsTwin.names, "norm": "layer_norm"}


class PegasusTwin(SinesFirstTwin):
    """Pegasus, which stores its sinusoidal positions."""

    preset = "pegasus"
    config_class, model_class = PegasusConfig, PegasusForConditionalGeneration
    names = {**SinesFirstTwin.names, "norm": "layer_norm"}

    def weights_to_native(self, weights: Weights, config: Any) -> Weights:
        """Convert our state dict to that of transformers, with its sinusoidal positions."""
        native = super().weights_to_native(weights, config)
        for side in ("encoder", "decoder"):
            if (like := native.get(f"model.{side}.embed_tokens.weight")) is not None:
                positions = sinusoids(config.max_position_embeddings, config.hidden_size)
                native[f"model.{side}.embed_positions.weight"] = positions.to(like)
        return native


def sinusoids(num_positions: int, size: int) -> torch.Tensor:
    """Sinusoidal positions (positions, C) in float64, all sines before all cosines (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.5)."""
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * frequencies  # (positions, C/2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


TWINS = (BartTwin(), MBartTwin(), PegasusTwin())
