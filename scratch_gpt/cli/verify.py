"""`scratch-gpt verify`: check the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Trust, app


@app.command()
def verify(
    run: Annotated[
        Path, typer.Argument(metavar="DIR", help="Output directory of a training run, with its checkpoints.")
    ],
    trust_remote_code: Trust = False,
) -> None:
    """Check that a run's checkpoints are complete, load, reproduce the recorded metrics, and resume exactly.

    Nothing is written to the directory. The exit code is 1 if a check fails.

    Example:

    ```
    scratch-gpt verify runs/gpt
    ```
    """
    from rich.text import Text
    from transformers.utils import logging

    from ..auto import register
    from ..terminal import SafeConsole
    from ..train.verify_run import verify_run

    register()
    logging.disable_progress_bar()
    console, good = SafeConsole(), True
    for finding in verify_run(run, trust_remote_code):
        mark = Text("✓", style="green") if finding.good else Text("✗", style="bold red")
        console.print(mark, f"{finding.what}: {finding.found}")
        good = good and finding.good
    if not good:
        raise typer.Exit(1)
