"""Heartbeats between the processes of a run: one that hangs, or whose machine vanishes, closes no connection, so that
the others would wait for it for hours. Each process counts in the store of the process group, and reads whether the
others count."""

from __future__ import annotations

import itertools
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

_lost, _runs = threading.Event(), itertools.count()


@contextmanager
def heartbeats(timeout: timedelta) -> Iterator[None]:
    """Context that ends this process with one line and exit code 1 if another one of the run is lost. Every process
    must enter it, and leave it together with the others, since then it has no heartbeat.

    Args:
        timeout: for which a process waits for the others to enter it.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1 or "MASTER_PORT" not in os.environ:
        yield
        return
    monitor = _Monitor(dist.get_rank(), dist.get_world_size(), timeout)
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
    """The heartbeats of a process, and its view of the others, for which it waits at first.

    Args:
        rank: number of the process.
        world_size: number of processes.
        timeout: for which it waits for the first heartbeats of the others.

    Attributes:
        ended: set at the end of the run.
        silent: seconds since the store answered. They are counted and not measured: while a process is suspended, it
            does not wait for the others.
    """

    def __init__(self, rank: int, world_size: int, timeout: timedelta):
        self.rank = rank
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*address, is_master=False)  # a connection that no other thread uses
        self.store = dist.PrefixStore(f"heartbeat_{restarts()}_{next(_runs)}", store)
        self.names = [str(each) for each in range(world_size)]
        self.ended = threading.Event()
        self.silent = 0
        self.store.set(str(rank), "ready")
        self.store.wait(self.names, timeout)

    def beat(self) -> None:
        """Count, and read what the others have counted, until the end of the run."""
        counted, missed, count = [b""] * len(self.names), [0] * len(self.names), 0
        while not self.ended.is_set():
            try:
                self.store.set(str(self.rank), str(count))
                seen = self.store.multi_get(self.names)
            except dist.DistNetworkError:  # the process of the store has ended, which the other connections show
                self.ended.set()
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
