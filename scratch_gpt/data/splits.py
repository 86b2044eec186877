"""Who is held out: one rule for every job.

A split is a function of the rows' contents and a seed, not of their order: equal rows land on one side, so that no
duplicate of a training row is validated on, and the shares are those asked for, within each label where there are
labels. Where there is only one document, its end is held out (`shards.prepare`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np


def content_key(*texts: str) -> int:
    """A 64-bit hash of one text, or of several in their order; equal texts have equal keys."""
    digest = hashlib.blake2b(digest_size=8)
    for number, text in enumerate(texts):
        digest.update(b"\0" * (number > 0) + text.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little")


def hold_out(keys: Any, fraction: float, seed: int = 0, strata: Sequence[Hashable] | None = None) -> np.ndarray:
    """Which rows are held out, as booleans (N,).

    The number of rows held out is `fraction` of all, rounded, but at least one and at most all but one; rows with equal
    keys stay together, so it can differ a little where there are duplicates. Only where all rows, or all rows of each
    label, are equal are some of them held out all the same: else nothing, or no row of a label, would be left.

    Args:
        keys: a 64-bit key for each row (N,), such as `content_key` of its text.
        fraction: share to hold out, between 0 and 1.
        seed: the same seed gives the same split, in whatever order the rows come.
        strata: for each row its label; each label then has about the same share on both sides.

    Returns:
        All False where there are fewer than two rows: nothing can be held out.
    """
    keys = np.asarray(keys, dtype=np.uint64)
    groups, first, group_of, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(groups), dtype=bool)
    if len(keys) < 2:
        return chosen[group_of]
    order = np.argsort(_mix(groups ^ _mix(np.asarray([seed], dtype=np.uint64))), kind="stable")
    numbers = {label: number for number, label in enumerate(dict.fromkeys(strata or [None]))}
    stratum = np.asarray([numbers[strata[int(i)]] for i in first]) if strata else np.zeros(len(groups), dtype=np.int64)
    rows = np.bincount(stratum, weights=sizes, minlength=len(numbers)).astype(np.int64)
    quotas = _quotas(rows, min(max(1, round(fraction * len(keys))), len(keys) - 1))
    for number, quota in enumerate(quotas):
        mine = order[stratum[order] == number]
        mine = mine[sizes[mine] <= quota]
        chosen[mine[np.cumsum(sizes[mine]) <= quota]] = True
    if chosen.any():
        return chosen[group_of]
    several = order[np.bincount(stratum)[stratum[order]] > 1]
    if len(several) or not quotas.any():  # a group that is larger than was asked for, rather than none
        left = several if len(several) else order
        chosen[left[np.argmin(sizes[left])]] = True
        return chosen[group_of]
    held = np.zeros(len(keys), dtype=bool)
    for number, quota in enumerate(quotas):
        held[np.flatnonzero(stratum[group_of] == number)[len(held) if not quota else -quota :]] = True
    return held


def deal(
    keys: Any, fractions: dict[str, float], seed: int = 0, strata: Sequence[Hashable] | None = None
) -> dict[str, np.ndarray]:
    """Row numbers by split, in order: each name of `fractions` gets its share, "train" the rest.

    Args:
        keys, seed, strata: as for `hold_out`.
        fractions: by name, such as {"validation": 0.05, "test": 0.1}; a share of 0 gets nothing.
    """
    keys = np.asarray(keys, dtype=np.uint64)
    left = np.arange(len(keys))
    parts: dict[str, np.ndarray] = {}
    for number, (name, fraction) in enumerate(fractions.items()):
        labels = None if strata is None else [strata[int(i)] for i in left]
        share = fraction * len(keys) / max(1, len(left))
        out = hold_out(keys[left], share, seed + number, labels) if share else np.zeros(len(left), dtype=bool)
        parts[name], left = left[out], left[~out]
    return {"train": left, **parts}


def _quotas(rows: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out among strata in proportion to their rows by largest remainders; each keeps one row where the
    others can take what it would give."""
    exact = rows * (total / rows.sum())
    quotas = np.minimum(np.floor(exact).astype(np.int64), np.maximum(rows - 1, 0))
    for number in np.argsort(quotas - exact, kind="stable"):
        if quotas.sum() == total:
            break
        quotas[number] += quotas[number] < rows[number] - 1
    return quotas


def _mix(keys: np.ndarray) -> np.ndarray:
    """A fixed permutation of 64-bit numbers that looks random (the finaliser of splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
