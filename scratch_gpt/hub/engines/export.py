"""Export a model to a format of another engine: check, write, compare with the engine, and only then rename into place.

Each format is an `ExportFormat`. `export.json` in the result states what was compared when it was written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from ...errors import ScratchError, not_installed, optional_imports
from ..loading import Tokenizers
from ..new_folder import check_empty, complete_folder

RECORD = "export.json"

NEW_TOKENS, MAX_LENGTH = 32, 128  # of a generated text, and of it with its prompt, in comparisons
# Texts that an export is compared on: what tokenizers tend to differ in.
SAMPLE_TEXTS = (
    "One day, Anna has two old lamps near the mill.",
    "  two spaces before,  two inside,   three at the end   ",
    "Ein Mädchen hört die Tür – „schön“, sagt es. Ça va, señor?",
    "def f(x):\n\treturn {'a': x[0] ** 2}  # comment\n\n\nprint(f([1]))",
    "今天天气很好。猫坐在垫子上。",
    "Привет, мир! Γειά σου. שלום 안녕하세요",
    "🙂👍🏽 1234567890 3.14159 50% $9.99 don't I'll we've",
    "é ＡＢＣ ﬁ ½ ™",
)


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        name: folder or Hub id that it was loaded from.
        model: the model, in float32 on the CPU and in evaluation mode; of our class or of transformers' own.
        tokenizers: of source and target; the same object if they share a vocabulary.
    """

    name: str
    model: PreTrainedModel
    tokenizers: Tokenizers


@dataclass(frozen=True)
class ExportFormat:
    """A format that models are exported to.

    Attributes:
        name: value of `--format`.
        quantizations: values of `--quantization`; the first is the default.
        packages: packages that write the format; their versions are recorded.
        runtime: package that runs it; without it, the export is written and not compared.
        check: raises ScratchError if the format can't express a model; nothing has been written then.
        write: writes files into a folder, given the source, the folder and the quantization.
        compare: compares the written files with the source, and returns what it measured, such as the largest
            difference of logits; raises ScratchError if they do not agree.
    """

    name: str
    quantizations: tuple[str, ...]
    packages: tuple[str, ...]
    runtime: str
    check: Callable[[Source], None]
    write: Callable[[Source, Path, str], None]
    compare: Callable[[Source, Path, str], dict[str, Any]]


def export_model(source: Source, output_dir: Path, format: ExportFormat, quantization: str | None = None) -> dict:
    """Export a model. The folder appears only when it is complete and compared.

    Args:
        source: the model and its tokenizers.
        output_dir: folder to write; must not exist, or be empty.
        format: the format.
        quantization: one of `format.quantizations`; by default the first.

    Returns:
        The content of `export.json`.

    Raises:
        ScratchError: the folder is not empty, the format has no such quantization or can't express the model, a package
            is missing, or the engine computes something else.
    """
    quantization = check_quantization(format, quantization)
    check_empty(output_dir)
    with optional_imports():
        for package in format.packages:
            __import__(package)
    format.check(source)
    with complete_folder(output_dir) as staging_dir:
        with torch.inference_mode():
            format.write(source, staging_dir, quantization)
            record = _record(source, staging_dir, format, quantization)
        (staging_dir / RECORD).write_text(f"{json.dumps(record, indent=2, allow_nan=False)}\n", encoding="utf-8")
    return record


def sample_rows(tokenizer: PreTrainedTokenizerFast, positions: int) -> tuple[list[list[int]], int]:
    """Token ids of `SAMPLE_TEXTS` for a model with so many positions, and the number of tokens to generate after each:
    at most `MAX_LENGTH` together."""
    limit = min(positions, MAX_LENGTH)
    new_tokens = min(NEW_TOKENS, limit // 2)
    end = tokenizer.eos_token_id or 0
    rows = [tokenizer(text, verbose=False)["input_ids"][: limit - new_tokens] for text in SAMPLE_TEXTS]
    return [row or [end] for row in rows], new_tokens


@contextmanager
def plain_greedy(model: Any) -> Iterator[None]:
    """Inside the block, `generate` is greedy decoding without penalties and other processors of logits."""
    before = model.generation_config
    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    model.generation_config = GenerationConfig(**{name: getattr(before, name) for name in kept})
    try:
        yield
    finally:
        model.generation_config = before


def check_quantization(format: ExportFormat, quantization: str | None) -> str:
    """The quantization, by default the first that the format has.

    Raises:
        ScratchError: the format has no such quantization.
    """
    if quantization is not None and quantization not in format.quantizations:
        known = ", ".join(format.quantizations)
        raise ScratchError(f"the format {format.name} has no quantization {quantization!r}: choose one of {known}")
    return quantization or format.quantizations[0]


def default_quantization(format: ExportFormat, dtype: torch.dtype) -> str:
    """The quantization that keeps weights in a data type, if the format has it, else the first."""
    names = {torch.bfloat16: ("bfloat16", "bf16"), torch.float16: ("float16", "f16")}.get(dtype, ())
    return next((name for name in format.quantizations if name in names), format.quantizations[0])


def _record(source: Source, folder: Path, format: ExportFormat, quantization: str) -> dict[str, Any]:
    """What `export.json` states: model, format, versions, and the comparison with the engine."""
    record: dict[str, Any] = {
        "format": format.name,
        "quantization": quantization,
        "model_class": type(source.model).__name__,
        "parameters": source.model.num_parameters(),
        "versions": {name: version(name) for name in ("torch", "transformers", *format.packages)},
        "compared": None,
    }
    try:
        engine_version = version(format.runtime)
    except ImportError:
        record["reason"] = not_installed(format.runtime)
        return record
    compared = format.compare(source, folder, quantization)
    for name, value in compared.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ScratchError(f"{format.name} with {quantization} gives {value} as the {name.replace('_', ' ')}")
    return {**record, "compared": {"engine": format.runtime, "version": engine_version, **compared}}
