"""Read small files that someone else may have written: regular files only, of bounded size and depth.

JSON and YAML of a model directory, a run or a dataset's card are read through these functions, and nowhere else. What
has to be run to be used, as a template or a regular expression, is `bounded` in time and memory.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from .errors import ScratchError

MAX_BYTES = 4 << 20  # of a JSON file: the config of a classifier with 21,000 labels has 2 MB
MAX_YAML_BYTES = 1 << 19  # YAML takes a second for as much
MAX_DEPTH = 64  # of nested lists and mappings
CHECK_EVERY = 0.05  # seconds, of what is `bounded`
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times faster


def check_regular(path: Path) -> int:
    """Return the size in bytes of a regular file, following links.

    Raises:
        ScratchError: it is a named pipe, a socket, a device or a folder.
        OSError: it does not exist, or may not be looked at.
    """
    return _size_of_regular(path, path.stat())


def _size_of_regular(path: Path, status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise ScratchError(f"{path} is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}, want a regular file")
    return status.st_size


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most `limit` bytes. A named pipe is refused and never waited for.

    Raises:
        ScratchError: it is no regular file, or is larger.
        OSError: it can't be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        size = _size_of_regular(path, os.fstat(descriptor))
    except ScratchError:
        os.close(descriptor)
        raise
    with open(descriptor, "rb") as file:
        content = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise ScratchError(f"{path} has {max(size, len(content)):,} bytes, want at most {limit:,}")
    return content


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Read a UTF-8 text file; errors as of `read_bytes`, and ScratchError where it is not UTF-8."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScratchError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        ScratchError: it is no JSON, no regular file, too large, or nested more than `MAX_DEPTH` deep.
        OSError: it can't be opened.
    """
    return parse_json(read_text(path, limit), str(path))


def parse_json(text: str, name: str) -> Any:
    """Parse JSON; `name` stands for it in errors.

    Raises:
        ScratchError: it is no JSON, or nested more than `MAX_DEPTH` deep.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        content = None
        too_deep = True
    except ValueError as error:
        raise ScratchError(f"{name} is not valid JSON: {error}") from error
    else:
        too_deep = _depth_exceeds(content, MAX_DEPTH)
    if too_deep:
        raise ScratchError(f"{name} is nested more than {MAX_DEPTH} levels deep")
    return content


def _depth_exceeds(content: Any, limit: int) -> bool:
    level: list[Any] = [content]
    for _ in range(limit + 1):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_yaml(path: Path, limit: int = MAX_YAML_BYTES) -> Any:
    """Read a YAML file; errors as of `parse_yaml` and `read_text`."""
    return parse_yaml(read_text(path, limit), str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML without aliases, a few hundred bytes of which can stand for more than any memory holds.

    Raises:
        ScratchError: it is no YAML, has an alias, or is nested more than `MAX_DEPTH` deep.
    """
    try:
        depth = 0
        for event in _events(text):
            if isinstance(event, yaml.AliasEvent):
                raise ScratchError(f"{name} has an alias (*{event.anchor}), want each value written out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ScratchError(f"{name} is nested more than {MAX_DEPTH} levels deep")
        return yaml.load(text, Loader=_Loader)  # a safe loader: it makes plain values only
    except ScratchError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ScratchError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def _events(text: str) -> Iterator[yaml.Event]:
    return yaml.parse(text, Loader=_Loader)


def find_links(folder: Path) -> Iterator[Path]:
    """Yield the symbolic links below a folder, at any depth; they are not followed."""
    for base, folders, files in os.walk(folder):
        yield from (path for name in sorted(folders + files) if (path := Path(base, name)).is_symlink())


def find_links_out(folder: Path, homes: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield the symbolic links below a folder, at any depth, that lead out of it.

    Args:
        folder: links are looked for below it, and not followed.
        homes: other folders, resolved, that links may lead to.
    """
    allowed = [folder.resolve(), *homes]
    yield from (path for path in find_links(folder) if not leads_into(path, allowed))


def leads_into(path: Path, homes: Iterable[Path]) -> bool:
    """Whether a path, its links followed, is in one of `homes`, which are resolved; not where its links are a loop."""
    try:
        place = path.resolve()
    except (OSError, RuntimeError):
        return False
    return any(place.is_relative_to(home) for home in homes)


@contextmanager
def bounded(what: str, seconds: float, memory: int | None = None) -> Iterator[None]:
    """End a block that runs too long or takes too much memory, such as a template or a regular expression.

    A timer of the operating system interrupts it, which takes effect between two instructions of Python, and inside of
    the module `re`. Where there is no such timer (Windows), and in other threads than the main one, nothing is bounded.

    Args:
        what: runs in the block, for errors.
        seconds: that it may take.
        memory: bytes that the process may grow by; None sets no limit.

    Raises:
        ScratchError: it takes more.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    started, process = time.monotonic(), psutil.Process()
    before = process.memory_info().rss

    def check(*_: Any) -> None:
        if time.monotonic() - started > seconds:
            raise ScratchError(f"{what} ran for more than {seconds:g} s")
        if memory is not None and process.memory_info().rss - before > memory:
            raise ScratchError(f"{what} took more than {memory >> 20} MiB of memory")

    former = signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, CHECK_EVERY, CHECK_EVERY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
