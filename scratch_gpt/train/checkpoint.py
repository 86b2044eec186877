"""Checkpoints: model directories that anyone can load, with what a resume needs beside the weights.

`DIR/checkpoints/step-00000500/` holds a model directory plus `training_state.safetensors` (optimizer and random
states as plain tensors) and `training_state.json` (counters and settings). Nothing is pickled. A checkpoint is written
under another name, synced and renamed, so that one with its own name is whole. Optimizer states are gathered and named
by parameter, whatever the number of processes and the sharding.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel

from ..errors import ScratchError
from .averaging import MovingAverage

TENSORS, NUMBERS = "training_state.safetensors", "training_state.json"
Optimizers = list[torch.optim.Optimizer]


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(p for p in (output_dir / "checkpoints").glob("step-*") if (p / NUMBERS).exists())


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The folder to resume from; None for a run that was stopped before its first checkpoint.

    Raises:
        ScratchError: there is no run.
    """
    folders = checkpoint_folders(output_dir)
    if not folders and not (output_dir / "run.yaml").exists():
        raise ScratchError(f"nothing to resume: {output_dir} holds no run; start without --resume")
    return folders[-1] if folders else None


def save_checkpoint(
    output_dir: Path,
    step: int,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizers: Optimizers,
    numbers: dict[str, Any],
    write_model: Callable[[Path, dict[str, torch.Tensor]], None],
    keep_last: int,
    average: MovingAverage | None = None,
) -> Path:
    """Write the state of a run at `step`; every process must call it.

    Args:
        model: the prepared model; its full weights are gathered to the first process.
        numbers: counters of loop and task, plain enough for JSON.
        write_model: writes a model directory with the weights it is given.
        keep_last: how many checkpoints are left standing.
        average: of the weights, kept beside them.
    """
    weights = accelerator.get_state_dict(model)
    averages: dict[str, torch.Tensor] = {}
    if average is not None:
        with average.in_place(model):
            averages = {name: tensor.clone() for name, tensor in accelerator.get_state_dict(model).items()}
    optimizer = _optimizer_state(model, optimizers)
    random_states = gather_object([_random_state(accelerator)])
    folder = output_dir / "checkpoints" / f"step-{step:08d}"
    if accelerator.is_main_process:
        beside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        write_model(beside, weights)
        tensors = {
            f"optimizer.{parameter}.{key}": tensor.contiguous()
            for parameter, state in optimizer["state"].items()
            for key, tensor in state.items()
        }
        tensors |= {f"average.{name}": tensor for name, tensor in averages.items()}
        for process, random_state in enumerate(random_states):
            generators = random_state.pop("generators")
            tensors |= {f"random.{process}.{i}": generator for i, generator in enumerate(generators)}
        save_file(tensors, beside / TENSORS)
        content = {"step": step, **numbers, "param_groups": optimizer["param_groups"], "random": random_states}
        (beside / NUMBERS).write_text(json.dumps(content, indent=1))
        publish(beside, folder)
        for old in checkpoint_folders(output_dir)[:-keep_last]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return folder


def load_training_state(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizers: Optimizers,
    average: MovingAverage | None = None,
) -> dict[str, Any]:
    """Put optimizers and random generators back as they stood; the weights are loaded with the model.

    Returns:
        The numbers that were given to `save_checkpoint`.
    """
    numbers = json.loads((folder / NUMBERS).read_text())
    with safe_open(folder / TENSORS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    state: dict[str, Any] = {"param_groups": numbers.pop("param_groups"), "state": {}}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            parameter, key = name.removeprefix("optimizer.").rsplit(".", 1)
            state["state"].setdefault(parameter, {})[key] = tensor
    set_optimizer_state_dict(model, _bare(optimizers), state, options=StateDictOptions(full_state_dict=True))
    if average is not None:
        with average.in_place(model):
            means = {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}
            set_model_state_dict(model, means, options=StateDictOptions(full_state_dict=True, strict=False))
    states, process = numbers.pop("random"), accelerator.process_index
    if len(states) == accelerator.num_processes:  # else dropout goes on from the seed: the processes are others
        mine = sorted((n for n in tensors if n.startswith(f"random.{process}.")), key=lambda n: int(n.split(".")[-1]))
        _set_random_state(states[process], [tensors[name] for name in mine])
    return numbers


def publish(beside: Path, folder: Path) -> None:
    """Make a finished folder visible under its name: sync every file, then rename."""
    for path in (*beside.rglob("*"), beside):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def publish_into(beside: Path, folder: Path) -> None:
    """Move the files of a finished model directory into one that holds other things too, weights last."""
    files = [path for path in beside.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path.name)):
        place = folder / path.relative_to(beside)
        place.parent.mkdir(exist_ok=True)
        os.replace(path, place)
    shutil.rmtree(beside)


def unwrapped(accelerator: Accelerator, model: torch.nn.Module) -> PreTrainedModel:
    """The model itself, under what distribution and mixed precision have put around it."""
    return accelerator.unwrap_model(model, keep_fp32_wrapper=True)


def _bare(optimizers: Optimizers) -> Optimizers:
    return [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]


def _optimizer_state(model: torch.nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Full optimizer state: "state", tensors by parameter name and key, and "param_groups", plain numbers."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_optimizer_state_dict(model, _bare(optimizers), options=options))


def _random_state(accelerator: Accelerator) -> dict[str, Any]:
    """Random states of this process: torch's as tensors, the others as numbers."""
    generators = [torch.get_rng_state()]
    if accelerator.device.type == "cuda":
        generators.append(torch.cuda.get_rng_state(accelerator.device))
    name, keys, *rest = np.random.get_state()
    return {"generators": generators, "python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}


def _set_random_state(state: dict[str, Any], generators: list[torch.Tensor]) -> None:
    torch.set_rng_state(generators[0])
    if len(generators) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators[1])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))
