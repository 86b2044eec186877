"""Which files of a run's directory someone else needs to load its model, and how large they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import ScratchError
from .adapter import FOLDER as ADAPTER
from .new_folder import complete_folder
from .staging import PAGE, files_to_upload, name_in_card

CHECKPOINTS = "checkpoints"
KILOBYTE, MEGABYTE = 1_000, 1_000_000


def shared_files(folder: Path) -> list[Path]:
    """List the files that loading the model needs, with its card and plot: those that a push uploads, without a page.
    Of a run that published an adapter alone, the files of the adapter.

    Args:
        folder: directory of a run, or a model directory.

    Raises:
        ScratchError: there is no model.
    """
    if is_adapter_only(folder):
        return sorted(path for path in (folder / ADAPTER).iterdir() if _is_own(path))
    return [path for path in files_to_upload(folder) if path != folder / PAGE]


def is_adapter_only(folder: Path) -> bool:
    """Whether a run published an adapter without a model."""
    return not (folder / "config.json").is_file() and (folder / ADAPTER).is_dir()


def _is_own(path: Path) -> bool:
    """Whether a path is a file, and not a link to one elsewhere."""
    return path.is_file() and not path.is_symlink()


def describe_files(folder: Path) -> list[str]:
    """Say which files of a run someone else needs, how large they are, and what the checkpoints are for.

    Args:
        folder: directory of a run, or a model directory.

    Returns:
        Lines of text; none if there is no model.
    """
    try:
        files = shared_files(folder)
    except ScratchError:
        return []
    code = [path for path in files if path.suffix == ".py"]
    named = [f"{path.relative_to(folder).as_posix()} ({size(path)})" for path in files if path not in code]
    if code:
        named.append(f"and {len(code)} Python files of the model's code ({size(*code)})")
    lines = [f"To share the model, send {len(files)} files of {folder}, {size(*files)}: {', '.join(named)}."]
    publish = "'scratch-gpt push' publishes them"
    if is_adapter_only(folder):
        publish = f"'hf upload USER/NAME {folder / ADAPTER}' publishes them"
    lines.append(f"'scratch-gpt info {folder} --copy_to FOLDER' copies them, {publish}.")
    checkpoints = folder / CHECKPOINTS
    kept = [] if checkpoints.is_symlink() else [path for path in checkpoints.rglob("*") if _is_own(path)]
    if kept:
        lines.append(f"{CHECKPOINTS} ({size(*kept)}) are only for --resume and 'scratch-gpt verify'.")
    return lines


def copy_shared_files(folder: Path, target: Path) -> int:
    """Copy the files that loading the model needs, and return their number. The examples of the card name the copy.

    Args:
        folder: directory of a run, or a model directory.
        target: a new or empty folder, which appears when it is complete.

    Raises:
        ScratchError: there is no model, or the target is not empty.
    """
    files = shared_files(folder)
    with complete_folder(target) as staging_dir:
        for path in files:
            copy = staging_dir / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        name_in_card(staging_dir, target.name, native=False)
    return len(files)


def size(*files: Path) -> str:
    """The size of files together, in kB or MB."""
    total = sum(path.stat().st_size for path in files)
    if total >= MEGABYTE:
        return f"{total / MEGABYTE:,.1f} MB"
    return f"{max(1, round(total / KILOBYTE)):,} kB"
