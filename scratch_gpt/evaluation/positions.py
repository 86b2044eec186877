"""Generation within a model's position limit: number of new tokens, padding and error handling."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from ..errors import ScratchError
from ..models.configuration_scratch_bigram import ScratchBigramConfig
from ..tokenization.special_tokens import end_token_id

# Types of models whose learned positions are counted from the padding id plus 1, as RoBERTa's: 514 are for 512 tokens.
OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
DEFAULT_NEW_TOKENS = 20  # of `generate`, without a setting in the call or the generation config


def position_limit(config: Any) -> int | None:
    """Number of tokens that a model has positions for; None if it has no limit, such as a bigram table."""
    if config.model_type == ScratchBigramConfig.model_type:
        return None
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in OFFSET_POSITIONS:
        positions -= (config.pad_token_id or 0) + 1
    return positions if positions is None or positions > 0 else None


def default_new_tokens(model: Any, prompt_length: int) -> int:
    """Maximum number of new tokens for a prompt of `prompt_length` tokens, by the model's generation config."""
    settings = model.generation_config
    if settings.max_new_tokens is not None:
        return int(settings.max_new_tokens)
    if settings.max_length is not None:
        return max(0, int(settings.max_length) - prompt_length)
    return DEFAULT_NEW_TOKENS


def new_tokens_within(model: Any, prompt_length: int, requested: int | None = None) -> int:
    """Return the number of new tokens with which prompt and completion stay within the model's positions.

    Args:
        model: a model that generates.
        prompt_length: length of the prompt in tokens.
        requested: maximum number of new tokens. Default: that of the generation config.

    Returns:
        The number of new tokens; 0 if the prompt fills the positions.
    """
    requested = default_new_tokens(model, prompt_length) if requested is None else requested
    limit = position_limit(model.config)
    return requested if limit is None else max(0, min(requested, limit - prompt_length))


def pad_rows(
    rows: list[list[int]], tokenizer: PreTrainedTokenizerFast, side: Literal["left", "right"], device: torch.device
) -> dict[str, torch.Tensor]:
    """Pad token ids of different lengths into a batch.

    Args:
        rows: token ids of each row.
        tokenizer: its padding token, or else its end-of-text token, fills the rows.
        side: the side to pad.
        device: device of the tensors.

    Returns:
        `input_ids` and `attention_mask`, each (B, T).
    """
    pad: Any = end_token_id(tokenizer) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = pad_sequence([torch.tensor(row) for row in rows], True, pad, side)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], True, 0, side)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def generate(model: Any, **options: Any) -> torch.Tensor:
    """Call `model.generate` with `options` in addition to the settings of the model's `generation_config.json`.

    Raises:
        ScratchError: generation fails with these settings or weights.
    """
    try:
        return model.generate(**options)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ScratchError(
            f"the model generates no text, see its generation_config.json and weights: {reason}"
        ) from error
