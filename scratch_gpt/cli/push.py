"""`scratch-gpt push`: publish a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Trust, app


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A model directory, as a training run writes it.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="'user/model' on the Hub.")],
    native: Annotated[
        bool,
        typer.Option(
            "--native/--no-native", help="Also publish the model in transformers' own class, as revision 'native'."
        ),
    ] = False,
    private: Annotated[
        bool, typer.Option("--private/--no-private", help="If the repository is new, make it private.")
    ] = False,
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

    Example:

    ```
    scratch-gpt push runs/gpt user/stories --native --yes
    ```
    """
    from rich.table import Table

    from ..auto import register
    from ..errors import ScratchError
    from ..hub.push import check_sizes, verify_loads_without_package, write_native_twin
    from ..hub.staging import files_to_upload, foreign_code, staged
    from ..hub.upload import MAIN_REVISION, NATIVE_REVISION, Changes, check_repository_name, plan_push, push_directory
    from ..terminal import SafeConsole

    register()
    console = SafeConsole()

    def confirm_changes(folder: Path, content: str, revision: str) -> Changes:
        """List the files to upload and to delete, and ask for confirmation."""
        changes = plan_push(folder, name, revision=revision, timeout=timeout)
        table = Table("file", "bytes", title=f"{content} to {name}")
        for path in files_to_upload(folder):
            table.add_row(str(path.relative_to(folder)), f"{path.stat().st_size:,}")
        console.print(table)
        if changes.deletions:
            deleted = Table(
                "file", title=f"to be deleted from revision {revision} of {name}: left over from an earlier push"
            )
            for stale in changes.deletions:
                deleted.add_row(stale)
            console.print(deleted)
        if not yes:
            typer.confirm("Upload and delete these files?" if changes.deletions else "Upload these files?", abort=True)
        return changes

    check_repository_name(name)
    with staged(directory) as copy:
        if foreign := foreign_code(copy):
            if not trust_remote_code:
                raise ScratchError(
                    f"{directory} has code that is not this package's: {', '.join(foreign)}. A push loads the model, "
                    "which would run this code: read it, then add --trust_remote_code"
                )
            console.print(f"running code from {directory}: {', '.join(foreign)}")
        else:
            check_sizes(copy)
        twin, class_name = copy.with_name(f"{copy.name}-native"), ""
        with console.status("loading the model without this package"):
            verify_loads_without_package(copy)
            if native:  # before anything is uploaded, since a model may have no native twin
                class_name = write_native_twin(copy, twin, trust_remote_code)
        console.print("The model loads without this package.")
        uploaded = {path.relative_to(copy).parts[0] for path in files_to_upload(copy)}
        if skipped := sorted(path.name for path in directory.iterdir() if path.name not in uploaded):
            more = f" and {len(skipped) - 20} more" if skipped[20:] else ""
            console.print(f"not uploaded: {', '.join(skipped[:20])}{more}")
        confirmed = confirm_changes(copy, "model, code and card", MAIN_REVISION)
        twin_confirmed = confirm_changes(twin, "native twin", NATIVE_REVISION) if native else None
        console.print(push_directory(copy, name, private=private, timeout=timeout, confirmed=confirmed))
        if native:
            message = f"Upload {class_name} twin"
            url = push_directory(
                twin, name, revision=NATIVE_REVISION, message=message, timeout=timeout, confirmed=twin_confirmed
            )
            console.print(url)
