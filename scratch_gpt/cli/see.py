"""`scratch-gpt see`: write a page that runs a model in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .app import Model, Trust, app


@app.command()
def see(
    model: Model,
    output: Annotated[Path, typer.Option(help="HTML file to write; it is replaced if it exists.")] = Path("see.html"),
    text: Annotated[str | None, typer.Option(help="Text that the page starts with. Default: an example.")] = None,
    dtype: Annotated[
        Literal["float16", "float32"],
        typer.Option(
            help="Data type of the weights in the page. float32 doubles its size and computes the same as "
            "torch up to rounding."
        ),
    ] = "float16",
    against: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a second model with the same tokenizer, such as this one before fine-tuning, "
            "whose differences the page shows."
        ),
    ] = None,
    film: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Directory of the run that trained MODEL with --film; the page then shows the same text at steps of "
            "the training.",
        ),
    ] = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write a page that runs a model in the browser and shows how it computes.

    The page is one HTML file, which contains the weights, the tokenizer and all code: open it by double click, without
    a server, a network or an installation. Type a text and watch its tokens, the probabilities of the next token, what
    each head attends to, and more.

    Every kind of model of this package can be shown, up to about 30 million parameters.

    Example:

    ```
    scratch-gpt see runs/gpt
    scratch-gpt see runs/translator --output translator.html
    scratch-gpt see runs/sft --against runs/gpt
    scratch-gpt see runs/gpt --film runs/gpt
    ```
    """
    from transformers.utils import logging

    from ..auto import register
    from ..see.page import build_page, check_output, write_page
    from ..terminal import SafeConsole

    check_output(output)
    register()
    logging.disable_progress_bar()
    names = [model] if against is None else [model, against]
    console = SafeConsole()
    with console.status("reading the weights"):
        page = build_page(names, dtype, text, trust_remote_code, film=film, report=console.print)
        size = write_page(output, page)
    console.print(f"{output}, {size / 1e6:.1f} MB: open it in a browser")
