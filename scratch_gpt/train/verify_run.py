"""Verify that the checkpoints of a run are uncorrupted, load, reproduce the recorded loss, and resume exactly."""

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
from transformers.utils import CONFIG_NAME

from ..errors import ScratchError
from ..hub.adapted_model import load_adapted
from ..hub.adapter import FOLDER, is_of_adapter
from ..hub.loading import load_model
from ..hub.tensor_files import load_tensors
from .arguments.training import check_arguments
from .checkpoints.checkpoint import checkpoint_folders
from .checkpoints.manifest import find_corruption
from .checkpoints.snapshot import TENSORS
from .engine.parsing import arguments_from
from .engine.recipe import Recipe
from .engine.run import make_trainer, resolve_defaults
from .engine.run_directory import RECORD, check_run_directory, read_metrics, read_run
from .engine.trainer import Trainer
from .tasks import recipe_of

STEPS = 3  # before and after the resume that is compared with uninterrupted steps
TOLERANCE = 1e-4  # relative, of a validation loss: CPUs differ in rounding


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        what: what was checked.
        found: the result, in words.
        good: whether the check passed.
    """

    what: str
    found: str
    good: bool


def verify_run(folder: Path, trust_remote_code: bool = False) -> Iterator[Finding]:
    """Verify the directory of a run without writing into it; yields each finding as soon as it is known.

    Args:
        folder: directory of the run.
        trust_remote_code: whether to run the code that the run's models contain.

    Raises:
        ScratchError: there is no run with checkpoints, or its data is not available here.
    """
    folders = checkpoint_folders(folder)
    if not (folder / RECORD).is_file() or not folders:
        raise ScratchError(f"{folder} contains no run with checkpoints: give the output_dir of one")
    check_run_directory(folder)
    _load_arguments(folder, trust_remote_code)  # fails early if the run can't be resumed
    valid = []
    for checkpoint in folders:
        corruption = find_corruption(checkpoint)
        yield Finding(f"{checkpoint.name}: files", corruption or "checksums are valid", corruption is None)
        if corruption is None:
            valid.append(checkpoint)
    if not valid:
        return
    yield _check_published(folder, trust_remote_code)
    yield _check_loss(folder, valid[-1], trust_remote_code)
    yield _check_resume(folder, valid[0], trust_remote_code)


def _check_published(folder: Path, trust: bool) -> Finding:
    """Check that the published model loads or, if only an adapter is published, that it loads on its base."""
    if not (folder / CONFIG_NAME).exists() and (folder / FOLDER).is_dir():
        adapted = load_adapted(folder / FOLDER, trust)
        trained = sum(weight.numel() for name, weight in adapted.named_parameters() if is_of_adapter(name))
        return Finding("the published adapter", f"loads on its base, {trained:,} parameters", True)
    model = load_model(folder, trust, dtype="auto")
    dtype = str(model.dtype).removeprefix("torch.")
    return Finding("the published model", f"loads, {model.num_parameters():,} parameters in {dtype}", True)


def _check_loss(folder: Path, checkpoint: Path, trust: bool) -> Finding:
    """Check that a checkpoint has the validation loss that was recorded at its step."""
    with _trainer(folder, checkpoint, trust) as trainer:
        step = trainer.state.step
        recorded = [row["val_loss"] for row in read_metrics(folder) if row["step"] == step and "val_loss" in row]
        if not recorded:
            return Finding(f"{checkpoint.name}: validation loss", "none was recorded at this step", True)
        found = trainer.evaluate()["val_loss"]
    good = math.isclose(found, recorded[-1], rel_tol=TOLERANCE)
    return Finding(f"{checkpoint.name}: validation loss", f"{found:.6f}, recorded {recorded[-1]:.6f}", good)


def _check_resume(folder: Path, checkpoint: Path, trust: bool) -> Finding:
    """Check that steps with a save and a resume in between have the same result as uninterrupted steps."""
    with _trainer(folder, checkpoint, trust) as uninterrupted:
        uninterrupted.advance(2 * STEPS)
        expected = _state_of(uninterrupted.save_now())
    with _trainer(folder, checkpoint, trust) as first:
        first.advance(STEPS)
        with _trainer(folder, first.save_now(), trust) as second:
            second.advance(STEPS)
            found = _state_of(second.save_now())
    differ = [name for name, tensor in expected.items() if name not in found or not torch.equal(found[name], tensor)]
    what = f"{checkpoint.name}: {STEPS} steps, a resume, {STEPS} steps"
    if differ:
        return Finding(what, f"{len(differ)} of {len(expected)} tensors differ, such as {differ[0]}", False)
    return Finding(what, f"bit-equal to {2 * STEPS} uninterrupted steps ({len(expected)} tensors)", True)


def _state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_tensors(checkpoint, "model") | load_tensors(checkpoint, TENSORS)


def _load_arguments(folder: Path, trust: bool) -> tuple[Recipe, tuple[Any, ...]]:
    """The recipe of a run, and the arguments that resume it on one process.

    Args:
        folder: directory of the run.
        trust: whether to run the code that the run's models contain; the value in its record is ignored.

    Raises:
        ScratchError: the recorded arguments are invalid.
    """
    record = read_run(folder)
    recipe = recipe_of(record.facts.get("task"))
    accumulation = record.arguments.get("gradient_accumulation_steps")
    if not isinstance(accumulation, int):
        raise ScratchError(f"{folder / RECORD}: gradient_accumulation_steps is {accumulation!r}, want an integer")
    values = {"output_dir": str(folder), "resume": True, "trust_remote_code": trust}
    values["gradient_accumulation_steps"] = accumulation * record.processes
    settings = arguments_from(recipe.arguments, values, launched=False)
    check_arguments(*settings)
    return recipe, settings


@contextmanager
def _trainer(folder: Path, checkpoint: Path, trust: bool) -> Iterator[Trainer]:
    """Context with a trainer that resumes a checkpoint, on one process, not compiled and without a film; its files are
    deleted."""
    recipe, (data, model_args, args) = _load_arguments(folder, trust)
    AcceleratorState._reset_state(True)  # several jobs run in this process
    GradientState._reset_state()
    job = recipe.prepare(data, model_args, replace(args, tracker=None, compile="off", film=False), checkpoint)
    job = resolve_defaults(job, model_args)
    with tempfile.TemporaryDirectory() as temporary:
        yield make_trainer(job, recipe, Path(temporary), checkpoint)
