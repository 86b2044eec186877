"""Export to ONNX, with a key-value cache, in the layout of Hugging Face Optimum. onnx_graphs.py lists the files."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from ...errors import ScratchError
from ..model_directory import Kind, save_tokenizers
from ..native.twin import rotary_settings
from .export import ExportFormat, Source
from .onnx_comparison import compare
from .onnx_graphs import Graph, build_graphs

# Variants of rotary positions whose frequencies depend on the length of the input, which a graph can't express.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

# Fields of a config that refer to code, which is not in the folder, or to a path of this machine.
OMITTED_FIELDS = ("auto_map", "custom_pipelines", "_name_or_path")


def kind_for_export(model: Any) -> Kind:
    """The kind of a model, by its class.

    Raises:
        ScratchError: it is of no kind that can be exported.
    """
    name, is_encoder_decoder = type(model).__name__, bool(model.config.is_encoder_decoder)
    if name.endswith("ForSequenceClassification") and not is_encoder_decoder:
        return "classifier"
    if name.endswith("ForMaskedLM") and not is_encoder_decoder:
        return "masked"
    if model.can_generate() and model.main_input_name == "input_ids":
        return "seq2seq" if is_encoder_decoder else "causal"
    raise ScratchError(
        f"a {name} can't be exported to ONNX: want a language model, an encoder-decoder, a masked language model or a "
        "classifier of texts"
    )


def has_cache(model: Any) -> bool:
    """Whether a decoder-only model is exported with a cache. A bigram model has none; a model with n-gram embeddings
    also keeps tokens in it, which the inputs of Optimum do not have."""
    return model._supports_default_dynamic_cache() and not getattr(model.config, "ngram_buckets", 0)


def check(source: Source) -> None:
    """Check that a model can be exported.

    Raises:
        ScratchError: its kind, its positions or its cache can't be exported.
    """
    model = source.model
    kind = kind_for_export(model)
    config: Any = model.config.get_text_config(decoder=True)
    ropes = rotary_settings(getattr(config, "rope_parameters", None))
    for rope_type in {rope.get("rope_type", "default") for rope in ropes} & set(LENGTH_DEPENDENT_ROPE):
        if getattr(config, "position_type", "rotary") == "rotary":
            raise ScratchError(
                f"a model with rope_type {rope_type!r} can't be exported to ONNX: its frequencies depend on the length "
                "of the input"
            )
    if num_experts := getattr(config, "num_experts", 0) or getattr(config, "num_local_experts", 0):
        raise ScratchError(
            f"a model with experts can't be exported to ONNX, num_experts is {num_experts}: how many tokens an expert "
            "has depends on the input"
        )
    if kind == "seq2seq" or (kind == "causal" and has_cache(model)):
        layers = {type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__}
        if layers:
            raise ScratchError(
                f"a model whose cache has layers of {', '.join(sorted(layers))} can't be exported to ONNX: want full "
                "attention in all layers (layer_types, sliding_window)"
            )


def write(source: Source, folder: Path, quantization: str) -> None:
    """Write graphs, configs and tokenizers. Large weights (from about 1.5 GB on) are in a second file.

    Args:
        source: the model and its tokenizers.
        folder: an empty folder.
        quantization: "float32".

    Raises:
        ScratchError: PyTorch can't export the model.
    """
    model = source.model
    kind = kind_for_export(model)
    with eager_attention(model):
        for graph in build_graphs(model, kind, kind == "causal" and has_cache(model)):
            write_graph(graph, folder / f"{graph.name}.onnx")
    config = {key: value for key, value in model.config.to_dict().items() if key not in OMITTED_FIELDS}
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(f"{json.dumps(config, indent=2, sort_keys=True)}\n", encoding="utf-8")
    if model.can_generate() and kind in ("causal", "seq2seq"):
        model.generation_config.save_pretrained(folder)
    save_tokenizers(*source.tokenizers, folder)


def write_graph(graph: Graph, path: Path) -> None:
    """Export a graph to a file.

    Raises:
        ScratchError: PyTorch can't export it.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    try:
        with exporter_warnings_ignored():
            program = torch.onnx.export(
                graph.module.eval(),
                graph.example(),
                dynamo=True,
                verbose=False,
                input_names=[*graph.inputs, *graph.past],
                output_names=graph.outputs,
                dynamic_shapes=graph.dynamic_shapes(),
                custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise ScratchError(f"PyTorch can't export {path.name} of this model: {cause}") from error
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with paths of this machine
    program.save(path)


def stable_sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """The ONNX operations of `torch.sort(..., stable=True)`, which PyTorch does not translate. TopK is stable: of equal
    values, that of the lower index comes first.

    Args:
        values: what to sort.
        stable: unused.
        dim: dimension.
        descending: whether the largest comes first.
    """
    from onnxscript import opset18

    op: Any = opset18
    length = op.Reshape(op.Gather(op.Shape(values), op.Constant(value_int=dim)), op.Constant(value_ints=[1]))
    return op.TopK(values, length, axis=dim, largest=descending, sorted=True)


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use eager attention inside the block, which is made of operations that every ONNX engine has."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def exporter_warnings_ignored() -> Iterator[None]:
    """Hide the exporter's warnings about packages that are not needed and about its own deprecated calls."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


ONNX = ExportFormat(
    name="onnx",
    quantizations=("float32",),
    packages=("onnx", "onnxscript"),
    runtime="onnxruntime",
    check=check,
    write=write,
    compare=lambda source, folder, quantization: compare(source, folder, kind_for_export(source.model)),
)
