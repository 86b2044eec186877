"""Read small untrusted files: regular files only, of bounded size and nesting depth.

JSON and YAML of a model directory, a run or a dataset card are read only through these functions. Untrusted input that
has to be executed, such as a template or a regular expression, is `bounded` in time and memory.
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
MAX_YAML_BYTES = 1 << 19  # parsing this much YAML takes a second
MAX_DEPTH = 64  # of nested lists and mappings
CHECK_EVERY = 0.01  # seconds between checks of a `bounded` block
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times faster


def check_regular(path: Path) -> int:
    """Return the size in bytes of a regular file, following links.

    Raises:
        ScratchError: the path is a named pipe, a socket, a device or a folder.
        OSError: the path does not exist or is not accessible.
    """
    return _size_of_regular(path, path.stat())


def _size_of_regular(path: Path, status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise ScratchError(f"{path} is {_KINDS.get(stat.S_IFMT(status.st_mode), 'not a file')}, want a regular file")
    return status.st_size


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most `limit` bytes. A named pipe is rejected without blocking.

    Raises:
        ScratchError: the path is not a regular file, or the file is larger.
        OSError: the file can't be opened.
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
    """Read a UTF-8 text file of at most `limit` bytes.

    Raises:
        ScratchError: the file is not UTF-8, not a regular file, or too large.
        OSError: the file can't be opened.
    """
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScratchError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        ScratchError: the file is not valid JSON, not a regular file, too large, or nested deeper than `MAX_DEPTH`.
        OSError: the file can't be opened.
    """
    return parse_json(read_text(path, limit), str(path))


def parse_json(text: str, name: str) -> Any:
    """Parse JSON; `name` identifies it in errors.

    Raises:
        ScratchError: the text is not valid JSON, or is nested deeper than `MAX_DEPTH`.
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
    """Read a YAML file; raises as `parse_yaml` and `read_text` do."""
    return parse_yaml(read_text(path, limit), str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML without aliases, a few hundred bytes of which can expand beyond any memory; `name` is for errors.

    Raises:
        ScratchError: the text is not valid YAML, has an alias, or is nested deeper than `MAX_DEPTH`.
    """
    try:
        depth = 0
        for event in _events(text):
            if isinstance(event, yaml.AliasEvent):
                raise ScratchError(f"{name} has an alias (*{event.anchor}), want each value written out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ScratchError(f"{name} is nested more than {MAX_DEPTH} levels deep")
        return yaml.load(text, Loader=_Loader)  # a safe loader: it constructs plain values only
    except ScratchError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ScratchError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def _events(text: str) -> Iterator[yaml.Event]:
    return yaml.parse(text, Loader=_Loader)


def find_links(folder: Path) -> Iterator[Path]:
    """Yield the symbolic links below a folder, at any depth, without following them."""
    for base, folders, files in os.walk(folder):
        yield from (path for name in sorted(folders + files) if (path := Path(base, name)).is_symlink())


def leads_into(path: Path, homes: Iterable[Path]) -> bool:
    """Whether a path, after resolving its links, is in one of `homes`, which are resolved; False if its links are a
    loop."""
    try:
        place = path.resolve()
    except (OSError, RuntimeError):
        return False
    return any(place.is_relative_to(home) for home in homes)


@contextmanager
def bounded(what: str, seconds: float, memory: int | None = None) -> Iterator[None]:
    """Stop a block that runs too long or uses too much memory, such as a template or a regular expression.

    An operating-system timer interrupts the block, which takes effect between two Python instructions and inside the
    module `re`. Without such a timer (Windows) and outside the main thread, nothing is bounded.

    Args:
        what: name of the block in errors.
        seconds: maximum running time.
        memory: maximum growth of the process in bytes; None sets no limit.

    Raises:
        ScratchError: the block exceeds a limit.
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

    previous = signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, CHECK_EVERY, CHECK_EVERY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
