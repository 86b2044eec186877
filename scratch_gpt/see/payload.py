"""The content of a page: a model directory as data for web/engine.

`content` is JSON: config, generation settings, the names, shapes and places of the weights, and the tokenizers. The
weights themselves are one string of bytes, in which each tensor begins at a multiple of 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from ..errors import ScratchError
from ..evaluation.classification import label_names_of
from ..hub.loading import Tokenizers, check_vocabulary, load_model, open_config, open_tokenizer, open_tokenizers
from ..hub.native.importing import import_to_memory, is_native_config, plan_import
from ..models.positions import RotaryEmbedding, RotaryEmbeddings
from ..models.relative_positions import relative_position_buckets
from .chat import chat_form
from .support import check_generation, check_size, check_size_before_loading, ignored_generation, kind_of_page
from .tokenizers import tokenizer_payload

WeightType = Literal["float16", "float32"]
# Fields of a config that are about training, loading or the Hub, not about what the model computes.
OMITTED_FIELDS = frozenset(
    {
        *("auto_map", "custom_pipelines", "imported_from", "id2label", "label2id", "architectures", "dtype"),
        *("transformers_version", "chunk_size_feed_forward", "output_attentions"),
        *("output_hidden_states", "return_dict", "use_cache", "initializer_range", "output_projection_init"),
    }
)


class ModelPayload(NamedTuple):
    """A model as the data of a page.

    Attributes:
        content: what becomes JSON, an entry of `models` in the page's payload.
        weights: the bytes of all tensors, little-endian.
    """

    content: dict[str, Any]
    weights: bytes


def model_payload(name: str | Path, dtype: WeightType = "float16", trust_remote_code: bool = False) -> ModelPayload:
    """The data of a page for a model directory.

    Args:
        name: folder or Hub id of one of our models, or of a model of transformers that can be imported.
        dtype: data type of the weights in the page.
        trust_remote_code: whether to run code from the checkpoint.

    Raises:
        ScratchError: the model can't be opened, or the page can't show it.
    """
    model = open_model(name, trust_remote_code)
    return payload_of(model, tokenizers_for(name, model.config, trust_remote_code), str(name), dtype)


def tokenizers_for(name: str | Path, config: Any, trust_remote_code: bool = False) -> Tokenizers:
    """Open the tokenizers of a model directory.

    Args:
        name: folder or Hub id.
        config: of the model.
        trust_remote_code: whether to run code from the checkpoint.

    Raises:
        ScratchError: they can't be opened.
    """
    if config.is_encoder_decoder:
        return open_tokenizers(str(name), config, trust_remote_code)
    tokenizer = open_tokenizer(str(name), trust_remote_code=trust_remote_code, needs_end=False)
    return Tokenizers(tokenizer, tokenizer)


def open_model(name: str | Path, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load one of our models, or import one of transformers. Its size is checked before its weights are read.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run code from the checkpoint.

    Raises:
        ScratchError: it can't be opened or imported, or is too large for a page.
    """
    config = open_config(name, trust_remote_code)
    check_size_before_loading(name, config, trust_remote_code)
    return import_to_memory(plan_import(name)) if is_native_config(config) else load_model(name, trust_remote_code)


def payload_of(
    model: PreTrainedModel, tokenizers: Tokenizers | None, name: str, dtype: WeightType = "float16"
) -> ModelPayload:
    """The data of a page for a model in memory.

    Args:
        model: one of our models, on the CPU.
        tokenizers: its tokenizers; None for a model that gets only ids.
        name: its name in the page.
        dtype: data type of the weights in the page.

    Raises:
        ScratchError: the page can't show the model, or float16 can't represent a weight.
    """
    kind_of_page(model)  # before its weights are copied
    check_size(sum(parameter.numel() for parameter in model.parameters()))
    tensors, tied, weights = pack_tensors(model, dtype)
    content = description_of(model, tokenizers, name)
    return ModelPayload({**content, "tensors": tensors, "tied": tied}, weights)


def payload_without_weights(model: PreTrainedModel, tokenizers: Tokenizers, name: str) -> ModelPayload:
    """The data of a page that asks a server for what the model computes: of the weights, it has the shapes.

    Args:
        model: one of our models.
        tokenizers: its tokenizers.
        name: its name in the page.

    Raises:
        ScratchError: the page can't show the model.
    """
    weights, tied = distinct_weights(model)
    tensors = {each: {"shape": list(weight.shape)} for each, weight in weights.items()}
    content = description_of(model, tokenizers, name)
    return ModelPayload({**content, "tensors": tensors, "tied": tied}, b"")


def description_of(model: PreTrainedModel, tokenizers: Tokenizers | None, name: str) -> dict[str, Any]:
    """What a page says of a model besides its weights.

    Args:
        model: one of our models.
        tokenizers: its tokenizers; None for a model that gets only ids.
        name: its name in the page.

    Raises:
        ScratchError: the page can't show the model.
    """
    kind, config = kind_of_page(model), model.config
    return {
        "name": name,
        "kind": kind,
        "config": config_fields(config),
        "labels": label_names_of(config) if kind == "classifier" else None,
        "generation": generation_settings(model.generation_config, config) if model.can_generate() else None,
        "rotary": rotary_tables(model),
        "max_positions": max_positions(model),
        "tokenizers": tokenizers_of(tokenizers, config) if tokenizers else None,
        "chat": chat_form(tokenizers.source) if tokenizers and kind == "causal" else None,
    }


def tokenizers_of(tokenizers: Tokenizers, config: Any) -> dict[str, Any]:
    """The tokenizers of source and target as data; the target is None without a tokenizer of its own.

    Raises:
        ScratchError: a tokenizer has more tokens than the model, or a part that the page does not have.
    """
    source, target = tokenizers
    check_vocabulary(source, config.vocab_size)
    if target is source:
        return {"source": tokenizer_payload(source), "target": None}
    check_vocabulary(target, config.decoder_vocab_size)
    return {"source": tokenizer_payload(source), "target": tokenizer_payload(target)}


def config_fields(config: Any) -> dict[str, Any]:
    """The fields of a config that say what the model computes, and the buckets of relative positions."""
    names = [field.name for field in fields(config) if field.name not in OMITTED_FIELDS]
    found = {"model_type": config.model_type, **{name: getattr(config, name) for name in names}}
    if getattr(config, "position_type", None) == "relative":
        found["relative_attention_buckets"] = bucket_tables(config)
    return found


def bucket_tables(config: Any) -> dict[str, list[int]]:
    """The bucket of each distance to an earlier key, up to the one from which all share the last bucket, or the longest
    in a text of the model. The rounding of torch's logarithm decides those on a border.

    Returns:
        Buckets by the distance, of "causal" and of "bidirectional" attention.
    """
    longest = min(config.relative_attention_max_distance, config.max_position_embeddings)
    sizes = config.relative_attention_num_buckets, config.relative_attention_max_distance
    earlier = -torch.arange(longest + 1)
    return {
        name: relative_position_buckets(earlier, *sizes, is_bidirectional).tolist()
        for name, is_bidirectional in (("causal", False), ("bidirectional", True))
    }


def generation_settings(generation: GenerationConfig, config: Any) -> dict[str, Any]:
    """The settings of generation, each with its default where there is none; `ignored` are those that the page ignores.

    Raises:
        ScratchError: a setting would change the greedy text, and the page does not have it.
    """
    check_generation(generation)

    def value(name: str, default: Any) -> Any:
        found = getattr(generation, name, None)
        return default if found is None else found

    def id_list(name: str) -> list[int]:
        found = value(name, [])
        return list(found) if isinstance(found, list | tuple) else [found]

    return {
        "decoder_start_token_id": value("decoder_start_token_id", getattr(config, "decoder_start_token_id", None)),
        "eos_token_ids": id_list("eos_token_id"),
        "forced_bos_token_id": value("forced_bos_token_id", None),
        "forced_eos_token_ids": id_list("forced_eos_token_id"),
        "bad_words_ids": value("bad_words_ids", []),
        "suppress_tokens": value("suppress_tokens", []),
        "begin_suppress_tokens": value("begin_suppress_tokens", []),
        "num_beams": value("num_beams", 1),
        "length_penalty": value("length_penalty", 1.0),
        "early_stopping": value("early_stopping", False),
        "repetition_penalty": value("repetition_penalty", 1.0),
        "no_repeat_ngram_size": value("no_repeat_ngram_size", 0),
        "min_length": value("min_length", 0),
        "min_new_tokens": value("min_new_tokens", 0),
        "max_length": value("max_length", None),
        "max_new_tokens": value("max_new_tokens", None),
        "do_sample": value("do_sample", False),
        "temperature": value("temperature", 1.0),
        "top_k": value("top_k", 0),
        "top_p": value("top_p", 1.0),
        "ignored": ignored_generation(generation),
    }


def pack_tensors(model: PreTrainedModel, dtype: WeightType) -> tuple[dict[str, Any], dict[str, str], bytes]:
    """The weights of a model as bytes.

    Args:
        model: the model.
        dtype: data type of the bytes.

    Returns:
        Shape, data type and offset of each tensor by its name in the state dict; the names of tied weights with the
        name of the weight that each is; and the bytes.

    Raises:
        ScratchError: float16 can't represent a weight.
    """
    weights, tied = distinct_weights(model)
    tensors, content = pack(weights, dtype)
    return tensors, tied, content


def distinct_weights(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The weights of a model by name, tied ones once, and the names of tied weights with the name of the weight that
    each is."""
    weights: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[tuple[int, torch.Size], str] = {}
    for name, weight in model.state_dict().items():
        first = names.setdefault((weight.data_ptr(), weight.shape), name)
        if first == name:
            weights[name] = weight
        else:
            tied[name] = first
    return weights, tied


def pack(weights: Mapping[str, torch.Tensor], dtype: WeightType) -> tuple[dict[str, Any], bytes]:
    """Weights as bytes, each at a multiple of 4.

    Args:
        weights: by name, without tied ones.
        dtype: data type of the bytes.

    Returns:
        Shape, data type and offset of each tensor by its name, and the bytes.

    Raises:
        ScratchError: float16 can't represent a weight.
    """
    tensors: dict[str, Any] = {}
    parts: list[bytes] = []
    offset = 0
    for name, weight in weights.items():
        data = array_of(name, weight, dtype).tobytes()
        tensors[name] = {"shape": list(weight.shape), "dtype": dtype, "offset": offset}
        parts += [data, b"\0" * (-len(data) % 4)]
        offset += len(data) + -len(data) % 4
    return tensors, b"".join(parts)


def array_of(name: str, weight: torch.Tensor, dtype: WeightType) -> np.ndarray:
    """A weight as a little-endian array.

    Raises:
        ScratchError: float16 can't represent it.
    """
    values = weight.detach().float().cpu()
    if dtype == "float32":
        return values.numpy().astype("<f4")
    rounded = values.half()
    if values.isfinite().all() and not rounded.isfinite().all():
        raise ScratchError(f"{name} has {values.abs().max().item():g}, which is too large for float16: use float32")
    return rounded.numpy().astype("<f2")


def rotary_tables(model: PreTrainedModel) -> dict[str, Any] | None:
    """The frequencies of rotary positions and the factor of their cosines and sines, by layer type; None without rotary
    positions. Frequencies that depend on the length are those of short texts, see `max_positions`."""
    embedding = rotary_of(model)
    if embedding is None:
        return None
    layer_types = sorted(set(getattr(model.config, "layer_types", None) or ["full_attention"]))
    by_type: Any = embedding if isinstance(embedding, RotaryEmbeddings) else dict.fromkeys(layer_types, embedding)
    return {
        layer_type: {
            "inv_freq": by_type[layer_type].original_inv_freq.float().tolist(),
            "attention_scaling": by_type[layer_type].attention_scaling,
        }
        for layer_type in layer_types
    }


def rotary_of(model: PreTrainedModel) -> RotaryEmbedding | RotaryEmbeddings | None:
    """The first module of rotary positions of a model, which those of other stacks are equal to, or None."""
    found = (module for module in model.modules() if isinstance(module, RotaryEmbedding | RotaryEmbeddings))
    return next(found, None)


def max_positions(model: PreTrainedModel) -> int:
    """The maximum length of a text on the page: that of the model, or the one from which on the frequencies of its
    rotary positions would change with the length ("dynamic" and "longrope")."""
    longest = model.config.max_position_embeddings
    for module in model.modules():
        if isinstance(module, RotaryEmbedding) and module.rope_type == "longrope":
            original = module.config.rope_parameters.get("original_max_position_embeddings")
            longest = min(longest, original or longest)
    return longest
