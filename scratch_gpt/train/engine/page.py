"""The page of a finished run: its published model, which runs in the browser (see `scratch_gpt.see`)."""

from __future__ import annotations

from pathlib import Path

from ...errors import ScratchError
from ...see.page import build_page, write_page

PAGE = "see.html"


def write_run_page(folder: Path) -> str:
    """Write the page of the published model into the directory of its run.

    A model that a page can't show is no error of the run. The page has the name of the directory, without its path.

    Args:
        folder: directory of the run.

    Returns:
        One line: the file with its size, or why there is none.
    """
    path = folder / PAGE
    try:
        size = write_page(path, build_page([str(folder)], title=folder.resolve().name))
    except ScratchError as error:
        return f"no {path}: {' '.join(str(error).split())}"
    return f"{path}, {size / 1e6:.1f} MB: open it in a browser"
