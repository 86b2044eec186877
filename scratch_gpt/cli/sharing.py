"""`scratch-gpt push`: publish a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import app


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A model directory, such as a run leaves.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="'user/model' on the Hub.")],
    native: Annotated[
        bool, typer.Option("--native", help="Also publish the native twin as revision 'native'.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending.")] = False,
) -> None:
    """Verify a directory as a stranger would, show what will be sent, and publish it in one commit.

    Example: `scratch-gpt push runs/gpt user/stories --native --yes`
    """
    from rich.console import Console
    from rich.table import Table

    from ..auto import register
    from ..hub.push import files_to_upload, push_directory, push_native, verify_as_stranger

    register()

    console = Console(highlight=False)

    def show(folder: Path, what: str) -> None:
        table = Table("file", "bytes", title=f"{what} to {name}")
        for path in files_to_upload(folder):
            table.add_row(str(path.relative_to(folder)), f"{path.stat().st_size:,}")
        console.print(table)
        if not yes:
            typer.confirm("Send these files?", abort=True)

    files_to_upload(directory)  # refuses early what is no model directory
    with console.status("opening it without this package"):
        verify_as_stranger(directory)
    console.print("It opens without this package.")
    show(directory, "model, code and card")
    console.print(push_directory(directory, name, private=private))
    if native:
        console.print(push_native(directory, name, private=private, confirm=lambda twin: show(twin, "native twin")))
