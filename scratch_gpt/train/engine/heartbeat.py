"""Heartbeats between the processes of a run: one that hangs, or whose machine vanishes, closes no connection, so that
the others would wait for it for hours. Each process counts in the store of the process group, and reads whether the
others count."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from .launcher_settings import restarts

INTERVAL = 5.0  # seconds between two heartbeats
MISSED = 6  # heartbeats that a lost process has missed
GO_ON = "start the run again with --resume to continue from its last checkpoint"

_lost = threading.Event()


@contextmanager
def heartbeats() -> Iterator[None]:
    """Context that ends this process with one line and exit code 1 if another one of the run is lost. Every process
    must enter it, and leave it together with the others, since then it has no heartbeat."""
    if not dist.is_initialized() or dist.get_world_size() == 1 or "MASTER_PORT" not in os.environ:
        yield
        return
    monitor = _Monitor(dist.get_rank(), dist.get_world_size())
    threads = [threading.Thread(target=target, daemon=True) for target in (monitor.beat, monitor.watch)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        monitor.ended.set()
        for thread in threads:
            thread.join(INTERVAL)


def is_reported() -> bool:
    """Whether a lost process was noticed by its heartbeats, and this one is about to end."""
    return _lost.is_set()


def describe_silent(rank: int) -> str:
    """The line that reports a process without heartbeats."""
    seconds = INTERVAL * MISSED
    return f"error: process {rank} has not answered for {seconds:.0f} s: it hangs, or its machine is lost: {GO_ON}"


class _Monitor:
    """The heartbeats of a process, and its view of the others.

    Attributes:
        ended: set at the end of the run.
        silent: seconds since the store answered. They are counted and not measured: while a process is suspended, it
            does not wait for the others.
    """

    def __init__(self, rank: int, world_size: int):
        self.rank, self.world_size = rank, world_size
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*address, is_master=False, timeout=timedelta(seconds=INTERVAL * MISSED))
        self.store = dist.PrefixStore(f"heartbeat_{restarts()}", store)  # a connection that no other thread uses
        self.ended = threading.Event()
        self.silent = 0

    def beat(self) -> None:
        """Count, and read what the others have counted, until the end of the run."""
        names = [str(rank) for rank in range(self.world_size)]
        counted, missed = [b""] * self.world_size, [0] * self.world_size
        count = 0
        while not self.ended.is_set():
            try:
                self.store.set(str(self.rank), str(count))
                seen = self.store.multi_get(names)
            except RuntimeError:  # the process of the store has ended, which the other connections show
                return
            self.silent, count = 0, count + 1
            for rank, value in enumerate(seen):
                missed[rank] = missed[rank] + 1 if value == counted[rank] else 0
                if missed[rank] >= MISSED:
                    self._end(rank)
            counted = seen
            self.ended.wait(INTERVAL)

    def watch(self) -> None:
        """Notice that the store, which is on the machine of the first process, does not answer."""
        while not self.ended.wait(1):
            self.silent += 1
            if self.silent > INTERVAL * (MISSED + 1):
                self._end(0)

    def _end(self, lost: int) -> None:
        """End this process, whose main thread may wait for the lost one. The first process or, if it is lost, one of
        each other machine reports it."""
        _lost.set()
        if self.rank == 0 or (lost == 0 and os.environ.get("LOCAL_RANK") == "0"):
            print(describe_silent(lost), file=sys.stderr, flush=True)
        time.sleep(INTERVAL)  # the others notice it too, before they lose their connection to this one
        os._exit(1)
