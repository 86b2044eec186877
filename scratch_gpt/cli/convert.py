"""`scratch-gpt export` and `scratch-gpt import`: convert between this package's classes and transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Model, app, open_model


@app.command("export")
def export_command(
    model: Model, output_dir: Annotated[Path, typer.Argument(help="Folder to write the converted model to.")]
) -> None:
    """Convert a model to transformers' own class with the same weights, which needs no remote code.

    Example:

    ```
    scratch-gpt export runs/gpt runs/native
    ```
    """
    from ..hub.native.convert import export_native

    _convert(model, output_dir, export_native)


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
    from ..hub.native.convert import import_native

    _convert(model, output_dir, import_native)


def _convert(model: str, output_dir: Path, convert: Callable[[Any], Any]) -> None:
    """Convert a model, and write the result with the model's tokenizers to an empty folder."""
    from ..hub.model_directory import copy_tokenizers
    from ..hub.native.convert import save_native

    _check_empty(output_dir)
    opened, _ = open_model(model)
    converted = convert(opened)
    save_native(converted, output_dir)
    copy_tokenizers(model, opened.config, output_dir)
    print(f"{type(converted).__name__} in {output_dir}")


def _check_empty(folder: Path) -> None:
    from ..errors import ScratchError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ScratchError(f"{folder} already exists and is not an empty folder: choose another")
