"""`scratch-gpt push`: publish a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Trust, app


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A model directory, as a training run writes it.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="'user/model' on the Hub.")],
    native: Annotated[
        bool,
        typer.Option(
            "--native/--no-native", help="Fail if transformers has no class for the model, which then needs our code."
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
    """Check that a model loads without this package, list the files to upload, and publish them.

    A model for which transformers has a class, such as Llama or BERT, is published in that class as the main revision,
    which needs no remote code, and with this package's code as revision "scratch_gpt". Any other model is published
    with its code as the main revision. Each revision is one commit.

    Example:

    ```
    scratch-gpt push runs/gpt user/stories --yes
    ```
    """
    from rich.table import Table

    from ..auto import register
    from ..errors import ScratchError
    from ..hub.push import Revision, check_sizes, revisions_to_push, verify_loads_without_package
    from ..hub.staging import files_to_upload, foreign_code, name_in_card, staged
    from ..hub.upload import Changes, check_repository_name, plan_push, push_directory
    from ..terminal import SafeConsole

    register()
    console = SafeConsole()

    def confirm_changes(revision: Revision) -> Changes:
        """List the files to upload and to delete, and ask for confirmation."""
        changes = plan_push(revision.folder, name, revision=revision.name, timeout=timeout)
        table = Table("file", "bytes", title=f"{revision.content} to revision {revision.name} of {name}")
        for path in files_to_upload(revision.folder):
            table.add_row(str(path.relative_to(revision.folder)), f"{path.stat().st_size:,}")
        console.print(table)
        if changes.deletions:
            title = f"to be deleted from revision {revision.name} of {name}: left over from an earlier push"
            deleted = Table("file", title=title)
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
        with console.status("loading the model without this package"):
            verify_loads_without_package(copy)
        console.print("The model loads without this package.")
        with console.status("converting the model to transformers' own class"):
            revisions, no_native_class = revisions_to_push(copy, trust_remote_code)
        if no_native_class:
            if native:
                raise no_native_class
            console.print(f"{no_native_class}. Its code is published with it.")
        uploaded = {path.relative_to(copy).parts[0] for path in files_to_upload(copy)}
        if skipped := sorted(path.name for path in directory.iterdir() if path.name not in uploaded):
            more = f" and {len(skipped) - 20} more" if skipped[20:] else ""
            console.print(f"not uploaded: {', '.join(skipped[:20])}{more}")
        for revision in revisions:
            name_in_card(revision.folder, name)
        confirmed = [confirm_changes(revision) for revision in revisions]
        # The main revision last: its card refers to the other one.
        for revision, changes in reversed(list(zip(revisions, confirmed, strict=True))):
            options: dict[str, Any] = {"revision": revision.name, "message": f"Upload {revision.content}"}
            options |= {"private": private, "timeout": timeout, "confirmed": changes}
            console.print(push_directory(revision.folder, name, **options))
    for revision in revisions:
        console.print(f"revision {revision.name} needs {revision.needs}")
