"""Processes that tokenise the parts of a text.

They are started as commands and not by `multiprocessing`, which would run the script of the user again in each of them.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ...errors import ScratchError
from . import parts
from .parts import Part, PartTokeniser, Progress

QUEUED = 2  # parts per process that are read ahead; they are what a preparation keeps in memory
# The file is run by itself: importing the package would load torch and transformers, which takes seconds.
COMMAND = "import runpy, sys; sys.path[:] = sys.argv[2:]; runpy.run_path(sys.argv[1], run_name='__main__')"
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class ProcessDiedError(ScratchError):
    """A process that tokenises ended early; the parts that are finished are kept."""

    exit_code = 1


def tokenise_here(texts: Iterable[Part], settings: dict[str, Any], progress: Progress, threads: bool) -> None:
    """Tokenise parts in this process.

    Args:
        texts: the parts, which are read one by one.
        settings: arguments of `PartTokeniser`.
        progress: called with the number of characters tokenised since the last call.
        threads: whether the tokenizer may use all cores; otherwise it uses one.
    """
    tokeniser = PartTokeniser(**settings)
    for part in texts:
        with _one_thread(not threads):
            tokeniser.write(part, progress)


@contextmanager
def _one_thread(limit: bool) -> Iterator[None]:
    """Let tokenizers use one thread, if `limit`; the library reads the variable at every call."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    if limit:
        os.environ[name] = "false"
    try:
        yield
    finally:
        if limit and before is None:
            del os.environ[name]
        elif limit:
            os.environ[name] = str(before)


def tokenise_in_processes(
    texts: Iterable[Part], settings: dict[str, Any], progress: Progress, num_processes: int
) -> None:
    """Tokenise parts in processes of one thread each. At most `QUEUED * num_processes` parts are in memory.

    Args:
        texts, settings, progress: see `tokenise_here`.
        num_processes: number of processes.

    Raises:
        ProcessDiedError: a process ended early.
        OSError: a file can't be written.
    """
    idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
    processes: list[subprocess.Popen[bytes]] = []

    def tokenise(part: Part) -> int:
        process = idle.get()
        try:
            _ask(process, part)
        finally:
            idle.put(process)
        return part.characters

    pool = ThreadPoolExecutor(num_processes)  # a thread waits for each process
    try:
        for _ in range(num_processes):
            processes.append(_start(settings))
            idle.put(processes[-1])
        waiting: deque[Future[int]] = deque()
        for part in texts:
            if len(waiting) == QUEUED * num_processes:
                progress(waiting.popleft().result())
            waiting.append(pool.submit(tokenise, part))
        while waiting:
            progress(waiting.popleft().result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
            process.wait()
        pool.shutdown()
        for process in processes:
            _close(process)


def _start(settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", COMMAND, parts.__file__, *sys.path]
    environment = {**os.environ, **ONE_THREAD}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    pickle.dump(settings, process.stdin)
    return process


def _ask(process: subprocess.Popen[bytes], part: Part) -> None:
    """Send a part to a process, and wait for its files."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(tuple(part), process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
        answer = process.stdout.readline().decode()
    except OSError:  # a broken pipe
        answer = ""
    if not answer:
        raise ProcessDiedError(
            f"a process that tokenises ended early, with exit code {process.wait()}: run the command again, which "
            "continues after the parts that are finished; if memory was short, with fewer --data_processes"
        )
    if answer.strip():
        number, text = answer.strip().split(" ", 1)
        raise OSError(int(number), text)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:  # a part that was being sent can't be flushed
            pass
