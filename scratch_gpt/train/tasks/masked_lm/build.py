"""Data and model of masked language modelling."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from ....data.batching.token_lists import Tokens
from ....data.batching.token_shards import Shard
from ....errors import ScratchError
from ....models.configuration_scratch_encoder import PRESETS
from ....models.modeling_scratch_encoder import ScratchEncoderForMaskedLM
from ..encoder_arguments import EncoderModelArguments
from ..encoder_model import build_config, ids_of


def build_masked_model(args: EncoderModelArguments, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Build a new encoder with a masked-LM head, in float32."""
    return ScratchEncoderForMaskedLM(build_config(args, len(tokenizer), ids_of(tokenizer)))


def rows_of_documents(shard: Shard, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Tokens:
    """Split documents into rows of at most `max_length` tokens, `<bos>` and `<eos>` included; a longer document
    continues in the next row.

    Raises:
        ScratchError: all documents are empty.
    """
    bos, eos = np.uint32(tokenizer.bos_token_id), np.uint32(tokenizer.eos_token_id)
    room, rows, begin = max_length - 2, [], 0
    for end in shard.ends.tolist():
        document = np.asarray(shard.tokens[begin:end])
        begin = end
        if len(document) and document[-1] == eos:
            document = document[:-1]
        rows += [np.concatenate(([bos], document[i : i + room], [eos])) for i in range(0, len(document), room)]
    if not rows:
        raise ScratchError("there is no text to train on: every document is empty")
    return Tokens(np.concatenate(rows).astype(np.uint32), np.cumsum([len(row) for row in rows], dtype=np.int64))


def check_model(args: EncoderModelArguments) -> None:
    """Check the settings of a new model, before any data is read.

    Raises:
        ScratchError: the preset is not one of an encoder, or the settings are invalid.
    """
    if args.preset not in PRESETS:
        raise ScratchError(f"unknown preset {args.preset!r}: choose one of {', '.join(PRESETS)}")
    config = build_config(args, vocab_size=8, ids={})
    if config.num_hidden_layers == 0:
        raise ScratchError("num_hidden_layers is 0, want at least 1: without attention, a mask has no context")
