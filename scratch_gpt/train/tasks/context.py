"""Default length of the rows when a model is tuned: as long as the data needs, within the model's positions."""

from __future__ import annotations

from typing import Any

from .common import DEFAULT_CONTEXT_LENGTH, note

MAX_TUNING_LENGTH = 2048  # tokens, by default: a model may have positions for rows that no accelerator can train on
MAX_TUNING_ROW = 1024  # of text that is packed into rows, and not read as whole examples
# Bytes that a block stores per token and feature for the backward pass in float32, without attention weights. With
# fused kernels it would be 68 (Korthikanti et al. 2022, arXiv:2205.05198, section 4.1, in 16 bits); measured were 80 to
# 100 in blocks of width 128, which a test repeats.
STORED_BYTES = 100


def length_limit(positions: int | None, most: int = MAX_TUNING_LENGTH) -> int:
    """The longest row by default: all of a model's positions (None: no limit), but at most `most` tokens."""
    return most if positions is None else min(positions, most)


def row_length(longest: int, positions: int | None, most: int = MAX_TUNING_LENGTH) -> int:
    """The default length of packed rows: that of the longest text, a multiple of 8, at least 256 and at most
    `length_limit`.

    Args:
        longest: tokens of the longest text.
        positions: positions of the model; None if it has no limit.
        most: maximum length in tokens.
    """
    return min(max(DEFAULT_CONTEXT_LENGTH, -(-longest // 8) * 8), length_limit(positions, most))


def activation_memory(config: Any, tokens: int) -> int | None:
    """Estimate the bytes of the activations of a training step in float32, without attention weights and logits.

    Args:
        config: config of a model with `num_hidden_layers` and `hidden_size`; None is returned for others.
        tokens: tokens of a batch of one process, padding included.
    """
    layers, width = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    return None if layers is None or width is None else STORED_BYTES * layers * width * tokens


def note_length(chosen: str, config: Any, tokens: int) -> None:
    """Print the default length that was chosen, and the memory that a batch takes, on the main process.

    Args:
        chosen: the length and its reason, in words.
        config: config of the model.
        tokens: tokens of a batch of one process.
    """
    memory = activation_memory(config, tokens)
    takes = "" if memory is None else f"; a batch of {tokens:,} tokens stores about {_size(memory)} of activations"
    note(f"{chosen}{takes} (--context_length sets another length)")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(1, round(count / 1e6))} MB"
