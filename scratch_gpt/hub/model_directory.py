"""Model directories: the format that `from_pretrained` reads, with model code, tokenizer and generation config."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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

from ..tokenization.saving import save_tokenizer

TARGET_TOKENIZER = "target_tokenizer"  # folder of the second tokenizer

Kind = Literal["causal", "seq2seq", "masked", "classifier"]
AUTO_CLASSES: dict[Kind, Any] = {
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "masked": AutoModelForMaskedLM,
    "classifier": AutoModelForSequenceClassification,
}


def kind_of_model(config: Any) -> Kind:
    """Return the kind of model that a checkpoint was saved from, by its architecture."""
    saved_from = (config.architectures or [""])[0]
    if saved_from.endswith("ForSequenceClassification"):
        return "classifier"
    if saved_from.endswith("ForMaskedLM"):
        return "masked"
    return "seq2seq" if config.is_encoder_decoder else "causal"


def kind_of_class(model_class: type[PreTrainedModel]) -> Kind:
    """Return the kind of models of one of our classes."""
    name = model_class.__name__
    seq2seq = name.endswith("ForConditionalGeneration")
    return kind_of_model(SimpleNamespace(architectures=[name], is_encoder_decoder=seq2seq))


ToPublished = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class ModelDirectory:
    """Writes the model directories of a run.

    Args:
        model: the unwrapped model. Only its class and settings are kept, as a skeleton on the meta device: sharding
            changes the class of a live model, and with it what `save_pretrained` writes.
        tokenizer: saved with the weights.
        title: title of the model in its card and plot.
        card: renders `README.md` from the state of the run.
        target_tokenizer: tokenizer of an encoder-decoder's target, if it has its own.
        published: returns the weights of the published model from the trained ones.
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
        # Copies, since a tokenizer can't be used while it is being saved.
        self.tokenizer, self.target_tokenizer = copy.deepcopy((tokenizer, target_tokenizer))
        self.title, self.card, self.published = title, card, published
        with torch.device("meta"):
            self.skeleton = type(model)(model.config)
        if model.can_generate():
            self.skeleton.generation_config = model.generation_config

    def write(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """Write weights (safetensors), config, generation config, model code and tokenizer into `folder`."""
        self.skeleton.save_pretrained(folder, state_dict=weights)
        save_tokenizers(self.tokenizer, self.target_tokenizer, folder)


def save_tokenizers(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Save the tokenizer of a model, and its target tokenizer if that is another one."""
    save_tokenizer(source, folder)
    if target is not None and target is not source:
        save_tokenizer(target, folder / TARGET_TOKENIZER)


def has_target_tokenizer(config: Any) -> bool:
    """Whether a model has a separate tokenizer for the target, in the folder `TARGET_TOKENIZER`."""
    return bool(getattr(config, "target_tokenizer", False))


def copy_tokenizers(name: str, config: Any, folder: Path, trust_remote_code: bool = False) -> None:
    """Save the tokenizer of a checkpoint, and its target tokenizer if there is one, in another folder.

    Args:
        name: folder or Hub id of the checkpoint.
        config: the model's config.
        folder: destination.
        trust_remote_code: whether to run code from the checkpoint.
    """
    save_tokenizer(AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code), folder)
    if has_target_tokenizer(config):
        second = AutoTokenizer.from_pretrained(name, subfolder=TARGET_TOKENIZER, trust_remote_code=trust_remote_code)
        save_tokenizer(second, folder / TARGET_TOKENIZER)


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set generation defaults for pretraining: sample, until `<eos>` or half of the positions."""
    config = _stop_and_pad(model, tokenizer)
    config.do_sample = True
    config.max_new_tokens = max(1, getattr(model.config, "max_position_embeddings", 256) // 2)


def set_chat_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end_of_turn: int) -> None:
    """Set generation defaults for chat: greedy decoding, until the end of the turn or half of the positions."""
    config = _stop_and_pad(model, tokenizer)
    config.eos_token_id = sorted({end_of_turn, tokenizer.eos_token_id})
    config.do_sample = False
    config.max_new_tokens = max(1, getattr(model.config, "max_position_embeddings", 256) // 2)


def set_translation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_beams: int) -> None:
    """Set generation defaults for translation: beam search with `num_beams` beams."""
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
