"""Tiny models of each kind with their tokenizers, as a page shows them."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from helpers.models import lift_norms, randomise, tiny_encoder, tiny_model, tiny_seq2seq
from scratch_gpt import (
    ScratchBigramConfig,
    ScratchBigramForCausalLM,
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
    ScratchGPTForSequenceClassification,
    train_tokenizer,
)
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.hub.loading import Tokenizers

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Shown(NamedTuple):
    """A model and its tokenizers."""

    model: PreTrainedModel
    tokenizers: Tokenizers


@cache
def tokenizer_of(kind: str, template: str, size: int | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind, trained on stories."""
    return train_tokenizer(stories(seed=0, count=300), kind, size, template, model_max_length=128)  # type: ignore[arg-type]


def _with(build: Callable[..., PreTrainedModel], *tokenizers: PreTrainedTokenizerFast, **fields: Any) -> Shown:
    source, target = tokenizers[0], tokenizers[-1]
    model = build(vocab_size=len(source), max_position_embeddings=128, **fields)
    return Shown(model.eval(), Tokenizers(source, target))


def _bigram(vocab_size: int, **fields: Any) -> ScratchBigramForCausalLM:
    config = ScratchBigramConfig(vocab_size=vocab_size, **fields, **IDS)
    return randomise(ScratchBigramForCausalLM(config), std=2.0)


def _gpt_classifier(**fields: Any) -> ScratchGPTForSequenceClassification:
    config = tiny_model("llama", **fields).config
    config.num_labels = 3
    return lift_norms(randomise(ScratchGPTForSequenceClassification(config)))


def shown(kind: str) -> Shown:
    """A tiny model of a kind of `KINDS`, with random weights."""
    causal = tokenizer_of("bpe", "causal", 500)
    source = tokenizer_of("unigram", "seq2seq", 300)
    encoder = tokenizer_of("word", "encoder", 300)
    if kind == "causal":
        return _with(lambda **fields: tiny_model("llama", **fields), causal)
    if kind == "ngram":
        return _with(lambda **fields: tiny_model("nanochat_ngram", **fields), tokenizer_of("char", "causal"))
    if kind == "bigram":
        return _with(_bigram, tokenizer_of("char", "causal"))
    if kind == "gpt_classifier":
        return _with(_gpt_classifier, causal)
    if kind == "seq2seq":
        return _with(lambda **fields: tiny_seq2seq("modern", **fields), source)
    if kind == "two_vocabularies":
        target = tokenizer_of("bpe", "seq2seq", 400)
        sizes = {"decoder_vocab_size": len(target), "share_encoder_decoder_embeddings": False}
        found = _with(lambda **fields: tiny_seq2seq("vaswani2017", **fields), source, target, **sizes)
        found.model.config.target_tokenizer = True
        return found
    heads = {
        "masked": (ScratchEncoderForMaskedLM, "bert"),
        "classifier": (ScratchEncoderForSequenceClassification, "modern"),
        "fasttext": (ScratchEncoderForSequenceClassification, "fasttext"),
        "encoder": (ScratchEncoderModel, "bert"),
    }
    head, preset = heads[kind]
    sizes = {"num_hidden_layers": 0} if preset == "fasttext" else {}
    return _with(lambda **fields: tiny_encoder(head, preset, **fields), encoder, **sizes)


KINDS = ("causal", "ngram", "bigram", "gpt_classifier", "seq2seq", "two_vocabularies", "masked", "classifier")
KINDS += ("fasttext", "encoder")


def rounded_to_float16(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its weights rounded to float16, and still in float32, as a page computes with them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model
