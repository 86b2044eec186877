"""Model directories: the format that `from_pretrained` reads, with model code, tokenizer and generation config."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import TrainingError
from ..tokenization.answers import end_of_turn_id
from ..tokenization.saving import save_tokenizer
from ..tokenization.special_tokens import end_token_id, start_token_id
from .adapter import FOLDER, Adapter
from .tensor_files import ALONE, Tensors, Writers, write_tensors

TARGET_TOKENIZER = "target_tokenizer"  # folder of the second tokenizer
MANY_POSITIONS = 1024  # enough for a prompt and the 256 tokens that pipelines of transformers generate by default

Kind = Literal["causal", "seq2seq", "masked", "classifier", "encoder"]
AUTO_CLASSES: dict[Kind, Any] = {
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "masked": AutoModelForMaskedLM,
    "classifier": AutoModelForSequenceClassification,
    "encoder": AutoModel,
}


def kind_of_model(config: Any) -> Kind:
    """Return the kind of model that a checkpoint was saved from, by its architecture: that of its head or, if it has
    none, "encoder" for the trunk of a masked language model, such as `BertModel`, and "causal" or "seq2seq" for
    others."""
    saved_from = (config.architectures or [""])[0]
    if saved_from.endswith("ForSequenceClassification"):
        return "classifier"
    if saved_from.endswith("ForMaskedLM"):
        return "masked"
    family = saved_from.removesuffix("Model")
    if family != saved_from and (family == "ScratchEncoder" or hasattr(transformers, f"{family}ForMaskedLM")):
        return "encoder"
    return "seq2seq" if config.is_encoder_decoder else "causal"


def kind_of_class(model_class: type[PreTrainedModel]) -> Kind:
    """Return the kind of models of one of our classes."""
    name = model_class.__name__
    seq2seq = name.endswith("ForConditionalGeneration")
    return kind_of_model(SimpleNamespace(architectures=[name], is_encoder_decoder=seq2seq))


ToPublished = Callable[[Tensors], Tensors]


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
        dtype: data type of the published weights. Checkpoints have the trained ones, which are float32.
        adapter: low-rank adapters that `published` merges, and that are also written as such, in a subfolder.
        kept_in_float32: names of weights that are published in float32, whatever `dtype` is.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        title: str,
        card: Callable[[], str],
        target_tokenizer: PreTrainedTokenizerBase | None = None,
        published: ToPublished = dict,
        dtype: torch.dtype = torch.float32,
        adapter: Adapter | None = None,
        kept_in_float32: frozenset[str] = frozenset(),
    ):
        # Copies, since a tokenizer can't be used while it is being saved.
        self.tokenizer, self.target_tokenizer = copy.deepcopy((tokenizer, target_tokenizer))
        self.title, self.card, self.published, self.dtype, self.adapter = title, card, published, dtype, adapter
        self.kept_in_float32 = kept_in_float32
        with torch.device("meta"):
            self.skeleton = type(model)(model.config)
            # `save_pretrained` writes the data type of the model into its config, so the config is a copy.
            self.published_skeleton = type(model)(copy.deepcopy(model.config))
        torch.nn.Module.to(self.published_skeleton, dtype)
        for skeleton in (self.skeleton, self.published_skeleton):
            if model.can_generate():
                skeleton.generation_config = model.generation_config

    def write(
        self,
        folder: Path,
        weights: Tensors,
        adapted: Tensors | None = None,
        writers: Writers = ALONE,
    ) -> dict[str, str]:
        """Write weights (safetensors), config, generation config, model code and tokenizer into `folder`.

        Args:
            folder: destination.
            weights: weights of the published model; tied ones once.
            adapted: trained weights of the adapter, which is written too, if there is one.
            writers: the processes that write the weights, all of which must call this; the first one writes the rest.

        Returns:
            SHA-256 of the files of weights that this process has written, by name.
        """
        if writers.process == 0:
            self._write_settings(folder, self.skeleton)
            self._write_adapter(folder / FOLDER, adapted)
        return write_tensors(folder, "model", weights, writers=writers)

    def write_published(
        self,
        folder: Path,
        weights: Tensors,
        adapted: Tensors | None = None,
        writers: Writers = ALONE,
    ) -> dict[str, str]:
        """Write the same with the weights in the data type of the published model, or the adapter only if requested;
        arguments as of `write`.

        Raises:
            TrainingError: a weight is too large for that type.
        """
        if writers.process == 0:
            self._write_adapter(folder / FOLDER, adapted)
        if self.adapter is not None and self.adapter.only:
            return {}
        if writers.process == 0:
            self._write_settings(folder, self.published_skeleton)
        return write_tensors(folder, "model", weights, self._published_dtype, self._in_published_dtype, writers)

    def _write_settings(self, folder: Path, skeleton: PreTrainedModel) -> None:
        """Write all but the weights."""
        skeleton.save_pretrained(folder, state_dict={})
        save_tokenizers(self.tokenizer, self.target_tokenizer, folder)

    def _write_adapter(self, folder: Path, adapted: Tensors | None) -> None:
        """Write the adapter, if there is one, with its tokenizer, which may have more tokens than that of its base."""
        if self.adapter is not None and adapted is not None:
            self.adapter.write(folder, adapted)
            save_tokenizer(self.tokenizer, folder)

    def _published_dtype(self, name: str, weight: torch.Tensor) -> torch.dtype:
        """The data type of a published weight."""
        rounded = weight.is_floating_point() and name not in self.kept_in_float32
        return self.dtype if rounded else weight.dtype

    def _in_published_dtype(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """A weight in that data type.

        Raises:
            TrainingError: it is too large for that type, such as 70,000 for float16.
        """
        converted = weight.to(self._published_dtype(name, weight))
        if weight.isfinite().all() and not converted.isfinite().all():
            kind = str(converted.dtype).removeprefix("torch.")
            raise TrainingError(f"{name} is too large for {kind}: choose another --save_dtype")
        return converted

    @contextmanager
    def as_published(self, model: torch.nn.Module) -> Iterator[None]:
        """Context in which the weights of the live model are rounded to the data type of the published ones, so that
        an evaluation is of what is published. Afterwards they have their former values, bit by bit."""
        if self.dtype == torch.float32:
            yield
            return
        saved = {name: tensor for name, tensor in _saved_tensors(model) if name not in self.kept_in_float32}
        own = [tensor.detach() for tensor in saved.values() if tensor.is_floating_point()]
        kept = [tensor.clone() for tensor in own]
        with torch.no_grad():
            if self.adapter is not None:
                self.adapter.merge_in_place(model)
            for tensor in own:
                tensor.copy_(tensor.to(self.dtype))
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, former in zip(own, kept, strict=True):
                    tensor.copy_(former)


def _saved_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a model, each once, and the buffers that are saved with it, with their names."""
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer


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


def limit_new_tokens(model: PreTrainedModel) -> None:
    """Limit the default length of a completion of a tuned model with few positions to half of them, if its generation
    config does not set it: the pipeline of transformers would generate 256 tokens, past the last learned position."""
    config, positions = model.generation_config, getattr(model.config, "max_position_embeddings", None)
    if positions and positions < MANY_POSITIONS and config.max_new_tokens is None and config.max_length is None:
        config.max_new_tokens = max(1, positions // 2)


def set_chat_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends_of_turn: list[int]) -> None:
    """Set generation defaults for chat: greedy decoding, until the end of the turn or half of the positions."""
    config = _stop_and_pad(model, tokenizer)
    config.eos_token_id = sorted({*ends_of_turn, end_token_id(tokenizer)} - {None})
    config.do_sample = False
    config.max_new_tokens = max(1, getattr(model.config, "max_position_embeddings", 256) // 2)


def add_end_of_turn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Add the token that ends an answer in the tokenizer's chat template to those at which generation stops.

    Returns:
        One line that names it, or None if it is there already, or unknown.
    """
    end, config = end_of_turn_id(tokenizer), model.generation_config
    stops: Any = end_token_id(tokenizer) if config.eos_token_id is None else config.eos_token_id
    known = stops if isinstance(stops, list) else [stops]
    if end is None or end in known:
        return None
    config.eos_token_id = sorted({*known, end} - {None})
    return f"answers end with {tokenizer.convert_ids_to_tokens(end)}, as in the chat template"


def set_translation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_beams: int) -> None:
    """Set generation defaults for translation: beam search with `num_beams` beams."""
    config = _stop_and_pad(model, tokenizer)
    config.decoder_start_token_id = model.config.decoder_start_token_id
    config.num_beams = num_beams
    config.early_stopping = num_beams > 1
    config.max_length = model.config.max_position_embeddings


def _stop_and_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    config = model.generation_config
    config.bos_token_id = start_token_id(tokenizer)
    config.eos_token_id = end_token_id(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    return config
