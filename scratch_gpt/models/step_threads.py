"""The number of threads of a decoding step, and the memory pages from which it reads the weights."""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

FIRST_STEPS = 4  # with one thread, to know their time
STEPS, SECONDS = 8, 0.02  # of a comparison, unless it is lost before
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0  # seconds with one thread until several are tried again
SMALL_STEP = 2**24  # bytes of weights
HUGE_PAGE = 2**21  # bytes
MADV_COLLAPSE = 25  # of Linux 6.1 and later


class StepThreads:
    """Chooses how many threads each step uses: all or, while another process keeps a core busy, one.

    Several threads wait for each other after each loop of a step. If one of them waits for a core, all wait for
    milliseconds, where the loop itself takes microseconds. So their time is compared with that of one thread.

    Args:
        most: number of threads that may be used.

    Attributes:
        count: number of threads of the next step.
    """

    def __init__(self, most: int):
        self.most, self.count = most, 1
        self.alone = 0.0  # seconds of a step with one thread
        self.pause = 0.0  # seconds of one thread until several are tried
        self.steps, self.seconds = 0, 0.0  # with this number of threads

    def record(self, seconds: float) -> None:
        """Take note of the time of a step with `count` threads, and choose for the next one."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds
        if self.count == 1:
            if self.steps >= FIRST_STEPS and self.seconds >= self.pause:
                self.alone = self.seconds / self.steps
                self.pause = min(max(FIRST_PAUSE, 2 * self.pause), LONGEST_PAUSE)
                self._use(self.most)
        elif self.seconds >= SECONDS and (self.steps >= STEPS or self.seconds >= STEPS * self.alone):
            if self.seconds > self.alone * self.steps:
                self._use(1)
            else:
                self.pause = 0.0
                self._use(self.most)

    def _use(self, count: int) -> None:
        self.count, self.steps, self.seconds = count, 0, 0.0


def is_small(model: Any, rows: int) -> bool:
    """Whether one thread computes a step of the readable kind at least as fast as several, which wait for each other
    after each operation."""
    return rows == 1 and sum(weight.nbytes for weight in model.parameters()) <= SMALL_STEP


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_huge_pages(tensors: Iterable[torch.Tensor]) -> int:
    """Ask Linux to keep the memory of tensors in pages of 2 MiB, where it is; return how many pages it agreed to.

    A step reads every weight once, so each of the usual pages of 4 KiB is looked up anew; in a virtual machine this
    halves the speed at which the memory is read. Other systems, and Linux before 6.1, are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    pages = {
        page
        for tensor in tensors
        for page in range(tensor.data_ptr() // HUGE_PAGE, -(-(tensor.data_ptr() + tensor.nbytes) // HUGE_PAGE))
    }
    return sum(madvise(page * HUGE_PAGE, HUGE_PAGE, MADV_COLLAPSE) == 0 for page in pages)
