"""A process of a run is lost: killed, out of memory, or with its machine. The others notice it by their connection to
it, at the next exchange, and end with one line. `heartbeat` detects one that closes no connection."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from ...errors import TrainingError
from .heartbeat import GO_ON, is_reported

LAUNCHED = "SCRATCH_GPT_LAUNCHED"  # set for processes of our own launcher, which reports a lost one itself


@contextmanager
def lost_process_errors() -> Iterator[None]:
    """Turn the error of a connection to another process into one line of the first process that is left, or none under
    our own launcher.

    Raises:
        TrainingError: another process was lost.
        SystemExit: the same, and another process reports it.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        if is_reported() or os.environ.get(LAUNCHED) or os.environ.get("RANK") not in ("0", "1"):
            sys.exit(1)
        raise TrainingError(
            f"process {os.environ['RANK']} lost its connection to another process, which was killed, ran out of memory "
            f"or is on a machine that was lost: {GO_ON}"
        ) from error


def describe_failure(process: int, exit_code: int) -> str | None:
    """The line that reports a process that a signal has killed; None if it ended by itself, and so has said why.

    Args:
        process: its number.
        exit_code: its exit code; the negative number of a signal.
    """
    if exit_code >= 0 or -exit_code in (signal.SIGINT, signal.SIGTERM):
        return None
    name = signal.Signals(-exit_code).name
    reason = " (out of memory, perhaps)" if name == "SIGKILL" else ""
    return f"error: process {process} was killed by {name}{reason}, and the others were stopped: {GO_ON}"


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error is one of exchanges between processes: torch has classes for it, gloo names its source file."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)
