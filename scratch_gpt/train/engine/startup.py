"""What every training run does before the loop: check, open, prepare."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from transformers.utils import logging

from ...errors import ScratchError
from ...hardware import retain_freed_memory, should_use_bf16, use_all_cores
from ..arguments.training import TrainingArguments
from .run_directory import check_run_directory

LONGEST_WAIT = timedelta(hours=6)  # of the other processes, while the first one prepares the data


def check_output_dir(args: TrainingArguments) -> None:
    """Refuse a folder that holds another run, or links through which a run would write elsewhere.

    Raises:
        ScratchError: it holds a run and this is not a resume, or it can't be used (see `check_run_directory`).
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ScratchError(f"output_dir {folder} is a file: name a folder")
    held = [name for name in ("run.yaml", "config.json", "checkpoints") if (folder / name).exists()]
    check_run_directory(folder)
    if held and not args.resume:
        raise ScratchError(f"output_dir {folder} holds another run ({', '.join(held)}): name another, or --resume it")


def start_processes() -> PartialState:
    """Join the processes of the run; the `Accelerator` that `start` makes later is on top of it."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=LONGEST_WAIT)


def start(args: TrainingArguments) -> Accelerator:
    """Processes, precision, threads, trackers and seed."""
    logging.disable_progress_bar()
    if args.tracker and args.tracker not in [tracker.value for tracker in get_available_trackers()]:
        raise ScratchError(f"{args.tracker} is not installed: pip install 'scratch_gpt[{args.tracker}]'")
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # unasked, it does not join processes that have no accelerator
            mixed_precision="bf16" if should_use_bf16(args.precision) else "no",
            log_with=args.tracker,
            project_dir=args.output_dir if args.tracker else None,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
        )
    except (ValueError, RuntimeError) as error:
        raise ScratchError(f"precision {args.precision} can't be had here: {error}") from error
    if args.optimizer == "muon" and accelerator.distributed_type == DistributedType.FSDP:
        raise ScratchError("muon needs whole matrices, which FSDP cuts up: use --optimizer adamw, or data parallelism")
    use_all_cores(args.num_threads)
    retain_freed_memory()
    set_seed(args.seed, device_specific=True)
    return accelerator


def make_output_dir(args: TrainingArguments) -> Path:
    """The folder of the run.

    Raises:
        ScratchError: it can't be made.
    """
    folder = Path(args.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScratchError(f"output_dir {folder} can't be made: {error.strerror}") from error
    return folder
