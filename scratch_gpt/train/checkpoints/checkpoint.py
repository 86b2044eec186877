"""Checkpoints: model directories with the state that resuming a run needs.

`DIR/checkpoints/step-00000500/` is a model directory plus `training_state.safetensors` (optimizer and random states as
plain tensors), `training_state.json` (counters and settings) and `manifest.json` (sizes and checksums of all files).
Nothing is pickled. The training loop copies the state in memory; asynchronously, in a background thread, the copy is
written to a staging directory, synced and renamed, so that a checkpoint with its final name is complete. Optimizer
states are gathered and named by parameter, independently of the number of processes and of sharding.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel

from ...atomic_files import umask
from ...errors import ScratchError, TrainingError
from ...hub.adapter import FOLDER
from ...hub.model_directory import ToPublished
from ...terminal import SafeConsole
from ...untrusted import read_json
from ..optim.ema import MovingAverage
from .background_writer import in_memory
from .manifest import find_corruption, sync, sync_one, write_manifest
from .random_state import get_random_state, set_random_state

TENSORS, NUMBERS, PARTIAL = "training_state.safetensors", "training_state.json", ".partial"
MAX_NUMBERS = 64 << 20  # bytes; the random state of a process takes 20 KB
UNPUBLISHED = "unpublished."  # prefix of trained weights that are not in the model directory
NAME = re.compile(r"step-\d{8,}")
Optimizers = list[torch.optim.Optimizer]


@dataclass
class Snapshot:
    """The state of a run, copied in memory.

    Attributes:
        step: optimizer steps taken.
        weights: weights of the published model, by name.
        tensors: contents of `training_state.safetensors`.
        numbers: contents of `training_state.json`.
    """

    step: int
    weights: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]

    @property
    def unpublished(self) -> dict[str, torch.Tensor]:
        """The trained weights that are not in the model directory, by name."""
        return _unpublished(self.tensors)


def _unpublished(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Those of the tensors of a training state that are trained weights, by the names in the model."""
    return {n.removeprefix(UNPUBLISHED): t for n, t in tensors.items() if n.startswith(UNPUBLISHED)}


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


def take_snapshot(
    step: int,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizers: Optimizers,
    numbers: dict[str, Any],
    published: ToPublished,
    average: MovingAverage | None = None,
) -> Snapshot:
    """Copy the state of a run in memory; every process must call it.

    Args:
        step: optimizer steps taken.
        accelerator: processes and device.
        model: the prepared model; its full weights are gathered on the first process.
        optimizers: their states are gathered too.
        numbers: counters of the loop and the task, which JSON can hold.
        published: returns the weights of the model directory from the trained ones; the remaining weights are saved in
            `training_state.safetensors`.
        average: moving average of the weights, saved there too.

    Returns:
        The state; on processes other than the first, an empty one.
    """
    trained = accelerator.get_state_dict(model)
    weights = in_memory(published(trained))
    unpublished = {f"{UNPUBLISHED}{name}": weight for name, weight in trained.items() if name not in weights}
    unpublished = _without_tied(in_memory(unpublished))
    averages: dict[str, torch.Tensor] = {}
    if average is not None:
        with average.swapped_in(model):
            averages = _without_tied(in_memory(accelerator.get_state_dict(model)))
    optimizer = _optimizer_state(model, optimizers)
    random_states = gather_object([get_random_state(accelerator.device)])
    if not accelerator.is_main_process:
        return Snapshot(step, {}, {}, {})
    moments = optimizer["state"].items()
    tensors = in_memory({f"optimizer.{name}.{key}": t for name, state in moments for key, t in state.items()})
    tensors |= unpublished
    tensors |= {f"average.{name}": tensor for name, tensor in averages.items()}
    for process, (_, generators) in enumerate(random_states):
        tensors |= {f"random.{process}.{i}": generator for i, generator in enumerate(generators)}
    states = [state for state, _ in random_states]
    numbers = {"step": step, **numbers, "param_groups": optimizer["param_groups"], "random": states}
    return Snapshot(step, weights, tensors, copy.deepcopy(numbers))


def write_checkpoint(
    output_dir: Path,
    snapshot: Snapshot,
    write_model: Callable[[Path, dict[str, torch.Tensor]], None],
    keep_last: int,
) -> None:
    """Write a snapshot to its directory, and remove older checkpoints.

    Args:
        output_dir: directory of the run.
        snapshot: state to write.
        write_model: writes a model directory with the given weights.
        keep_last: number of checkpoints to keep.

    Raises:
        TrainingError: writing failed, such as on a full disk; earlier checkpoints are unchanged.
    """
    folder = output_dir / "checkpoints" / f"step-{snapshot.step:08d}"
    with _staging_dir(output_dir, folder, f"checkpoint {folder.name}") as staging_dir:
        write_model(staging_dir, snapshot.weights)
        save_file({name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}, staging_dir / TENSORS)
        (staging_dir / NUMBERS).write_text(json.dumps(snapshot.numbers, indent=1), encoding="utf-8")
        write_manifest(staging_dir)
        publish(staging_dir, folder)
        for old in checkpoint_folders(output_dir)[:-keep_last]:
            shutil.rmtree(old)


def write_best(
    output_dir: Path,
    weights: dict[str, torch.Tensor],
    card: str,
    write_model: Callable[[Path, dict[str, torch.Tensor]], None],
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
def _staging_dir(output_dir: Path, folder: Path, what: str) -> Iterator[Path]:
    """Context with an empty directory next to `folder`; if writing fails, it is removed.

    Args:
        output_dir: directory of the run.
        folder: final directory.
        what: description of the contents, for errors.

    Raises:
        TrainingError: writing failed, such as on a full disk.
    """
    staging_dir = None
    try:
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


def load_training_state(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizers: Optimizers,
    average: MovingAverage | None = None,
) -> dict[str, Any]:
    """Restore optimizers, random generators, the moving average and the weights that are not in the model directory;
    the weights of the model directory are loaded with the model.

    Args:
        folder: directory of the checkpoint.
        accelerator: processes and device.
        model: the prepared model.
        optimizers: over its parameters.
        average: moving average of the weights.

    Returns:
        The `numbers` that `take_snapshot` was called with.
    """
    numbers = read_json(folder / NUMBERS, MAX_NUMBERS)
    with safe_open(folder / TENSORS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    state: dict[str, Any] = {"param_groups": numbers.pop("param_groups"), "state": {}}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            parameter, key = name.removeprefix("optimizer.").rsplit(".", 1)
            state["state"].setdefault(parameter, {})[key] = tensor
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, _unwrapped_optimizers(optimizers), state, options=options)
    if unpublished := _unpublished(tensors):
        set_model_state_dict(model, unpublished, options=StateDictOptions(full_state_dict=True, strict=False))
    if average is not None:
        with average.swapped_in(model):
            means = {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}
            set_model_state_dict(model, means, options=StateDictOptions(full_state_dict=True, strict=False))
    states, process = numbers.pop("random"), accelerator.process_index
    if len(states) == accelerator.num_processes:  # else the generators keep their seed
        mine = sorted((n for n in tensors if n.startswith(f"random.{process}.")), key=lambda n: int(n.split(".")[-1]))
        set_random_state(states[process], [tensors[name] for name in mine], accelerator.device)
    return numbers


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


def unwrapped(accelerator: Accelerator, model: torch.nn.Module) -> PreTrainedModel:
    """The model without the wrappers of distributed training; that of mixed precision is kept."""
    return accelerator.unwrap_model(model, keep_fp32_wrapper=True)


def _unwrapped_optimizers(optimizers: Optimizers) -> Optimizers:
    return [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]


def _without_tied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keep tied weights under the first of their names only, since safetensors refuses shared tensors."""
    first: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def _optimizer_state(model: torch.nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """The full optimizer state: "state" (tensors by parameter name and key) and "param_groups" (plain numbers)."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_optimizer_state_dict(model, _unwrapped_optimizers(optimizers), options=options))
