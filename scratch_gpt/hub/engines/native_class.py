"""Export to transformers' own class: the same weights in a model that needs no code from this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import ScratchError
from ..model_directory import AUTO_CLASSES, kind_of_model, save_tokenizers
from ..native.convert import export_native, native_twin, save_native
from .export import SAMPLE_TEXTS, ExportFormat, Source, sample_rows

MAX_DIFFERENCE = 1e-3  # of logits, in float32


def check(source: Source) -> None:
    """Check that transformers has a class for a model.

    Raises:
        NoNativeClassError: it has none; the message has the reasons.
    """
    native_twin(source.model)


def write(source: Source, folder: Path, quantization: str) -> None:
    """Write weights, config and tokenizers."""
    native = export_native(source.model)
    save_native(native.to(getattr(torch, quantization)), folder)
    save_tokenizers(*source.tokenizers, folder)


def compare(source: Source, folder: Path, quantization: str) -> dict[str, Any]:
    """Compare the logits of the saved model with those of the source; without a head, the hidden states.

    Raises:
        ScratchError: a float32 export computes others.
    """
    auto_class = AUTO_CLASSES[kind_of_model(source.model.config)]
    native = auto_class.from_pretrained(folder, dtype=getattr(torch, quantization), trust_remote_code=False)
    positions = source.model.config.max_position_embeddings
    largest = logit_difference(source.model, native, sample_rows(source.tokenizers.source, positions)[0])
    if quantization == "float32":
        check_difference(largest)
    return {"class": type(native).__name__, "texts": len(SAMPLE_TEXTS), "largest_logit_difference": largest}


def logit_difference(model: Any, native: Any, rows: list[list[int]]) -> float:
    """The largest difference of the logits of two models, or of their hidden states if they have no head, on rows of
    token ids; NaN if one of them gives NaN."""
    differences = []
    for ids in rows:
        inputs = {"input_ids": torch.tensor([ids])}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]])
        with torch.inference_mode():
            differences.append((native(**inputs)[0].float() - model(**inputs)[0].float()).abs().max())
    return torch.stack(differences).max().item()


def check_difference(largest: float) -> None:
    """Check that a model in transformers' own class computes the same.

    Raises:
        ScratchError: its logits differ, or are not finite.
    """
    if not largest <= MAX_DIFFERENCE:
        raise ScratchError(
            f"the model in transformers' own class computes other logits: they differ by {largest:.2g}, want at most "
            f"{MAX_DIFFERENCE:g}"
        )


NATIVE = ExportFormat(
    name="transformers",
    quantizations=("float32", "bfloat16", "float16"),
    packages=(),
    runtime="transformers",
    check=check,
    write=write,
    compare=compare,
)
