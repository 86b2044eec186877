"""Asynchronous saving: training continues as soon as the state is copied in memory, a background thread writes it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch


class BackgroundWriter:
    """Runs jobs one after the other in a background thread. The error of a job that failed is raised when the next one
    is submitted, or by `wait`. As a context manager, it waits for the last job.

    The thread computes alone. If an operation of it used several threads, OpenMP would keep them for it, and once a
    process has more of them than cores, its threads sleep between operations instead of spinning: for the rest of the
    run a step of a small model would take 1.6 times as long.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        threads = torch.get_num_threads()
        self.thread.submit(_use_one_thread).result()
        torch.set_num_threads(threads)  # for threads that start later; the writer keeps its own number
        self.running: Future[None] | None = None

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self.thread.shutdown()

    def submit(self, job: Callable[..., None], *args: Any) -> None:
        """Start a job once the previous one has finished, so that at most one copied state is in memory.

        Raises:
            Exception: the error of the previous job.
        """
        self.wait()
        self.running = self.thread.submit(job, *args)

    def wait(self) -> None:
        """Wait for the running job, if any, and raise its error."""
        running, self.running = self.running, None
        if running is not None:
            running.result()


def _use_one_thread() -> None:
    torch.get_num_threads()  # the first call in a thread gives it the default number
    torch.set_num_threads(1)


def in_memory(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors to CPU memory; those that share memory, such as tied weights, share it in the copy too."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], torch.Tensor] = {}
    copied = {}
    for name, tensor in tensors.items():
        key = tensor.data_ptr(), tensor.shape, tensor.stride()
        if key not in copies or not tensor.numel():
            copies[key] = tensor.detach().to("cpu", copy=True)
        copied[name] = copies[key]
    return copied
