"""Prompts within a model's positions: how many tokens may follow them, and how they become a batch."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from ..errors import ScratchError
from ..models.configuration_scratch_bigram import ScratchBigramConfig

DEFAULT_NEW_TOKENS = 20  # of `generate`, where neither the call nor the generation config says more


def position_limit(config: Any) -> int | None:
    """The number of positions of a model; None where it has no limit, as a bigram table has none."""
    if config.model_type == ScratchBigramConfig.model_type:
        return None
    return getattr(config, "max_position_embeddings", None)


def default_new_tokens(model: Any, prompt_length: int) -> int:
    """How many tokens `generate` would add to a prompt of `prompt_length` tokens by the model's generation config."""
    settings = model.generation_config
    if settings.max_new_tokens is not None:
        return int(settings.max_new_tokens)
    if settings.max_length is not None:
        return max(0, int(settings.max_length) - prompt_length)
    return DEFAULT_NEW_TOKENS


def new_tokens_within(model: Any, prompt_length: int, wanted: int | None = None) -> int:
    """How many tokens may follow a prompt so that prompt and completion stay within the model's positions.

    Args:
        model: a model that generates.
        prompt_length: in tokens.
        wanted: the most that are asked for. Default: as many as the generation config says.

    Returns:
        That number; 0 where the prompt leaves no room.
    """
    wanted = default_new_tokens(model, prompt_length) if wanted is None else wanted
    limit = position_limit(model.config)
    return wanted if limit is None else max(0, min(wanted, limit - prompt_length))


def pad_rows(
    rows: list[list[int]], tokenizer: PreTrainedTokenizerFast, side: Literal["left", "right"], device: torch.device
) -> dict[str, torch.Tensor]:
    """Token ids of several lengths as `input_ids` and `attention_mask`, each (B, T), padded on one side."""
    pad: Any = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = pad_sequence([torch.tensor(row) for row in rows], True, pad, side)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], True, 0, side)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def generate(model: Any, **options: Any) -> torch.Tensor:
    """`model.generate`, with the settings that the model's `generation_config.json` has beside `options`.

    Raises:
        ScratchError: no text can be generated with these settings, or with these weights.
    """
    try:
        return model.generate(**options)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ScratchError(
            f"the model generates no text, see its generation_config.json and weights: {reason}"
        ) from error
