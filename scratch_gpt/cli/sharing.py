"""`scratch-gpt push`: publish a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import Trust, app


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A model directory, as a training run writes it.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="'user/model' on the Hub.")],
    native: Annotated[
        bool, typer.Option("--native", help="Also publish the model in transformers' own class, as revision 'native'.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="If the repository is new, make it private.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.1, help="Network timeout in seconds: how long to wait without any data transferred."
        ),
    ] = 120.0,
    trust_remote_code: Trust = False,
) -> None:
    """Check that a model loads without this package, list the files to upload, and publish them in one commit.

    Example: `scratch-gpt push runs/gpt user/stories --native --yes`
    """
    import tempfile

    from rich.console import Console
    from rich.table import Table

    from ..auto import register
    from ..errors import ScratchError
    from ..hub.push import (
        NATIVE_REVISION,
        files_to_upload,
        foreign_code,
        push_directory,
        verify_loads_without_package,
        write_native_twin,
    )

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
    if foreign := foreign_code(directory):
        if not trust_remote_code:
            raise ScratchError(
                f"{directory} has code that is not this package's: {', '.join(foreign)}. A push opens the model, which "
                "would run it: read it, then add --trust_remote_code"
            )
        console.print(f"running code that {directory} brings: {', '.join(foreign)}")
    with tempfile.TemporaryDirectory() as temporary:
        twin, class_name = Path(temporary), ""
        with console.status("opening it without this package"):
            verify_loads_without_package(directory)
            if native:  # made before anything is sent, since a model may have no twin
                class_name = write_native_twin(directory, twin, trust_remote_code)
        console.print("It opens without this package.")
        show(directory, "model, code and card")
        if native:
            show(twin, "native twin")
        console.print(push_directory(directory, name, private=private, timeout=timeout))
        if native:
            message = f"Upload {class_name} twin"
            console.print(push_directory(twin, name, revision=NATIVE_REVISION, message=message, timeout=timeout))
