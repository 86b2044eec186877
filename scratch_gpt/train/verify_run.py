"""Prove on this machine that a run's checkpoints are whole, load, score what was recorded, and resume exactly."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from ..errors import ScratchError
from ..hub.loading import load_model
from .arguments.training import check_arguments
from .checkpoints.checkpoint import TENSORS, checkpoint_folders
from .checkpoints.manifest import damage
from .engine.parsing import arguments_from
from .engine.recipe import Recipe
from .engine.run import make_trainer
from .engine.run_directory import RECORD, check_run_directory, read_metrics, read_run
from .engine.trainer import Trainer
from .tasks import recipe_of

STEPS = 3  # that are taken at a stretch, and once more with a resume between
TOLERANCE = 1e-4  # of a validation loss: other processors round otherwise


class Finding(NamedTuple):
    """What was looked at, how it was found, and whether that is as it should be."""

    what: str
    found: str
    good: bool


def verify_run(folder: Path, trust_remote_code: bool = False) -> Iterator[Finding]:
    """Look at a run's directory, without writing into it; one finding after the other, as they come.

    Raises:
        ScratchError: it holds no run, or its data can't be had here.
    """
    folders = checkpoint_folders(folder)
    if not (folder / RECORD).is_file() or not folders:
        raise ScratchError(f"{folder} holds no run with checkpoints: name the output_dir of one")
    check_run_directory(folder)
    _options_of(folder, trust_remote_code)  # refuses early what can't be resumed
    whole = []
    for checkpoint in folders:
        wrong = damage(checkpoint)
        yield Finding(f"{checkpoint.name}: every byte", wrong or "as it was written", wrong is None)
        if wrong is None:
            whole.append(checkpoint)
    if not whole:
        return
    model = load_model(folder, trust_remote_code)
    yield Finding("the published model", f"loads, {model.num_parameters():,} parameters", True)
    yield _check_score(folder, whole[-1], trust_remote_code)
    yield _check_resume(folder, whole[0], trust_remote_code)


def _check_score(folder: Path, checkpoint: Path, trust: bool) -> Finding:
    """Whether a checkpoint has the validation loss that was recorded at its step."""
    with _trainer(folder, checkpoint, trust) as trainer:
        step = trainer.state.step
        recorded = [row["val_loss"] for row in read_metrics(folder) if row["step"] == step and "val_loss" in row]
        if not recorded:
            return Finding(f"{checkpoint.name}: validation loss", "none was recorded at this step", True)
        found = trainer.evaluate()["val_loss"]
    good = math.isclose(found, recorded[-1], rel_tol=TOLERANCE)
    return Finding(f"{checkpoint.name}: validation loss", f"{found:.6f}, recorded {recorded[-1]:.6f}", good)


def _check_resume(folder: Path, checkpoint: Path, trust: bool) -> Finding:
    """Whether a few steps, a save, a resume and a few more end where all these steps at a stretch end."""
    with _trainer(folder, checkpoint, trust) as straight:
        straight.advance(2 * STEPS)
        expected = _state_of(straight.save_now())
    with _trainer(folder, checkpoint, trust) as first:
        first.advance(STEPS)
        with _trainer(folder, first.save_now(), trust) as second:
            second.advance(STEPS)
            found = _state_of(second.save_now())
    differ = [name for name, tensor in expected.items() if name not in found or not torch.equal(found[name], tensor)]
    what = f"{checkpoint.name}: {STEPS} steps, a resume, {STEPS} steps"
    if differ:
        return Finding(what, f"{len(differ)} of {len(expected)} tensors differ, such as {differ[0]}", False)
    return Finding(what, f"bit-equal with {2 * STEPS} steps at a stretch ({len(expected)} tensors)", True)


def _state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors") | load_file(checkpoint / TENSORS)


def _options_of(folder: Path, trust: bool) -> tuple[Recipe, tuple[Any, ...]]:
    """The recipe of a run, and its arguments as a resume on one process has them.

    Args:
        folder: of the run.
        trust: whether code that the run brings may run; what its record says of that counts for nothing.

    Raises:
        ScratchError: no run can have these arguments.
    """
    record = read_run(folder)
    recipe = recipe_of(record.facts.get("task"))
    accumulation = record.arguments.get("gradient_accumulation_steps")
    if not isinstance(accumulation, int):
        raise ScratchError(f"{folder / RECORD}: gradient_accumulation_steps is {accumulation!r}, want an integer")
    values = {"output_dir": str(folder), "resume": True, "trust_remote_code": trust}
    values["gradient_accumulation_steps"] = accumulation * record.processes
    settings = arguments_from(recipe.arguments, values)
    check_arguments(*settings)
    return recipe, settings


@contextmanager
def _trainer(folder: Path, checkpoint: Path, trust: bool) -> Iterator[Trainer]:
    """The run as it was at a checkpoint, on one process, not compiled; all that it writes is deleted at the end."""
    recipe, (data, model_args, args) = _options_of(folder, trust)
    AcceleratorState._reset_state(True)  # several jobs run in this process
    GradientState._reset_state()
    job = recipe.prepare(data, model_args, replace(args, tracker=None, compile="off"), checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        yield make_trainer(job, recipe, Path(temporary), checkpoint)
