"""Writing behind the loop: it goes on as soon as the state is copied in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch


class BackgroundWriter:
    """Runs one job after the other on a thread of its own. A job that fails raises its error where the next one is
    given, or at the end; as a context, it waits for the last one."""

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
        """Start `job` when the one before has ended: two states are never held in memory at once.

        Raises:
            Exception: what the job before raised.
        """
        self.wait()
        self.running = self.thread.submit(job, *args)

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        running, self.running = self.running, None
        if running is not None:
            running.result()


def in_memory(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the processor; tensors that share memory, such as tied weights, go on to share it."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], torch.Tensor] = {}
    copied = {}
    for name, tensor in tensors.items():
        key = tensor.data_ptr(), tensor.shape, tensor.stride()
        if key not in copies or not tensor.numel():
            copies[key] = tensor.detach().to("cpu", copy=True)
        copied[name] = copies[key]
    return copied
