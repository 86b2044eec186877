"""`scratch-gpt export` and `scratch-gpt import`: convert models to and from other formats."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Model, app, open_model


class Format(str, Enum):
    """Formats of `scratch-gpt export`."""

    transformers = "transformers"
    gguf = "gguf"
    ctranslate2 = "ctranslate2"
    onnx = "onnx"


@app.command("export")
def export_command(
    model: Model,
    output_dir: Annotated[Path, typer.Argument(help="Folder to write the converted model to.")],
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="transformers: its own class, which needs no remote code. gguf: llama.cpp and Ollama, for GPT-2 and "
            "Llama styles. ctranslate2: for translators. onnx: ONNX Runtime.",
        ),
    ] = Format.transformers,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            help="Type of the weights. transformers: float32, bfloat16, float16. gguf: f32, f16, bf16, q8_0. "
            "ctranslate2: float32, float16, int8. onnx: float32. Default: the first.",
        ),
    ] = None,
) -> None:
    """Convert a model to transformers' own class or to another engine, and compare the two.

    The folder appears only when it is complete. Its `export.json` states what was measured: equal texts, and the
    largest difference of logits or log-probabilities. A float32 export that computes something else is not written.

    Example:

    ```
    scratch-gpt export runs/gpt runs/native
    scratch-gpt export runs/gpt runs/gguf --format gguf --quantization q8_0
    scratch-gpt export runs/translator runs/ct2 --format ctranslate2 --quantization int8
    ```
    """
    from ..hub.engines.export import Source, check_empty, check_quantization, export_model
    from ..hub.engines.formats import FORMATS
    from ..hub.loading import open_tokenizers
    from ..terminal import SafeConsole

    chosen = FORMATS[format.value]
    check_empty(output_dir)
    check_quantization(chosen, quantization)
    opened, _ = open_model(model)
    source = Source(model, opened, open_tokenizers(model, opened.config))
    console = SafeConsole()
    with console.status(f"exporting to {format.value} and comparing"):
        record = export_model(source, output_dir, chosen, quantization)
    written = (record["compared"] or {}).pop("class", f"{record['model_class']} as {format.value}")
    console.print(f"{written} in {output_dir}, {record['quantization']}")
    if record["compared"] is None:
        console.print(f"not compared with the engine: {record['reason']}")
    else:
        for name, value in record["compared"].items():
            shown = f"{value:.2g}" if isinstance(value, float) else value
            console.print(f"  {name.replace('_', ' ')}: {shown}")


@app.command("import")
def import_command(
    model: Model, output_dir: Annotated[Path, typer.Argument(help="Folder to write the converted model to.")]
) -> None:
    """Convert a GPT-2, Llama, NanoChat, Marian or BERT checkpoint of transformers to this package's classes.

    Example:

    ```
    scratch-gpt import runs/native runs/imported
    ```
    """
    from ..hub.engines.export import check_empty
    from ..hub.model_directory import copy_tokenizers
    from ..hub.native.convert import import_native

    check_empty(output_dir)
    opened, _ = open_model(model)
    converted: Any = import_native(opened)
    converted.save_pretrained(output_dir)
    copy_tokenizers(model, opened.config, output_dir)
    print(f"{type(converted).__name__} in {output_dir}")
