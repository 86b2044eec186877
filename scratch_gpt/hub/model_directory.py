"""The one model format: a directory that `from_pretrained` reads, with code, tokenizer and card."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

TARGET_TOKENIZER = "target_tokenizer"  # folder of the second tokenizer

Kind = Literal["causal", "seq2seq", "masked", "classifier"]
AUTO_CLASSES: dict[Kind, Any] = {
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "masked": AutoModelForMaskedLM,
    "classifier": AutoModelForSequenceClassification,
}


def kind_of_model(config: Any) -> Kind:
    """What a checkpoint is for, by the class that it was saved from."""
    saved_from = (config.architectures or [""])[0]
    if saved_from.endswith("ForSequenceClassification"):
        return "classifier"
    if saved_from.endswith("ForMaskedLM"):
        return "masked"
    return "seq2seq" if config.is_encoder_decoder else "causal"


ToPublished = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class ModelDirectory:
    """Writes model directories for one run.

    Args:
        model: the model before anything is wrapped around it. Only its class and settings are kept, as a skeleton
            without memory: sharding changes the class of a live model, and with it what `save_pretrained` writes.
        tokenizer: saved beside the weights.
        title: what the model is called in its card and picture.
        card: renders `README.md` from the state of the run.
        target_tokenizer: of the language that an encoder-decoder writes, where that is another one.
        published: gives, of the weights that are trained, those of the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        title: str,
        card: Callable[[], str],
        target_tokenizer: PreTrainedTokenizerBase | None = None,
        published: ToPublished = dict,
    ):
        # Copies, since a tokenizer that is being saved refuses to be used.
        self.tokenizer, self.target_tokenizer = copy.deepcopy((tokenizer, target_tokenizer))
        self.title, self.card, self.published = title, card, published
        with torch.device("meta"):
            self.skeleton = type(model)(model.config)
        if model.can_generate():
            self.skeleton.generation_config = model.generation_config

    def write(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """Write weights (safetensors), config, generation config, model code and tokenizer into `folder`."""
        self.skeleton.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)
        if self.target_tokenizer is not None:
            self.target_tokenizer.save_pretrained(folder / TARGET_TOKENIZER)


def has_target_tokenizer(config: Any) -> bool:
    """Whether a model writes with a tokenizer of its own, in the folder `TARGET_TOKENIZER`."""
    return bool(getattr(config, "target_tokenizer", False))


def copy_tokenizers(name: str, config: Any, folder: Path, trust_remote_code: bool = False) -> None:
    """Save the tokenizer, or the two, of a checkpoint into another folder."""
    AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code).save_pretrained(folder)
    if has_target_tokenizer(config):
        second = AutoTokenizer.from_pretrained(name, subfolder=TARGET_TOKENIZER, trust_remote_code=trust_remote_code)
        second.save_pretrained(folder / TARGET_TOKENIZER)


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Generation settings for a model trained from scratch: sample, and stop at `<eos>` or half a context later."""
    config = _stop_and_pad(model, tokenizer)
    config.do_sample = True
    config.max_new_tokens = max(1, getattr(model.config, "max_position_embeddings", 256) // 2)


def set_chat_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_of_turn: int) -> None:
    """Generation settings for a model that answers: the likeliest words, until the end of its turn."""
    config = _stop_and_pad(model, tokenizer)
    config.eos_token_id = sorted({end_of_turn, tokenizer.eos_token_id})
    config.do_sample = False
    config.max_new_tokens = max(1, getattr(model.config, "max_position_embeddings", 256) // 2)


def set_translation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_beams: int) -> None:
    """Generation settings for an encoder-decoder: search for the likeliest translation, with so many beams."""
    config = _stop_and_pad(model, tokenizer)
    config.decoder_start_token_id = model.config.decoder_start_token_id
    config.num_beams = num_beams
    config.early_stopping = num_beams > 1
    config.max_length = model.config.max_position_embeddings


def _stop_and_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    config = model.generation_config
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    return config
