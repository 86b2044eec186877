"""`scratch-gpt see`: write a page that runs a model in the browser, or serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .app import Device, Model, Trust, app, given_options, refuse_unused


@app.command()
def see(
    context: typer.Context,
    model: Model,
    output: Annotated[Path, typer.Option(help="HTML file to write; it is replaced if it exists.")] = Path("see.html"),
    text: Annotated[str | None, typer.Option(help="Text that the page starts with. Default: an example.")] = None,
    dtype: Annotated[
        Literal["float16", "float32"],
        typer.Option(
            help="Data type of the weights in the page. float32 doubles its size and computes the same as "
            "torch up to rounding. With --serve: the data type that torch computes with; by default that of the "
            "checkpoint on an accelerator and float32 on a CPU."
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
    serve: Annotated[
        bool,
        typer.Option(
            help="Write no file: open the same page at an address of this computer, where torch computes. For models "
            "that are too large for a page.",
        ),
    ] = False,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="With --serve: port of 127.0.0.1 to listen on; 0 chooses a free one."),
    ] = 8808,
    device: Device = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Write a page that runs a model in the browser and shows how it computes.

    The page is one HTML file, which contains the weights, the tokenizer and all code: open it by double click, without
    a server, a network or an installation. Type a text and watch its tokens, the probabilities of the next token, what
    each head attends to, and more.

    Every kind of model of this package can be shown, up to about 30 million parameters. Larger ones, of any size that
    torch can compute on this computer, are shown with --serve: the page is then at an address that the command prints,
    for the browsers of this computer only, as long as the command runs. Ctrl-C ends it.

    Example:

    ```
    scratch-gpt see runs/gpt
    scratch-gpt see runs/translator --output translator.html
    scratch-gpt see runs/sft --against runs/gpt
    scratch-gpt see runs/gpt --film runs/gpt
    scratch-gpt see runs/large --serve
    ```
    """
    from transformers.utils import logging

    from ..auto import register
    from ..terminal import SafeConsole

    if serve:
        reason = "with --serve, which writes no file"
        refuse_unused(context, {"output": reason, "film": "with --serve, whose page has no weights of its own"})
    else:
        refuse_unused(context, dict.fromkeys(("port", "device"), "without --serve"))
    register()
    logging.disable_progress_bar()
    names = [model] if against is None else [model, against]
    console = SafeConsole()
    if serve:
        from ..hardware import use_all_cores
        from ..see.serve import serve as serve_page

        use_all_cores()
        kind = dtype if "dtype" in given_options(context) else "auto"
        serve_page(names, port, text, trust_remote_code, device, kind, console.print)
        return
    from ..see.page import build_page, check_output, write_page

    check_output(output)
    with console.status("reading the weights"):
        page = build_page(names, dtype, text, trust_remote_code, film=film, report=console.print)
        size = write_page(output, page)
    console.print(f"{output}, {size / 1e6:.1f} MB: open it in a browser")
