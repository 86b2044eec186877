"""Models and facts of language modelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....data.batching.token_shards import Shard, shard_sizes
from ....data.corpora import stories
from ....data.readers.summary import DataSummary
from ....errors import ScratchError
from ....hub import loading
from ....hub.model_directory import limit_new_tokens, set_generation_defaults
from ....hub.native.importing import is_native_config, plan_import
from ....models.configuration_scratch_bigram import ScratchBigramConfig
from ....models.configuration_scratch_gpt import ScratchGPTConfig
from ....models.modeling_scratch_bigram import ScratchBigramForCausalLM
from ....models.modeling_scratch_gpt import ScratchGPTForCausalLM
from ....tokenization.special_tokens import special_id_fields
from ..common import DEFAULT_CONTEXT_LENGTH, dropout_fields, first_words, run_facts
from ..context import MAX_TUNING_ROW, row_length
from ..initial_model import load_initial_model
from ..presets import block_fields
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
            if given := block_fields(args, {}):
                raise ValueError(f"{', '.join(given)} given for 'bigram', which has no layers")
            return ScratchBigramConfig(**shared)
        chosen = {
            **{name: getattr(args, name) for name in ("num_key_value_heads", "intermediate_size")},
            **dropout_fields(args),
            **block_fields(args, ScratchGPTConfig.presets.get(args.preset, {})),
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


def default_context_length(model_args: ModelArguments) -> int:
    """The context length that the arguments give, or the default."""
    return DEFAULT_CONTEXT_LENGTH if model_args.context_length is None else model_args.context_length


def initial_config(model_args: ModelArguments) -> tuple[Any, int]:
    """The config that the model of `--init_from` is trained with, and the context length of training.

    Args:
        model_args: model arguments.

    Raises:
        ScratchError: the config can't be opened, or is not of a language model that this package has or imports.
    """
    name, trust_remote_code = str(model_args.init_from), model_args.trust_remote_code
    config = loading.open_config(name, trust_remote_code)
    if is_native_config(config):
        config = plan_import(name, "causal").config
    if not isinstance(config, (ScratchGPTConfig, ScratchBigramConfig)):
        raise ScratchError(f"{name} is a {config.model_type} model, want a language model such as a GPT")
    length = default_context_length(model_args)
    positions = getattr(config, "max_position_embeddings", length)
    if model_args.context_length is None:
        length = min(length, positions)
    if length > positions:
        raise ScratchError(f"context_length is {length}, the model takes at most {positions} tokens")
    return config, length


def load_or_build_model(
    model_args: ModelArguments,
    tokenizer: PreTrainedTokenizerFast,
    origin: str | Path | None,
    vocab_size: int | None = None,
) -> tuple[Any, int]:
    """Return the model of the checkpoint, or a new one, and the context length of training.

    Args:
        model_args: model arguments.
        tokenizer: of the model.
        origin: checkpoint, or None for a new model.
        vocab_size: of a new model. Default: that of the tokenizer.
    """
    context_length = default_context_length(model_args)
    if origin is not None:
        dropouts = dropout_fields(model_args)
        resumed = origin != model_args.init_from
        model: Any = load_initial_model(origin, model_args.trust_remote_code, "causal", resumed, **dropouts)
        limit_new_tokens(model)
        if model_args.context_length is None:
            context_length = min(context_length, getattr(model.config, "max_position_embeddings", context_length))
    else:
        ids = special_id_fields(tokenizer)
        model = build_model(build_config(model_args, vocab_size or len(tokenizer), context_length, ids))
        set_generation_defaults(model, tokenizer)
    loading.check_vocabulary(tokenizer, model.config.vocab_size)
    loading.match_padding(model, tokenizer)
    return model, context_length


def tuning_length(model: Any, shards: dict[str, Shard]) -> int:
    """The default length of rows when a model is tuned: that of the longest document, from 256 to 1,024 tokens, within
    the model's positions and the length of the text."""
    ends = shards["train"].ends
    longest = int(np.diff(ends, prepend=0).max(initial=0))
    positions = getattr(model.config, "max_position_embeddings", None)
    return min(row_length(longest, positions, MAX_TUNING_ROW), len(shards["train"].tokens))


def entropy_floor(shards: dict[str, Shard], summary: DataSummary) -> float | None:
    """Entropy of the held-out text in nats per token, which is known of the built-in stories only."""
    held_out = shards["validation"]
    return stories.entropy_per_story() * len(held_out.ends) / len(held_out.tokens) if summary.built_in else None


def text_facts(
    style: str,
    shards: dict[str, Shard],
    summary: DataSummary,
    license: str | None,
    context_length: int,
    **more: Any,
) -> dict[str, Any]:
    """Facts of a run on plain text.

    Args:
        style: preset of a new model, or class of one from a checkpoint.
        shards: tokens of each split.
        summary: summary of the data.
        license: license of the data.
        context_length: in tokens.
        more: further facts.
    """
    prompt = first_words(summary.samples[0], 30)
    sizes = {split: shard_sizes(shard) for split, shard in shards.items()}
    return run_facts(style, summary, license, prompt, context_length, **sizes, **more)
