"""SIGINT (Ctrl-C) and SIGTERM end a run in good order: finish the step, save, exit. A second one exits at once."""

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
    """As a context, remembers the first signal in `signal`, which is 0 until then. The exit code of a process that a
    signal has ended is 128 plus its number, as shells have it: 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self) -> None:
        self.signal = 0
        self.handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # others can't set handlers
            self.handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        # The signal may come while a buffered stream is being written to, and `print` would then raise.
        with contextlib.suppress(OSError):  # nobody may be listening any more
            os.write(STDERR, b"\nfinishing the step and saving; once more to stop at once\n")
