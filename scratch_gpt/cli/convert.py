"""`scratch-gpt export` and `scratch-gpt import`: convert models to and from other formats."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

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
            "ctranslate2: float32, float16, int8. onnx: float32. Default: that of the checkpoint, else the first.",
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
    from ..hub.base_model import stored_dtype
    from ..hub.engines.export import Source, check_quantization, default_quantization, export_model
    from ..hub.engines.formats import FORMATS
    from ..hub.loading import open_tokenizers
    from ..hub.native.convert import other_class_than_origin
    from ..hub.new_folder import check_empty
    from ..terminal import SafeConsole

    chosen = FORMATS[format.value]
    check_empty(output_dir)
    check_quantization(chosen, quantization)
    opened, _ = open_model(model)
    quantization = quantization or default_quantization(chosen, stored_dtype(model))
    source = Source(model, opened, open_tokenizers(model, opened.config))
    console = SafeConsole()
    with console.status(f"exporting to {format.value} and comparing"):
        record = export_model(source, output_dir, chosen, quantization)
    if format is Format.transformers and (reason := other_class_than_origin(opened)):
        SafeConsole(stderr=True).print(f"warning: {reason}", style="bold yellow")
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
    """Convert a checkpoint of transformers' own classes, such as Llama, GPT-2 or BERT, to this package's classes.

    Weights keep their data type. A class or setting that is not supported is named before weights are read or
    downloaded. The folder appears only when it is complete.

    Example:

    ```
    scratch-gpt import runs/native runs/imported
    ```
    """
    from ..auto import register
    from ..hub.native.importing import import_to_folder, plan_import
    from ..hub.new_folder import check_empty, complete_folder
    from ..hub.tokenizer_files import copy_tokenizer_files
    from ..terminal import SafeConsole

    register()
    check_empty(output_dir)
    plan = plan_import(model)
    with complete_folder(output_dir) as staging_dir:
        native = import_to_folder(plan, staging_dir)
        notes = copy_tokenizer_files(model, plan.config, staging_dir)
    console, warnings = SafeConsole(), SafeConsole(stderr=True)
    dtype = str(native.dtype).removeprefix("torch.")
    console.print(f"{plan.model_class.__name__} in {output_dir}, {dtype}, from {plan.class_name}")
    if native.ignored:
        shown = f"{', '.join(native.ignored[:3])}{', …' if len(native.ignored) > 3 else ''}"
        notes.append(f"{len(native.ignored)} weights that {plan.class_name} does not have were ignored: {shown}")
    for note in notes:
        warnings.print(f"warning: {note}", style="bold yellow")
