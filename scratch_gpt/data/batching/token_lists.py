"""Tokenised texts in memory, concatenated into one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tokens:
    """N tokenised texts, concatenated.

    Attributes:
        ids: token ids of all texts, uint32, shape (T,).
        ends: end index (exclusive) of each text, int64, shape (N,).
    """

    ids: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Tokens:
        """Concatenate the token ids of several texts."""
        ids = np.fromiter((id for text in texts for id in text), dtype=np.uint32)
        return cls(ids, np.cumsum([len(text) for text in texts], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.ends[index - 1] if index else 0 : self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, shape (N,)."""
        return np.diff(self.ends, prepend=0)
