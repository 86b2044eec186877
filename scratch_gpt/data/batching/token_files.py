"""Token ids in many files, indexed like one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class TokenFiles:
    """The concatenation of several arrays, such as memory maps, without a copy.

    A slice that lies in one array is a view; any other index copies what it selects.

    Args:
        arrays: one or more arrays of one dimension and the same data type.
    """

    ndim = 1

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays, self.dtype = list(arrays), arrays[0].dtype
        self.bounds = np.concatenate(([0], np.cumsum([len(array) for array in arrays])))

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @property
    def shape(self) -> tuple[int]:
        """Length, as a tuple."""
        return (len(self),)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            found = self._between(start, stop) if step > 0 else self._between(stop + 1, start + 1)[::-1]
            return found if abs(step) == 1 else found[:: abs(step)]
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} is out of bounds for {len(self)} tokens")
            return self[index % len(self) : index % len(self) + 1][0]
        numbers = np.asarray(index)
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        which = np.searchsorted(self.bounds, numbers, side="right") - 1
        found = np.empty(numbers.shape, self.dtype)
        for number in np.unique(which).tolist():
            found[which == number] = self.arrays[number][numbers[which == number] - self.bounds[number]]
        return found

    def _between(self, start: int, stop: int) -> np.ndarray:
        """Return the elements from `start` to `stop` - 1."""
        if start >= stop:
            return self.arrays[0][:0]
        first, last = (np.searchsorted(self.bounds, [start, stop - 1], side="right") - 1).tolist()
        pieces = [
            self.arrays[number][max(0, start - int(self.bounds[number])) : stop - int(self.bounds[number])]
            for number in range(first, last + 1)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)

    def astype(self, dtype: Any) -> np.ndarray:
        """Copy all elements to an array of another data type."""
        return self[:].astype(dtype)

    def tolist(self) -> list[int]:
        """Copy all elements to a list."""
        return self[:].tolist()
