"""Asynchronous saving: training continues as soon as the state is copied in memory, a background thread writes it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch


class BackgroundWriter:
    """Runs jobs one after the other in a background thread. The error of a job that failed is raised when the next one
    is submitted, or by `wait`. As a context manager, it waits for the last job."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
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
