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
from ....tokenization.special_tokens import end_token_id, special_id_fields, surrounding_tokens
from ..encoder_arguments import EncoderModelArguments
from ..encoder_model import build_config


def build_masked_model(args: EncoderModelArguments, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Build a new encoder with a masked-LM head, in float32."""
    return ScratchEncoderForMaskedLM(build_config(args, len(tokenizer), special_id_fields(tokenizer)))


def rows_of_documents(shard: Shard, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Tokens:
    """Split documents into rows of at most `max_length` tokens, including the special tokens that the tokenizer adds
    around a text, such as `[CLS]` and `[SEP]`; a longer document continues in the next row.

    Raises:
        ScratchError: all documents are empty, or the special tokens leave no room for a token of the text.
    """
    before, after = (np.asarray(ids, dtype=np.uint32) for ids in surrounding_tokens(tokenizer))
    end, rows, begin = end_token_id(tokenizer), [], 0
    room = max_length - len(before) - len(after)
    if room < 1:
        added = len(before) + len(after)
        raise ScratchError(f"context_length is {max_length}, want at least {added + 1}: {added} are special tokens")
    for stop in shard.ends.tolist():
        document = np.asarray(shard.tokens[begin:stop])
        begin = stop
        if len(document) and document[-1] == end:
            document = document[:-1]
        rows += [np.concatenate((before, document[i : i + room], after)) for i in range(0, len(document), room)]
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
