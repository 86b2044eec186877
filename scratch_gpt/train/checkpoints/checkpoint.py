"""Checkpoints: model directories that anyone can load, with what a resume needs beside the weights.

`DIR/checkpoints/step-00000500/` holds a model directory plus `training_state.safetensors` (optimizer and random
states as plain tensors), `training_state.json` (counters and settings) and `manifest.json` (sizes and checksums of all
files). Nothing is pickled. The loop copies the state in memory; behind it, the copy is written under another name,
synced and renamed, so that a checkpoint with its own name is whole. Optimizer states are gathered and named by
parameter, whatever the number of processes and the sharding.
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
from ...hub.model_directory import ToPublished
from ...terminal import SafeConsole
from ...untrusted import read_json
from ..optim.ema import MovingAverage
from .background_writer import in_memory
from .manifest import damage, sync, sync_one, write_manifest
from .random_state import get_random_state, set_random_state

TENSORS, NUMBERS, PARTIAL = "training_state.safetensors", "training_state.json", ".partial"
MAX_NUMBERS = 64 << 20  # bytes; the random state of a process takes 20 KB
NAME = re.compile(r"step-\d{8,}")
Optimizers = list[torch.optim.Optimizer]


@dataclass
class Snapshot:
    """The state of a run, copied in memory."""

    step: int
    weights: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first: folders, and no links to such, that are named `step-` and a number."""
    found = (output_dir / "checkpoints").glob("step-*")
    return sorted(path for path in found if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink())


def newest_checkpoint(output_dir: Path, state: PartialState | None = None) -> Path | None:
    """The newest checkpoint whose every byte is as it was written; says which ones were passed over, and why. None for
    a run that was stopped before its first checkpoint.

    Args:
        state: the processes of the run, each of which must then call this. The first one reads the checkpoints and
            tells the others, which look at no more than names and sizes. Without it, this process decides for itself.

    Raises:
        ScratchError: there is no run, or no checkpoint of it is whole, or a process does not see the same one.
    """
    if state is None or state.num_processes == 1:
        return _newest_checkpoint(output_dir)
    answer: list[str | None] = [None, None]  # the folder's name, and what is wrong
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
    if not state.is_main_process and (wrong := damage(folder, sizes_only=True)) is not None:
        raise ScratchError(f"process {state.process_index} does not see {folder} as the first process does: {wrong}")
    return folder


def _newest_checkpoint(output_dir: Path) -> Path | None:
    folders = checkpoint_folders(output_dir)
    if not folders and not (output_dir / "run.yaml").exists():
        raise ScratchError(f"nothing to resume: {output_dir} holds no run; start without --resume")
    for folder in reversed(folders):
        if (wrong := damage(folder)) is None:
            return folder
        SafeConsole(stderr=True).print(f"checkpoint {folder.name} is passed over: {wrong}", style="bold red")
    if folders:
        raise ScratchError(f"nothing to resume: no checkpoint in {output_dir} is whole; start anew in another folder")
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
    """Copy the state of a run at `step`; every process must call it.

    Args:
        model: the prepared model; its full weights are gathered to the first process.
        numbers: counters of loop and task, plain enough for JSON.
        published: gives the weights that the model directory holds; the others stand beside them.
        average: of the weights, kept beside them.
    """
    trained = accelerator.get_state_dict(model)
    weights = in_memory(published(trained))
    apart = _once(in_memory({f"apart.{name}": weight for name, weight in trained.items() if name not in weights}))
    averages: dict[str, torch.Tensor] = {}
    if average is not None:
        with average.swapped_in(model):
            averages = _once(in_memory(accelerator.get_state_dict(model)))
    optimizer = _optimizer_state(model, optimizers)
    random_states = gather_object([get_random_state(accelerator.device)])
    if not accelerator.is_main_process:
        return Snapshot(step, {}, {}, {})
    moments = optimizer["state"].items()
    tensors = in_memory({f"optimizer.{name}.{key}": t for name, state in moments for key, t in state.items()})
    tensors |= apart
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
    """Write a snapshot to its folder, and remove older checkpoints.

    Args:
        write_model: writes a model directory with the weights it is given.
        keep_last: how many checkpoints are left standing.

    Raises:
        TrainingError: the disk is full, or refuses; the checkpoints before are left as they are.
    """
    folder = output_dir / "checkpoints" / f"step-{snapshot.step:08d}"
    with _beside(output_dir, folder, f"checkpoint {folder.name}") as beside:
        write_model(beside, snapshot.weights)
        save_file({name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}, beside / TENSORS)
        (beside / NUMBERS).write_text(json.dumps(snapshot.numbers, indent=1), encoding="utf-8")
        write_manifest(beside)
        publish(beside, folder)
        for old in checkpoint_folders(output_dir)[:-keep_last]:
            shutil.rmtree(old)


def write_best(
    output_dir: Path,
    weights: dict[str, torch.Tensor],
    card: str,
    write_model: Callable[[Path, dict[str, torch.Tensor]], None],
) -> None:
    """Make the run's directory a model directory with `weights`.

    Raises:
        TrainingError: the disk is full, or refuses.
    """
    with _beside(output_dir, output_dir / "best", "the best model") as beside:
        write_model(beside, weights)
        (beside / "README.md").write_text(card, encoding="utf-8")
        publish_into(beside, output_dir)


@contextmanager
def _beside(output_dir: Path, folder: Path, what: str) -> Iterator[Path]:
    """An empty folder beside `folder`. Where the disk refuses, nothing is left of it and the error says what to do."""
    beside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=PARTIAL, dir=folder.parent))
        beside.chmod(0o777 & ~umask())  # mkdtemp lets only its owner in
        yield beside
    except Exception as error:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        whole = [path.name for path in checkpoint_folders(output_dir) if damage(path) is None]
        left = f"the newest whole checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
        raise TrainingError(f"{what} can't be written: {error}; {left}: mend that, then --resume") from error


def remove_partial(output_dir: Path) -> None:
    """Remove what a kill in the middle of a write has left."""
    for path in (*output_dir.glob(f".*{PARTIAL}"), *(output_dir / "checkpoints").glob(f".*{PARTIAL}")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def load_training_state(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizers: Optimizers,
    average: MovingAverage | None = None,
) -> dict[str, Any]:
    """Put optimizers, random generators, and weights that no model directory holds, back as they stood; the others are
    loaded with the model.

    Returns:
        The numbers that were given to `save_checkpoint`.
    """
    numbers = read_json(folder / NUMBERS, MAX_NUMBERS)
    with safe_open(folder / TENSORS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    state: dict[str, Any] = {"param_groups": numbers.pop("param_groups"), "state": {}}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            parameter, key = name.removeprefix("optimizer.").rsplit(".", 1)
            state["state"].setdefault(parameter, {})[key] = tensor
    set_optimizer_state_dict(model, _bare(optimizers), state, options=StateDictOptions(full_state_dict=True))
    apart = {name.removeprefix("apart."): t for name, t in tensors.items() if name.startswith("apart.")}
    if apart:
        set_model_state_dict(model, apart, options=StateDictOptions(full_state_dict=True, strict=False))
    if average is not None:
        with average.swapped_in(model):
            means = {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}
            set_model_state_dict(model, means, options=StateDictOptions(full_state_dict=True, strict=False))
    states, process = numbers.pop("random"), accelerator.process_index
    if len(states) == accelerator.num_processes:  # else dropout goes on from the seed: the processes are others
        mine = sorted((n for n in tensors if n.startswith(f"random.{process}.")), key=lambda n: int(n.split(".")[-1]))
        set_random_state(states[process], [tensors[name] for name in mine], accelerator.device)
    return numbers


def publish(beside: Path, folder: Path) -> None:
    """Make a finished folder visible under its name: sync every file, then rename. One that stands there already is
    replaced only where it is damaged: the same step of the same run is the same state."""
    _let_others_read(beside)
    sync(beside)
    if folder.exists():
        if damage(folder) is None:
            shutil.rmtree(beside)
            return
        shutil.rmtree(folder)
    beside.rename(folder)
    sync_one(folder.parent)


def publish_into(beside: Path, folder: Path) -> None:
    """Move the files of a finished model directory into one that holds other things too, weights last."""
    _let_others_read(beside)
    sync(beside)
    files = [path for path in beside.rglob("*") if path.is_file()]
    folders = {folder}
    for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path.name)):
        place = folder / path.relative_to(beside)
        place.parent.mkdir(exist_ok=True)
        os.replace(path, place)
        folders.add(place.parent)
    for changed in sorted(folders, reverse=True):  # what is in a folder before the folder's own name
        sync_one(changed)
    shutil.rmtree(beside)


def _let_others_read(folder: Path) -> None:
    """Give weights the mode of the other files: safetensors writes them for their owner alone."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def unwrapped(accelerator: Accelerator, model: torch.nn.Module) -> PreTrainedModel:
    """The model itself, under what distribution and mixed precision have put around it."""
    return accelerator.unwrap_model(model, keep_fp32_wrapper=True)


def _bare(optimizers: Optimizers) -> Optimizers:
    return [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]


def _once(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied weights under the first of their names only: safetensors holds no tensor twice."""
    first: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def _optimizer_state(model: torch.nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Full optimizer state: "state", tensors by parameter name and key, and "param_groups", plain numbers."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_optimizer_state_dict(model, _bare(optimizers), options=options))
