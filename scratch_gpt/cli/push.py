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

    A model for which transformers has a class (GPT-2, Llama, NanoChat, Marian, BERT) is published in that class as the
    main revision, which needs no remote code, and with this package's code as revision "scratch_gpt". Any other model
    is published with its code as the main revision. Each revision is one commit.

    Example:

    ```
    scratch-gpt push runs/gpt user/stories --yes
    ```
    """
    from rich.table import Table

    from ..auto import register
    from ..errors import ScratchError
    from ..hub.card_usage import CODE_REVISION
    from ..hub.native.convert import NoNativeClassError
    from ..hub.push import check_sizes, verify_loads_without_package, write_native_twin
    from ..hub.staging import files_to_upload, foreign_code, name_in_card, staged
    from ..hub.upload import MAIN_REVISION, Changes, check_repository_name, plan_push, push_directory
    from ..models.compatibility import OLDEST
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
        with console.status("loading the model without this package"):
            verify_loads_without_package(copy)
        console.print("The model loads without this package.")
        twin, native_class = copy.with_name(f"{copy.name}-native"), None
        try:  # before anything is uploaded
            with console.status("converting the model to transformers' own class"):
                native_class = write_native_twin(copy, twin, trust_remote_code)
        except NoNativeClassError as error:
            if native:
                raise
            console.print(f"{error}. Its code is published with it.")
        uploaded = {path.relative_to(copy).parts[0] for path in files_to_upload(copy)}
        if skipped := sorted(path.name for path in directory.iterdir() if path.name not in uploaded):
            more = f" and {len(skipped) - 20} more" if skipped[20:] else ""
            console.print(f"not uploaded: {', '.join(skipped[:20])}{more}")
        revisions = [(copy, "model, code and card", MAIN_REVISION)]
        if native_class:
            class_name = native_class.model_class.__name__
            revisions = [(twin, f"{class_name} and card", MAIN_REVISION), (copy, "model, code and card", CODE_REVISION)]
        for folder, _, _ in revisions:
            name_in_card(folder, name)
        confirmed = [confirm_changes(*revision) for revision in revisions]
        for (folder, content, revision), changes in zip(revisions, confirmed, strict=True):
            options: dict[str, Any] = {"private": private, "timeout": timeout, "confirmed": changes}
            console.print(push_directory(folder, name, revision=revision, message=f"Upload {content}", **options))
    needs = f"transformers {'.'.join(map(str, OLDEST))} or later and trust_remote_code=True"
    if native_class:
        console.print(f"revision {MAIN_REVISION}: a {class_name}, needs transformers {native_class.since} or later")
        console.print(f"revision {CODE_REVISION}: needs {needs}, or the package scratch_gpt")
    else:
        console.print(f"revision {MAIN_REVISION}: needs {needs}, or the package scratch_gpt")
