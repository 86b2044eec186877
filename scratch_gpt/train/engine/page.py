"""The page of a finished run: its published model, which runs in the browser (see `scratch_gpt.see`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import ScratchError
from ...hub.staging import PAGE
from ...see.page import build_page, write_page


def describe_old_page(folder: Path) -> str | None:
    """A line about a page that the directory of a run has from before, if the run ended without `--page`; else None."""
    path = folder / PAGE
    return (
        f"{path} is from before this run: its weights may be others (--page writes it again)" if path.exists() else None
    )


def write_run_page(folder: Path, title: str, film: bool, report: Callable[[str], object]) -> None:
    """Write the page of the published model into the directory of its run.

    A model, or a film, that a page can't show is no error of the run.

    Args:
        folder: directory of the run.
        title: name of the model.
        film: whether the run has a film, which the page then shows.
        report: called with a line about the file and its size, and one about what it lacks.
    """
    path, names = folder / PAGE, [str(folder)]
    try:
        try:
            page = build_page(names, title=title, film=str(folder) if film else None, report=report)
        except ScratchError as error:
            if not film:
                raise
            page = build_page(names, title=title)
            report(f"{path} has no film: {' '.join(str(error).split())}")
        size = write_page(path, page)
    except ScratchError as error:
        report(f"no {path}: {' '.join(str(error).split())}")
    else:
        report(f"{path}, {size / 1e6:.1f} MB: open it in a browser")
