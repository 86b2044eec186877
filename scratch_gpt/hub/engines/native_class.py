"""Export to transformers' own class: the same weights in a model that needs no code from this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import ScratchError
from ...tokenization.saving import save_tokenizer
from ..model_directory import AUTO_CLASSES, TARGET_TOKENIZER, kind_of_model
from ..native.convert import export_native, save_native
from .export import SAMPLE_TEXTS, ExportFormat, Source

LARGEST_DIFFERENCE = 1e-3  # of the logits of a float32 export


def check(source: Source) -> None:
    """Check that transformers has a class for a model.

    Raises:
        NoNativeClassError: it has none; the message has the reasons.
    """
    export_native(source.model)


def write(source: Source, folder: Path, quantization: str) -> None:
    """Write weights, config and tokenizers."""
    native = export_native(source.model)
    save_native(native.to(getattr(torch, quantization)), folder)
    save_tokenizer(source.tokenizers.source, folder)
    if source.tokenizers.target is not source.tokenizers.source:
        save_tokenizer(source.tokenizers.target, folder / TARGET_TOKENIZER)


def compare(source: Source, folder: Path, quantization: str) -> dict[str, Any]:
    """Compare the logits of the saved model with those of the source.

    Raises:
        ScratchError: a float32 export computes other logits.
    """
    model: Any = source.model
    auto_class = AUTO_CLASSES[kind_of_model(model.config)]
    native = auto_class.from_pretrained(folder, dtype=getattr(torch, quantization), trust_remote_code=False)
    largest = 0.0
    for text in SAMPLE_TEXTS:
        ids = torch.tensor([source.tokenizers.source(text)["input_ids"][: model.config.max_position_embeddings]])
        inputs = {"input_ids": ids}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]])
        largest = max(largest, float((native(**inputs).logits.float() - model(**inputs).logits).abs().max()))
    if quantization == "float32" and largest > LARGEST_DIFFERENCE:
        raise ScratchError(f"the logits differ by {largest:.2g}, want at most {LARGEST_DIFFERENCE:g}")
    return {"class": type(native).__name__, "texts": len(SAMPLE_TEXTS), "largest_logit_difference": largest}


NATIVE = ExportFormat(
    name="transformers",
    quantizations=("float32", "bfloat16", "float16"),
    packages=(),
    runtime="transformers",
    check=check,
    write=write,
    compare=compare,
)
