"""Launch several processes on this machine, with the elastic launcher of PyTorch (that of `torchrun`)."""

from __future__ import annotations

import logging
import os
import sys
import uuid

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from .lost_process import LAUNCHED, describe_failure

SHUTDOWN_TIMEOUT = 3600  # seconds that processes have to finish their step and save, after a signal


def launch(arguments: list[str], num_processes: int) -> int:
    """Run Python with `arguments` in several processes, which form a process group, and wait for them.

    If one process fails, the others are stopped. A signal to this process is forwarded to all of them.

    Args:
        arguments: arguments of the Python interpreter, such as ["-m", "scratch_gpt", "train", "sft"].
        num_processes: number of processes.

    Returns:
        The exit code of the first process that failed, or 0.
    """
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the processes report their errors themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    os.environ[LAUNCHED] = "1"
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        process, failure = _first_killed(error)
        code = failure.exitcode
        if line := describe_failure(process, code):
            print(line, file=sys.stderr)
        return code if code >= 0 else 128 - code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _first_killed(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """The process that failed first; one that was killed comes before those that fail because of it."""
    failures = sorted(error.failures.items(), key=lambda item: (item[1].exitcode >= 0, item[1].timestamp))
    return failures[0]
