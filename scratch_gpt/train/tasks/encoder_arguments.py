"""Arguments of the model that masked language modelling and classification share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...models.preset_descriptions import ENCODERS
from ..arguments.training import argument
from .presets import preset_help
from .text_arguments import DROPOUT, HEADS, HIDDEN_SIZE, INIT_FROM, INTERMEDIATE, TRUST

WITH_LAYERS = {name: description for name, description in ENCODERS.items() if name != "fasttext"}


@dataclass
class EncoderModelArguments:
    """Architecture of a new encoder, or the checkpoint to start from."""

    _argument_group_name: ClassVar[str] = "model"

    preset: str = argument(
        "modern", preset_help("Architecture of an encoder; patterns of layers are repeated:", WITH_LAYERS)
    )
    init_from: str | None = argument(None, INIT_FROM, private=True, with_init_from=True)
    trust_remote_code: bool = argument(False, TRUST, resumable=True, with_init_from=True)
    context_length: int | None = argument(
        None,
        "Maximum length of a text in tokens, special tokens included. Default: 128 for a new model, else the positions "
        "of the --init_from model, at most 2048 for classification and 512 for masked language modelling.",
        at_least=1,
        with_init_from=True,
    )
    hidden_size: int = argument(128, HIDDEN_SIZE)
    num_hidden_layers: int | None = argument(None, "Number of transformer blocks. Default: 2, or none for 'fasttext'.")
    num_attention_heads: int = argument(4, HEADS)
    intermediate_size: int | None = argument(None, INTERMEDIATE)
    dropout: float | None = argument(None, DROPOUT.format("preset"), at_least=0, at_most=1, with_init_from=True)
