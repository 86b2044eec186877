"""Which segments are in which row of an epoch: packing, and plans that the processes of a machine share.

Letters: T tokens of a row, S segments, R rows.
"""

from __future__ import annotations

import shutil
import tempfile
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ...cache import cache_lock, make_cache

OPEN_ROWS = 256  # partly filled rows to choose from; more would reduce the padding and the shuffling slightly
FEW_SEGMENTS = 1 << 20  # up to which `best_fit` takes a few seconds
SHARED_SEGMENTS = 1 << 18  # from which plans are shared: a smaller one is built as fast as it is opened
KEPT = 2  # plans of different epochs of a text
CHUNK = 1 << 16


@dataclass(frozen=True)
class RowPlan:
    """The segments of each row of an epoch, of R rows.

    Attributes:
        starts: index of the first token of each segment in the shard, shape (S,), int64.
        lengths: number of tokens of each segment, shape (S,), int32.
        offsets: row r consists of segments `offsets[r]` to `offsets[r + 1] - 1`, shape (R + 1,), int64.
    """

    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def pack(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pack segments into rows. Many are packed by their histogram, which takes no longer for more segments, and fills
    the rows better; few are packed in their random order, so that short ones do not always meet long ones.

    Args:
        lengths: number of tokens of each segment, from 1 to T, shape (S,).
        row_length: number of tokens of a row (T).

    Returns:
        The segments in the order of the rows, shape (S,), and the number of segments of each row, shape (R,).
    """
    return (best_fit if len(lengths) <= FEW_SEGMENTS else best_fit_decreasing)(lengths, row_length)


def best_fit(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit bin packing over a limited number of open rows: each segment goes to the row with the least room left.

    Args:
        lengths, row_length: see `pack`, which also says what is returned.
    """
    rows, num_rows = array("q"), 0  # the row of each segment
    open_rows: list[tuple[int, int]] = []  # (room left, row), sorted
    for start in range(0, len(lengths), CHUNK):
        for length in lengths[start : start + CHUNK].tolist():
            found = bisect_left(open_rows, (length, -1))
            if found < len(open_rows):
                room, row = open_rows.pop(found)
            else:
                room, row, num_rows = row_length, num_rows, num_rows + 1
            rows.append(row)
            if room > length:
                insort(open_rows, (room - length, row))
                if len(open_rows) > OPEN_ROWS:
                    open_rows.pop(0)
    found_rows = np.frombuffer(rows, np.int64) if len(rows) else np.empty(0, np.int64)
    return np.argsort(found_rows, kind="stable"), np.bincount(found_rows, minlength=num_rows)


def best_fit_decreasing(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit decreasing bin packing on the histogram of the lengths (as Krell et al. 2021, arXiv:2107.02027, pack).

    The longest segments come first, and each goes to the row with the least room left. Segments of the same length are
    equal, so that rows with the same lengths are packed at once: the time depends on the number of lengths. Which
    segments of a length share a row is random if the order of the segments is.

    Args:
        lengths, row_length: see `pack`, which also says what is returned.
    """
    groups = _groups(np.bincount(lengths, minlength=row_length + 1).tolist(), row_length)
    by_length = np.argsort(lengths, kind="stable")
    used = np.searchsorted(lengths[by_length], np.arange(row_length + 2))  # the next segment of each length
    order = np.empty(len(lengths), np.int64)
    sizes = np.repeat([len(members) for _, members in groups], [count for count, _ in groups]).astype(np.int64)
    begin = 0
    for count, members in groups:
        end = begin + count * len(members)
        for place, length in enumerate(members):
            order[begin + place : end : len(members)] = by_length[used[length] : used[length] + count]
            used[length] += count
        begin = end
    return order, sizes


def _groups(counts: list[int], row_length: int) -> list[tuple[int, tuple[int, ...]]]:
    """Pack a histogram of lengths; return groups of rows: their number, and the lengths of the segments of each.

    Args:
        counts: number of segments of each length, from 0 to T.
        row_length: number of tokens of a row (T).
    """
    by_room: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(row_length + 1)]
    for length in range(row_length, 0, -1):
        left = counts[length]
        for room in range(length, row_length):
            while left and by_room[room]:
                count, members = by_room[room].pop()
                each = min(room // length, left)
                filled = min(count, left // each)
                if count > filled:
                    by_room[room].append((count - filled, members))
                by_room[room - each * length].append((filled, (*members, *(length,) * each)))
                left -= filled * each
        in_row = row_length // length
        for rows, each in ((left // in_row, in_row), (1, left % in_row)):  # new rows
            if rows and each:
                by_room[row_length - each * length].append((rows, (length,) * each))
    return [group for groups in by_room for group in groups]


def shared_plan(key: str, epoch: int, build: Callable[[], RowPlan], row_length: int, num_tokens: int) -> RowPlan:
    """Return a plan of an epoch from memory-mapped files in the cache. The first process of a machine that needs it
    builds it, while the others wait. The plans of other epochs are removed, except the newest.

    Args:
        key: name of the plans of all epochs: a hash of the text, the row length and the seed.
        epoch: the epoch.
        build: builds the plan.
        row_length: number of tokens of a row (T).
        num_tokens: number of tokens of the text.

    Raises:
        OSError: the files can't be written.
    """
    folder = make_cache("plans")
    entry = folder / f"{key}.{epoch}"
    with cache_lock(f"plans.{key}"):
        plan = _open_plan(entry, row_length, num_tokens)
        if plan is None:
            _write_plan(entry, build())
            for old in sorted(folder.glob(f"{key}.*[0-9]"), key=_age)[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)  # a process that has opened it keeps its files
            plan = _open_plan(entry, row_length, num_tokens)
    if plan is None:
        raise OSError(f"{entry}, the plan of an epoch that was just written, is corrupt: another program changes it")
    return plan


def _age(path: Path) -> float:
    return -path.lstat().st_mtime


def _write_plan(entry: Path, plan: RowPlan) -> None:
    """Write the arrays of a plan beside its place, and rename the folder."""
    if entry.is_symlink() or entry.is_file():
        entry.unlink()
    shutil.rmtree(entry, ignore_errors=True)
    staged = Path(tempfile.mkdtemp(prefix=f"{entry.name}.tmp", dir=entry.parent))
    try:
        for field in fields(plan):
            np.save(staged / f"{field.name}.npy", getattr(plan, field.name))
        staged.rename(entry)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _open_plan(entry: Path, row_length: int, num_tokens: int) -> RowPlan | None:
    """Open a plan; None if it does not exist or is invalid. The files may be those of somebody else."""
    paths = [entry / f"{field.name}.npy" for field in fields(RowPlan)]
    try:
        if entry.is_symlink() or any(path.is_symlink() or not path.is_file() for path in paths):
            return None
        # A view of a memory map is indexed faster than the map itself.
        arrays = [np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray) for path in paths]
    except (OSError, ValueError, EOFError):
        return None
    starts, lengths, offsets = arrays
    types = [array_.dtype for array_ in arrays] == [np.int64, np.int32, np.int64]
    if not types or {array_.ndim for array_ in arrays} != {1} or len(starts) != len(lengths) or len(offsets) < 2:
        return None
    if offsets[0] != 0 or offsets[-1] != len(starts) or np.any(offsets[1:] <= offsets[:-1]):
        return None
    if lengths.min() < 1 or starts.min() < 0 or np.any(starts + lengths > num_tokens):
        return None
    if np.add.reduceat(lengths, offsets[:-1], dtype=np.int64).max() > row_length:
        return None
    return RowPlan(starts, lengths, offsets)
