"""Configs and new models of language modelling."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from ....data.batching.token_shards import Shard
from ....errors import ScratchError
from ....models.configuration_scratch_bigram import ScratchBigramConfig
from ....models.configuration_scratch_gpt import ScratchGPTConfig
from ....models.modeling_scratch_bigram import ScratchBigramForCausalLM
from ....models.modeling_scratch_gpt import ScratchGPTForCausalLM
from ..common import dropout_fields
from .arguments import ModelArguments


def build_config(args: ModelArguments, vocab_size: int, context_length: int, ids: dict[str, int | None]) -> Any:
    """Build the config of a new model.

    Args:
        args: model arguments: preset and sizes.
        vocab_size: vocabulary size of the tokenizer.
        context_length: maximum length of a sequence in tokens.
        ids: ids of the special tokens, by config field.

    Raises:
        ScratchError: an unknown preset, or invalid settings.
    """
    shared: dict[str, Any] = {"vocab_size": vocab_size, "max_position_embeddings": context_length, **ids}
    try:
        if args.preset == "bigram":
            return ScratchBigramConfig(**shared)
        chosen = {
            **{name: getattr(args, name) for name in ("num_key_value_heads", "intermediate_size")},
            **dropout_fields(args),
            "tie_word_embeddings": args.tie_word_embeddings,
        }
        return ScratchGPTConfig.from_preset(
            args.preset,
            **shared,
            hidden_size=args.hidden_size,
            num_hidden_layers=args.num_hidden_layers,
            num_attention_heads=args.num_attention_heads,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    except (ValueError, StrictDataclassError) as error:
        reason = str(error).split("ValueError: ")[-1]
        raise ScratchError(reason.replace("choose one of gpt2", "choose one of bigram, gpt2")) from error


def build_model(config: Any) -> PreTrainedModel:
    """Build a new model in float32."""
    return (ScratchBigramForCausalLM if config.model_type == "scratch_bigram" else ScratchGPTForCausalLM)(config)


def check_context(config: Any, shards: dict[str, Shard], context_length: int) -> None:
    """Check the context length against the model's positions and the length of the text.

    Raises:
        ScratchError: it is too long for one of them, or less than 1.
    """
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and context_length > most:
        raise ScratchError(f"context_length is {context_length}, the model takes at most {most} tokens")
    if context_length < 1:
        raise ScratchError(f"context_length is {context_length}, want at least 1")
    tokens = len(shards["train"].tokens)
    if tokens < context_length:
        raise ScratchError(
            f"the train text has {tokens} tokens, shorter than context_length {context_length}: give more text or a "
            "smaller context_length"
        )
