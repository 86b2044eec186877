"""Checkpoints: model directories with the state that resuming a run needs.

`DIR/checkpoints/step-00000500/` is a model directory plus `training_state.safetensors` (optimizer and random states as
plain tensors), `training_state.json` (counters and settings) and `manifest.json` (sizes and checksums of all files).
Nothing is pickled. All is written to a staging directory, synced and renamed, so that a checkpoint with its final name
is complete: by a background thread, from a copy in memory or, if weights are sharded, by all processes, each of which
writes a part of the tensors into files of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from ...atomic_files import umask
from ...errors import ScratchError, TrainingError
from ...hub.adapter import FOLDER
from ...hub.tensor_files import write_tensors
from ...terminal import SafeConsole
from .manifest import find_corruption, sync, sync_one, write_manifest
from .snapshot import NUMBERS, TENSORS, Snapshot

PARTIAL = ".partial"
NAME = re.compile(r"step-\d{8,}")
WriteModel = Callable[..., dict[str, str]]


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first: directories (not links) named `step-` and a number."""
    found = (output_dir / "checkpoints").glob("step-*")
    return sorted(path for path in found if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink())


def newest_checkpoint(output_dir: Path, state: PartialState | None = None) -> Path | None:
    """Return the newest checkpoint that is not corrupted; report those that are skipped, and why.

    Args:
        output_dir: directory of the run.
        state: the processes of the run, all of which must then call this. The first one reads the checkpoints and
            broadcasts its choice; the others only compare names and sizes. None: this process alone.

    Returns:
        The directory of the checkpoint, or None if the run was stopped before its first one.

    Raises:
        ScratchError: there is no run, all of its checkpoints are corrupted, or the processes see different files.
    """
    if state is None or state.num_processes == 1:
        return _newest_checkpoint(output_dir)
    answer: list[str | None] = [None, None]  # name of the directory, and error
    if state.is_main_process:
        try:
            found = _newest_checkpoint(output_dir)
            answer[0] = None if found is None else found.name
        except ScratchError as error:
            answer[1] = str(error)
    name, wrong = broadcast_object_list(answer)
    if wrong is not None:
        raise ScratchError(wrong)
    if name is None:
        return None
    folder = output_dir / "checkpoints" / name
    if not state.is_main_process and (wrong := find_corruption(folder, sizes_only=True)) is not None:
        raise ScratchError(f"process {state.process_index} does not see {folder} as the first process does: {wrong}")
    return folder


def _newest_checkpoint(output_dir: Path) -> Path | None:
    folders = checkpoint_folders(output_dir)
    if not folders and not (output_dir / "run.yaml").exists():
        raise ScratchError(f"nothing to resume: {output_dir} holds no run; start without --resume")
    for folder in reversed(folders):
        if (wrong := find_corruption(folder)) is None:
            return folder
        SafeConsole(stderr=True).print(f"checkpoint {folder.name} is skipped: {wrong}", style="bold red")
    if folders:
        raise ScratchError(
            f"nothing to resume: all checkpoints in {output_dir} are corrupted; start a new run in another directory"
        )
    return None


def write_checkpoint(output_dir: Path, snapshot: Snapshot, write_model: WriteModel, keep_last: int) -> None:
    """Write a snapshot to its directory, and remove older checkpoints.

    Args:
        output_dir: directory of the run.
        snapshot: state to write.
        write_model: writes a model directory with the given weights; returns checksums of files that it has written.
        keep_last: number of checkpoints to keep.

    Raises:
        TrainingError: writing failed, such as on a full disk; earlier checkpoints are unchanged.
    """
    folder = _folder_of(output_dir, snapshot)
    with _staging_dir(output_dir, folder, f"checkpoint {folder.name}") as staging_dir:
        checksums = _write_tensors(staging_dir, snapshot, write_model)
        _complete(staging_dir, folder, snapshot, checksums, keep_last)


def write_sharded_checkpoint(output_dir: Path, snapshot: Snapshot, write_model: WriteModel, keep_last: int) -> None:
    """The same for sharded weights; every process must call it. Each writes its files, the first one the others, and
    all return once the checkpoint is complete.

    Args:
        output_dir, snapshot, write_model, keep_last: as of `write_checkpoint`.

    Raises:
        TrainingError: writing failed on a process.
    """
    folder, first = _folder_of(output_dir, snapshot), snapshot.writers.process == 0
    with _staging_dir(output_dir, folder, f"checkpoint {folder.name}", first) as staging_dir:
        (name,) = broadcast_object_list([str(staging_dir)])
        checksums, wrong = {}, None
        try:
            checksums = _write_tensors(Path(name), snapshot, write_model)
        except (OSError, SafetensorError) as error:
            wrong = f"process {snapshot.writers.process}: {error}"
        parts = gather_object([(checksums, wrong)])
        if errors := [wrong for _, wrong in parts if wrong is not None]:
            raise OSError("; ".join(errors))
        if first:
            every = {name: checksum for part, _ in parts for name, checksum in part.items()}
            _complete(staging_dir, folder, snapshot, every, keep_last)
        broadcast_object_list([None])  # the others go on when the checkpoint is complete


def _folder_of(output_dir: Path, snapshot: Snapshot) -> Path:
    return output_dir / "checkpoints" / f"step-{snapshot.step:08d}"


def _write_tensors(staging_dir: Path, snapshot: Snapshot, write_model: WriteModel) -> dict[str, str]:
    """Write weights and state; return the checksums of the files that this process has written."""
    checksums = write_model(staging_dir, snapshot.weights)
    return checksums | write_tensors(staging_dir, TENSORS, snapshot.tensors, writers=snapshot.writers)


def _complete(
    staging_dir: Path, folder: Path, snapshot: Snapshot, checksums: Mapping[str, str], keep_last: int
) -> None:
    """Write numbers and manifest, give the checkpoint its name, and remove older ones."""
    (staging_dir / NUMBERS).write_text(json.dumps(snapshot.numbers, indent=1), encoding="utf-8")
    write_manifest(staging_dir, checksums)
    publish(staging_dir, folder)
    for old in checkpoint_folders(folder.parent.parent)[:-keep_last]:
        shutil.rmtree(old)


def write_best(
    output_dir: Path,
    weights: dict[str, torch.Tensor],
    card: str,
    write_model: WriteModel,
) -> None:
    """Write the best model into the run's directory, which is then a model directory.

    Args:
        output_dir: directory of the run.
        weights: weights of the published model, by name.
        card: the model card, in Markdown.
        write_model: writes a model directory with the given weights.

    Raises:
        TrainingError: writing failed, such as on a full disk.
    """
    with _staging_dir(output_dir, output_dir / "best", "the best model") as staging_dir:
        write_model(staging_dir, weights)
        (staging_dir / "README.md").write_text(card, encoding="utf-8")
        if not (staging_dir / "config.json").exists():  # the adapter is what is published, without the plot
            text = re.sub(r"!\[[^\]]*\]\(loss\.png\)\n+", "", card)
            (staging_dir / FOLDER / "README.md").write_text(text, encoding="utf-8")
        publish_into(staging_dir, output_dir)


@contextmanager
def _staging_dir(output_dir: Path, folder: Path, what: str, makes: bool = True) -> Iterator[Path]:
    """Context with an empty directory next to `folder`; if writing fails, it is removed.

    Args:
        output_dir: directory of the run.
        folder: final directory.
        what: description of the contents, for errors.
        makes: whether this process makes the directory; otherwise the path is `folder`, and nothing is removed.

    Raises:
        TrainingError: writing failed, such as on a full disk.
    """
    staging_dir = None
    try:
        if not makes:
            yield folder
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging_dir = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=PARTIAL, dir=folder.parent))
        staging_dir.chmod(0o777 & ~umask())  # mkdtemp gives access to the owner only
        yield staging_dir
    except Exception as error:
        if staging_dir is not None:
            shutil.rmtree(staging_dir, ignore_errors=True)
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        valid = [path.name for path in checkpoint_folders(output_dir) if find_corruption(path) is None]
        left = f"the newest valid checkpoint is {valid[-1]}" if valid else "there is no checkpoint yet"
        raise TrainingError(f"{what} can't be written: {error}; {left}: fix the cause, then --resume") from error


def remove_partial(output_dir: Path) -> None:
    """Remove staging directories that a killed process has left, and say so."""
    for path in (*output_dir.glob(f".*{PARTIAL}"), *(output_dir / "checkpoints").glob(f".*{PARTIAL}")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            SafeConsole().print(f"removed {path}, left by a killed run", soft_wrap=True)


def publish(staging_dir: Path, folder: Path) -> None:
    """Sync every file of a staging directory, then rename it to its final name. An existing directory is replaced only
    if it is corrupted: the same step of the same run is the same state."""
    _copy_file_mode(staging_dir)
    sync(staging_dir)
    if folder.exists():
        if find_corruption(folder) is None:
            shutil.rmtree(staging_dir)
            return
        shutil.rmtree(folder)
    staging_dir.rename(folder)
    sync_one(folder.parent)


def publish_into(staging_dir: Path, folder: Path) -> None:
    """Move the files of a staging directory into a directory that has other contents too, weights last."""
    _copy_file_mode(staging_dir)
    sync(staging_dir)
    files = [path for path in staging_dir.rglob("*") if path.is_file()]
    folders = {folder}
    for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path.name)):
        target = folder / path.relative_to(staging_dir)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
        folders.add(target.parent)
    for changed in sorted(folders, reverse=True):  # a directory before its parent
        sync_one(changed)
    shutil.rmtree(staging_dir)


def _copy_file_mode(folder: Path) -> None:
    """Give weights the mode of a config beside them: safetensors makes them readable by their owner only."""
    mode = next(folder.rglob("*config.json")).stat().st_mode
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)
