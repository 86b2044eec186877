"""Tiny models of each kind with their tokenizers, as a page shows them."""

import base64
import json
import re
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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


def _bigram(vocab_size: int, **fields: Any) -> ScratchBigramForCausalLM:
    config = ScratchBigramConfig(vocab_size=vocab_size, **fields, **IDS)
    return randomise(ScratchBigramForCausalLM(config), std=2.0)


def _gpt_classifier(**fields: Any) -> ScratchGPTForSequenceClassification:
    config = tiny_model("llama", **fields).config
    config.num_labels = 3
    return lift_norms(randomise(ScratchGPTForSequenceClassification(config)))


def shown(kind: str, spare: int = 0) -> Shown:
    """A tiny model of a kind, with random weights.

    Args:
        kind: one of `KINDS`.
        spare: how many more tokens the model has than its tokenizer.
    """
    build, *tokenizers = _parts(kind)
    source, target = tokenizers[0], tokenizers[-1]
    fields: dict[str, Any] = {"vocab_size": len(source) + spare, "max_position_embeddings": 128}
    if source is not target:
        fields |= {"decoder_vocab_size": len(target) + spare, "share_encoder_decoder_embeddings": False}
    model = build(**fields).eval()
    if source is not target:
        model.config.target_tokenizer = True
    return Shown(model, Tokenizers(source, target))


def _parts(kind: str) -> tuple[Any, ...]:
    """What builds a model of a kind, and its tokenizers."""
    encoder = tokenizer_of("word", "encoder", 300)
    source = tokenizer_of("unigram", "seq2seq", 300)
    fasttext = partial(tiny_encoder, ScratchEncoderForSequenceClassification, "fasttext", num_hidden_layers=0)
    parts: dict[str, tuple[Any, ...]] = {
        "causal": (partial(tiny_model, "llama"), tokenizer_of("bpe", "causal", 500)),
        "ngram": (partial(tiny_model, "nanochat_ngram"), tokenizer_of("char", "causal")),
        "bigram": (_bigram, tokenizer_of("char", "causal")),
        "gpt_classifier": (_gpt_classifier, tokenizer_of("bpe", "causal", 500)),
        "seq2seq": (partial(tiny_seq2seq, "modern"), source),
        "two_vocabularies": (partial(tiny_seq2seq, "vaswani2017"), source, tokenizer_of("bpe", "seq2seq", 400)),
        "masked": (partial(tiny_encoder, ScratchEncoderForMaskedLM, "bert"), encoder),
        "classifier": (partial(tiny_encoder, ScratchEncoderForSequenceClassification, "modern"), encoder),
        "fasttext": (fasttext, encoder),
        "encoder": (partial(tiny_encoder, ScratchEncoderModel, "bert"), encoder),
    }
    return parts[kind]


KINDS = ("causal", "ngram", "bigram", "gpt_classifier", "seq2seq", "two_vocabularies", "masked", "classifier")
KINDS += ("fasttext", "encoder")


def payload_in(path: Path) -> dict[str, Any]:
    """What a page contains besides weights, read from its HTML."""
    return json.loads(_element(path, "application/json", "payload"))


def weights_in(path: Path, tensors: dict[str, Any], element: str = "weights-0") -> dict[str, torch.Tensor]:
    """The float16 weights of an element of a page.

    Args:
        path: the page.
        tensors: shape and place of each, from the payload.
        element: id of the element.
    """
    content = base64.b64decode(_element(path, "text/plain", element))
    found = {}
    for name, tensor in tensors.items():
        count = int(np.prod(tensor["shape"]))
        values = np.frombuffer(content, "<f2", count, tensor["offset"]).reshape(tensor["shape"])
        found[name] = torch.from_numpy(values.copy())
    return found


def _element(path: Path, kind: str, name: str) -> str:
    """The text of a script element of a page."""
    found = re.search(rf'<script type="{kind}" id="{name}">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    assert found is not None, name
    return found[1]


def rounded_to_float16(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its weights rounded to float16, and still in float32, as a page computes with them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model
