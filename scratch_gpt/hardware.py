"""What this machine offers: cores, threads, memory, and the precision that pays here."""

from __future__ import annotations

import ctypes
import os

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores(num_threads: int | None = None) -> None:
    """Let torch use so many threads or, by default, this process's share of the cores. Launchers often leave it one."""
    torch.set_num_threads(num_threads or max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def keep_memory() -> None:
    """Let glibc keep what is freed for the next step. By default it hands great blocks back to the system and gets them
    anew, page by page, in every step. Elsewhere, nothing happens."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25):  # the most that an older glibc takes
        mallopt(M_TRIM_THRESHOLD, -1)  # never


def chooses_bf16(precision: str) -> bool:
    """Whether to compute in bfloat16: where asked, or where the processor has matrix units for it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported()
