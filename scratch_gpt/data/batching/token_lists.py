"""Tokenised texts, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tokens:
    """Texts as ids, one after the other; text i ends before `ends[i]`."""

    ids: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Tokens:
        ids = np.fromiter((id for text in texts for id in text), dtype=np.uint32)
        return cls(ids, np.cumsum([len(text) for text in texts], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.ends[index - 1] if index else 0 : self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)
