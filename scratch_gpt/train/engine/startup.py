"""Setup of every training run before the loop: output directory, processes, precision, threads and seed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, patch_environment, set_seed
from transformers.utils import logging

from ...errors import ScratchError, not_installed
from ...hardware import retain_freed_memory, use_all_cores
from ...hub.loading import open_config
from ...terminal import SafeConsole
from ..arguments.training import TrainingArguments
from ..performance.precision import describe_precision, model_width, share_product_times, uses_bf16
from .launcher_settings import PARALLELISM, restarts, should_use_cpu
from .run_directory import check_run_directory
from .sharding import enable_sharding

PROCESS_GROUP_TIMEOUT = timedelta(hours=6)  # other processes wait while the first one prepares the data


def check_output_dir(args: TrainingArguments) -> None:
    """Refuse an output directory that contains another run or links.

    Raises:
        ScratchError: it contains a run and `--resume` is not given, or it can't be used (see `check_run_directory`).
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ScratchError(f"output_dir {folder} is a file: choose a directory")
    held = [name for name in ("run.yaml", "config.json", "checkpoints") if (folder / name).exists()]
    check_run_directory(folder)
    if held and not args.resume:
        raise ScratchError(
            f"output_dir {folder} contains another run ({', '.join(held)}): choose another, or --resume it"
        )


def start_processes() -> PartialState:
    """Join the process group of the run, which the `Accelerator` of `start` then uses."""
    place: dict[str, Any] = {}
    if (count := restarts()) and not dist.is_initialized():
        # torchrun keeps its store: without a prefix, processes would find the addresses of those before the restart.
        store, rank, world_size = next(dist.rendezvous("env://", timeout=PROCESS_GROUP_TIMEOUT))
        place = {"store": dist.PrefixStore(f"restart_{count}", store), "rank": rank, "world_size": world_size}
    return PartialState(cpu=should_use_cpu(), timeout=PROCESS_GROUP_TIMEOUT, **place)


def start(args: TrainingArguments, model_args: Any, resume_from: Path | None = None) -> Accelerator:
    """Set up this process for a training run: processes, precision, trackers, threads, memory allocator and seed.

    These settings are process-wide: only a training run calls this.

    Args:
        args: training arguments.
        model_args: model arguments, for the width of the model, by which the precision is chosen.
        resume_from: checkpoint to resume from, or None.

    Raises:
        ScratchError: the tracker is not installed, the precision is not supported here, or the weights can't be
            sharded.
    """
    logging.disable_progress_bar()
    if args.tracker and args.tracker not in [tracker.value for tracker in get_available_trackers()]:
        raise ScratchError(not_installed(args.tracker))
    state = start_processes()
    use_all_cores(args.num_threads)
    width = _width(model_args, resume_from)
    if state.device.type == "cpu":
        share_product_times(width)
    try:
        with patch_environment(**{PARALLELISM: "false"}):  # `launcher_settings` has read it; accelerate would shard too
            accelerator = Accelerator(
                cpu=should_use_cpu(),  # by default, processes without an accelerator are not joined
                # Else accelerate reads these three from the environment, which `launcher_settings` has done.
                mixed_precision="bf16" if uses_bf16(args.precision_used, state.device, width) else "no",
                dynamo_backend="no",
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
                log_with=args.tracker,
                project_dir=args.output_dir if args.tracker else None,
                kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT)],
            )
    except (ValueError, RuntimeError) as error:
        raise ScratchError(f"precision {args.precision} is not supported here: {error}") from error
    if args.shard:
        enable_sharding(accelerator, args.replicas)
    retain_freed_memory()
    set_seed(args.seed, device_specific=True)
    if args.precision_used == "auto" and state.is_main_process:
        line = f"precision: {describe_precision('auto', state.device, width)}"
        SafeConsole().print(line, highlight=False, soft_wrap=True)
    return accelerator


def _width(model_args: Any, resume_from: Path | None) -> int:
    """The width of the model of a run, before it is built or loaded."""
    origin = resume_from or model_args.init_from
    if origin is None:
        return model_args.hidden_size
    return model_width(open_config(origin, model_args.trust_remote_code))


def make_output_dir(args: TrainingArguments) -> Path:
    """Create and return the directory of the run.

    Raises:
        ScratchError: it can't be created.
    """
    folder = Path(args.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScratchError(f"output_dir {folder} can't be created: {error.strerror}") from error
    return folder
