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
    page: Annotated[
        bool,
        typer.Option(
            "--page/--no-page",
            help="Also publish the page of `scratch-gpt see`: as see.html beside the model, and as a static Space of "
            "the same name.",
        ),
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

    With `--page`, whoever has no Python can try the model in a browser: the card links the page. It is published before
    the model, and is as private as the model.

    Example:

    ```
    scratch-gpt push runs/gpt user/stories --yes
    scratch-gpt push runs/gpt user/stories --page
    ```
    """
    from rich.table import Table
    from transformers.utils import logging

    from ..auto import register
    from ..errors import ScratchError
    from ..hub.page import SPACE_FILES, add_page, check_space, push_space, write_page_section, write_space
    from ..hub.push import Revision, check_sizes, revisions_to_push, verify_loads_without_package
    from ..hub.staging import files_to_upload, foreign_code, name_in_card, staged
    from ..hub.upload import Changes, check_repository_name, full_repository_name, plan_push, push_directory
    from ..see.page import build_page
    from ..terminal import SafeConsole

    register()
    logging.disable_progress_bar()
    console = SafeConsole()

    def list_files(title: str, folder: Path, paths: list[Path]) -> None:
        table = Table("file", "bytes", title=title)
        for path in paths:
            table.add_row(str(path.relative_to(folder)), f"{path.stat().st_size:,}")
        console.print(table)

    def confirm(question: str) -> None:
        if not yes:
            typer.confirm(question, abort=True)

    def confirm_changes(revision: Revision) -> Changes:
        """List the files to upload and to delete, and ask for confirmation."""
        changes = plan_push(revision.folder, name, revision=revision.name, timeout=timeout)
        title = f"{revision.content} to revision {revision.name} of {name}"
        list_files(title, revision.folder, files_to_upload(revision.folder))
        if changes.deletions:
            title = f"to be deleted from revision {revision.name} of {name}: left over from an earlier push"
            deleted = Table("file", title=title)
            for stale in changes.deletions:
                deleted.add_row(stale)
            console.print(deleted)
        confirm("Upload and delete these files?" if changes.deletions else "Upload these files?")
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
        html = ""
        if page:
            name = full_repository_name(name, timeout)
            check_space(name, private, timeout)
            with console.status("building the page"):
                html = build_page([str(copy)], trust_remote_code=trust_remote_code, title=name)
        with console.status("loading the model without this package"):
            verify_loads_without_package(copy)
        console.print("The model loads without this package.")
        with console.status("converting the model to transformers' own class"):
            revisions, no_native_class = revisions_to_push(copy, trust_remote_code)
        if no_native_class:
            if native:
                raise no_native_class
            console.print(f"{no_native_class}. Its code is published with it.")
        for revision in revisions:
            name_in_card(revision.folder, name, native=len(revisions) > 1)
            if not page:
                write_page_section(revision.folder)
            elif not add_page(revision.folder, html, name, revision.name):
                console.print(f"{directory} has no README.md, so no card of revision {revision.name} links the page")
        uploaded = {path.relative_to(copy).parts[0] for path in files_to_upload(copy)}
        if skipped := sorted(path.name for path in directory.iterdir() if path.name not in uploaded):
            more = f" and {len(skipped) - 20} more" if skipped[20:] else ""
            console.print(f"not uploaded: {', '.join(skipped[:20])}{more}")
        space = copy.with_name(f"{copy.name}-space")
        if page:
            write_space(space, html, name)
            list_files(f"page to Space {name}", space, [space / file for file in SPACE_FILES])
            confirm("Upload these files?")
        confirmed = [confirm_changes(revision) for revision in revisions]
        if page:  # first, as the cards link it
            console.print(push_space(space, name, private, timeout))
        # The main revision last: its card refers to the other one.
        for revision, changes in reversed(list(zip(revisions, confirmed, strict=True))):
            options: dict[str, Any] = {"revision": revision.name, "message": f"Upload {revision.content}"}
            options |= {"private": private, "timeout": timeout, "confirmed": changes}
            console.print(push_directory(revision.folder, name, **options))
    for revision in revisions:
        console.print(f"revision {revision.name} needs {revision.needs}")
