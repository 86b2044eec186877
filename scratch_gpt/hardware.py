"""Hardware settings: CPU cores and threads, and the memory allocator."""

from __future__ import annotations

import ctypes
import os

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
# Set by torchrun, and by accelerate launch for several processes and for one.
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")


def available_cores() -> int:
    """Number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of_user() -> int | None:
    """Number of threads that the user set by `OMP_NUM_THREADS`, or the first of a list. None if it is not set, or in a
    process of torchrun or accelerate, which set it to one themselves."""
    if any(name in os.environ for name in LAUNCHER_VARIABLES):
        return None
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def use_all_cores(num_threads: int | None = None) -> None:
    """Set the number of torch's threads: `num_threads`, else `OMP_NUM_THREADS` if the user set it, else the available
    cores divided by the local processes."""
    share = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    torch.set_num_threads(num_threads or threads_of_user() or share)


def retain_freed_memory() -> None:
    """Make glibc keep freed memory for the next step. By default it returns large blocks to the system and page-faults
    them in again at every step. No effect with other C libraries."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25):  # the maximum of older versions of glibc
        mallopt(M_TRIM_THRESHOLD, -1)  # never
