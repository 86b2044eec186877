"""Graceful shutdown: on SIGINT (Ctrl-C) or SIGTERM, finish the step, save and exit. A second signal exits at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STDERR = 2  # the file descriptor


class Interruption:
    """Context manager that stores the first signal in `signal`, which is 0 until then. The exit code of a process ended
    by a signal is 128 plus the signal's number, as in shells: 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self) -> None:
        self.signal = 0
        self.handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # other threads can't set handlers
            self.handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        # Not `print`, which raises if the signal interrupts a write to the same buffered stream.
        with contextlib.suppress(OSError):  # standard error may be closed
            os.write(STDERR, b"\nfinishing the step and saving; a second signal stops immediately\n")
