"""What can be trained: for each kind of run its settings, and how data, model and task are made from them.

A training script names one of these modules; `scratch-gpt verify` finds the one that a run was made by.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import ScratchError, TrainingError
from ..arguments.training import check_training
from ..checkpoints.checkpoint import newest_checkpoint
from ..engine.parsing import parse_arguments
from ..engine.run import run
from ..engine.startup import check_init_from, check_output_dir, start_processes

# By the task that `run.yaml` names.
MODULES = {
    "language-modeling": "gpt",
    "instructions": "sft",
    "preferences": "dpo",
    "rewards": "ppo",
    "translation": "seq2seq",
    "text-classification": "classifier",
    "masked-language-modeling": "encoder",
}


def job_of_task(task: Any) -> ModuleType:
    """The module that prepares runs of a task.

    Raises:
        ScratchError: there is no such task.
    """
    if not isinstance(task, str) or task not in MODULES:
        raise ScratchError(f"no such task: {task!r:.60}, want one of {', '.join(MODULES)}")
    return importlib.import_module(f".{MODULES[task]}", __name__)


def train(kind: ModuleType, description: str) -> None:
    """Train what the command line asks for, and report on what came of it; every process must call it.

    Args:
        kind: one of the modules of this package.
        description: what the command does, for `--help`.
    """
    settings: tuple[Any, ...] = parse_arguments(kind.TYPES, description)
    data, model_args, args = settings

    # Whatever can be refused is refused before anything is written.
    check_training(args)
    check_output_dir(args)
    if model_args.init_from is not None:
        check_init_from(data, model_args)
    resume_from = newest_checkpoint(Path(args.output_dir), start_processes()) if args.resume else None
    job = kind.prepare(data, model_args, args, resume_from)
    arguments = {name: value for part in (data, model_args, job.args) for name, value in asdict(part).items()}
    folder = run(job, arguments, resume_from)
    if job.accelerator.is_main_process:
        try:
            job.report(folder)
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TrainingError(f"{folder} is complete, but what it can do can't be shown: {reason}") from error
