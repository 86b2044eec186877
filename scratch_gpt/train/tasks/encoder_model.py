"""Configs of new encoders, for classification and masked language modelling."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ...errors import ScratchError
from ...evaluation.positions import position_limit
from ...models.configuration_scratch_encoder import PRESETS, ScratchEncoderConfig
from ...models.configuration_scratch_gpt import ScratchGPTConfig
from .common import dropout_fields, note
from .context import length_limit
from .encoder_arguments import EncoderModelArguments
from .presets import block_fields

NEW_CONTEXT_LENGTH = 128  # positions of a new encoder


def new_context_length(args: EncoderModelArguments) -> int:
    """The context length of a new model: that of the arguments, or the default."""
    return NEW_CONTEXT_LENGTH if args.context_length is None else args.context_length


def max_length(args: EncoderModelArguments, model: Any, most: int) -> int:
    """Maximum length of a text in tokens: that of the arguments, or `most`, within the model's positions."""
    return length_limit(position_limit(model.config), most if args.context_length is None else args.context_length)


def note_fewer_positions(args: EncoderModelArguments, model: Any) -> None:
    """Print that `--context_length` has no effect beyond the model's positions, if it is more."""
    limit = position_limit(model.config)
    if args.context_length is not None and limit is not None and args.context_length > limit:
        note(f"context_length is {args.context_length:,}, and the model has {limit:,} positions: those are used")


def build_config(args: EncoderModelArguments, vocab_size: int, ids: dict[str, int | None], **more: Any) -> Any:
    """Build the config of a new encoder or, if the preset is one of a GPT, of a new GPT.

    Args:
        args: model arguments: preset and sizes.
        vocab_size: vocabulary size of the tokenizer.
        ids: ids of the special tokens, by config field.
        more: further fields of the config.

    Raises:
        ScratchError: an unknown preset, or invalid settings.
    """
    encoder, layers = args.preset in PRESETS, args.num_hidden_layers
    if layers is None:
        layers = PRESETS.get(args.preset, {}).get("num_hidden_layers", 2)
    chosen: dict[str, Any] = {"intermediate_size": args.intermediate_size, **dropout_fields(args)}
    if encoder:
        chosen |= {n: getattr(args, n, None) for n in ("classifier_dropout", "classifier_pooling", "ngram_sizes")}
    try:
        if hasattr(args, "num_experts"):
            block = block_fields(args, ScratchGPTConfig.presets.get(args.preset, {}))
            if block and not layers:
                raise ValueError(f"{', '.join(block)} given for {args.preset!r}, which has no layers")
            chosen |= block
        if not encoder and getattr(args, "ngram_sizes", None):
            raise ValueError(f"ngram_sizes are given for {args.preset!r}: they belong to preset 'fasttext'")
        if not encoder and args.preset not in ScratchGPTConfig.presets:
            known = ", ".join([*PRESETS, *ScratchGPTConfig.presets])
            raise ValueError(f"unknown preset {args.preset!r}: choose one of {known}")
        return (ScratchEncoderConfig if encoder else ScratchGPTConfig).from_preset(
            args.preset,
            vocab_size=vocab_size,
            max_position_embeddings=new_context_length(args),
            hidden_size=args.hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=args.num_attention_heads,
            **ids,
            **{name: value for name, value in chosen.items() if value is not None},
            **more,
        )
    except (ValueError, StrictDataclassError) as error:
        raise ScratchError(str(error).split("ValueError: ")[-1]) from error
