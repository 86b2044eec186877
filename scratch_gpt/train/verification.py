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
import yaml
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from ..errors import ScratchError
from ..hub.opening import load_model
from ..rl.rewards import is_function
from .checkpoint import TENSORS, checkpoint_folders
from .jobs import job_of_task
from .loop import Trainer
from .manifest import damage
from .parsing import parse_arguments
from .reporting import read_metrics

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
    if not (folder / "run.yaml").is_file() or not folders:
        raise ScratchError(f"{folder} holds no run with checkpoints: name the output_dir of one")
    reward = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))["arguments"].get("reward")
    if reward and is_function(reward) and not trust_remote_code:
        raise ScratchError(f"the run's reward {reward} is code: read it, then insist with --trust_remote_code")
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
    yield _check_score(folder, whole[-1])
    yield _check_resume(folder, whole[0])


def _check_score(folder: Path, checkpoint: Path) -> Finding:
    """Whether a checkpoint has the validation loss that was recorded at its step."""
    with _trainer(folder, checkpoint) as trainer:
        step = trainer.progress.step
        recorded = [row["val_loss"] for row in read_metrics(folder) if row["step"] == step and "val_loss" in row]
        if not recorded:
            return Finding(f"{checkpoint.name}: validation loss", "none was recorded at this step", True)
        found = trainer.evaluate()["val_loss"]
    good = math.isclose(found, recorded[-1], rel_tol=TOLERANCE)
    return Finding(f"{checkpoint.name}: validation loss", f"{found:.6f}, recorded {recorded[-1]:.6f}", good)


def _check_resume(folder: Path, checkpoint: Path) -> Finding:
    """Whether a few steps, a save, a resume and a few more end where all these steps at a stretch end."""
    with _trainer(folder, checkpoint) as straight:
        straight.advance(2 * STEPS)
        expected = _state_of(straight.save_now())
    with _trainer(folder, checkpoint) as first:
        first.advance(STEPS)
        with _trainer(folder, first.save_now()) as second:
            second.advance(STEPS)
            found = _state_of(second.save_now())
    differ = [name for name, tensor in expected.items() if name not in found or not torch.equal(found[name], tensor)]
    what = f"{checkpoint.name}: {STEPS} steps, a resume, {STEPS} steps"
    if differ:
        return Finding(what, f"{len(differ)} of {len(expected)} tensors differ, such as {differ[0]}", False)
    return Finding(what, f"bit-equal with {2 * STEPS} steps at a stretch ({len(expected)} tensors)", True)


def _state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors") | load_file(checkpoint / TENSORS)


@contextmanager
def _trainer(folder: Path, checkpoint: Path) -> Iterator[Trainer]:
    """The run as it stood at a checkpoint, on one process; whatever it writes is gone in the end."""
    record: dict[str, Any] = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    kind = job_of_task(record["facts"]["task"])
    processes = record["machine"]["processes"]
    accumulation = record["arguments"]["gradient_accumulation_steps"] * processes
    argv = ["--output_dir", str(folder), "--resume", "--gradient_accumulation_steps", str(accumulation)]
    data, model_args, args = parse_arguments(kind.TYPES, "", argv)
    AcceleratorState._reset_state(True)  # one job follows another in this process
    GradientState._reset_state()
    job = kind.prepare(data, model_args, replace(args, tracker=None), checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        yield job.trainer(Path(temporary), checkpoint)
