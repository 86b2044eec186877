"""Deterministic train, validation and test splits, shared by every training task.

Rows are assigned by a hash of their content and a seed. Rows with equal content stay in the same split, so that
duplicates of training rows do not appear in the validation set. With labels, the split is stratified. If the dataset
is a single document, its end is held out instead (`token_shards.prepare_texts`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np


def content_key(*texts: str) -> int:
    """Return a 64-bit hash of one text or of several texts in order; equal texts have equal keys."""
    digest = hashlib.blake2b(digest_size=8)
    for number, text in enumerate(texts):
        digest.update(b"\0" * (number > 0) + text.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little")


def hold_out(keys: Any, fraction: float, seed: int = 0, strata: Sequence[Hashable] | None = None) -> np.ndarray:
    """Select the rows to hold out.

    The target is `round(fraction * N)` rows, at least 1 and at most N - 1. Rows with equal keys stay together, so with
    duplicates the result can contain fewer rows. The exception is a dataset in which all rows, or all rows of each
    label, are equal: some copies are then held out, because otherwise one side of the split would be empty.

    Args:
        keys: a 64-bit key for each row, shape (N,), such as `content_key` of its text.
        fraction: fraction of the rows to hold out, between 0 and 1.
        seed: seed of the split.
        strata: the label of each row, length N, for a stratified split.

    Returns:
        Boolean mask of shape (N,), True for the rows held out. All False if N < 2.
    """
    keys = np.asarray(keys, dtype=np.uint64)
    groups, group_of, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(groups), dtype=bool)
    if len(keys) < 2:
        return chosen[group_of]
    order = np.argsort(_mix(groups ^ _mix(np.asarray([seed], dtype=np.uint64))), kind="stable")
    labels = sorted(set(strata), key=str) if strata else [None]
    numbers = {label: number for number, label in enumerate(labels)}
    stratum = np.full(len(groups), len(labels), dtype=np.int64)
    np.minimum.at(stratum, group_of, [numbers[label] for label in strata] if strata else 0)
    rows = np.bincount(stratum, weights=sizes, minlength=len(numbers)).astype(np.int64)
    quotas = _quotas(rows, min(max(1, round(fraction * len(keys))), len(keys) - 1))
    for number, quota in enumerate(quotas):
        own = order[stratum[order] == number]
        if sizes.max() == 1:
            chosen[own[:quota]] = True
            continue
        taken = 0
        for group in own:
            if taken + sizes[group] <= quota:
                chosen[group], taken = True, taken + sizes[group]
            if taken == quota:
                break
    if chosen.any():
        return chosen[group_of]
    several = order[np.bincount(stratum)[stratum[order]] > 1]
    if len(several) or not quotas.any():  # hold out a group larger than the quota rather than nothing
        left = several if len(several) else order
        chosen[left[np.argmin(sizes[left])]] = True
        return chosen[group_of]
    held = np.zeros(len(keys), dtype=bool)
    for number, quota in enumerate(quotas):
        held[np.flatnonzero(stratum[group_of] == number)[len(held) if not quota else -quota :]] = True
    return held


def assign_splits(
    keys: Any, fractions: dict[str, float], seed: int = 0, strata: Sequence[Hashable] | None = None
) -> dict[str, np.ndarray]:
    """Divide rows into splits. Rows that are in none of the splits named in `fractions` go to "train".

    Args:
        keys, seed, strata: see `hold_out`.
        fractions: fraction of all rows by split name, such as {"validation": 0.05, "test": 0.1}. A split with
            fraction 0 is empty.

    Returns:
        For each split, the sorted indices of its rows.
    """
    keys = np.asarray(keys, dtype=np.uint64)
    left = np.arange(len(keys))
    parts: dict[str, np.ndarray] = {}
    for number, (name, fraction) in enumerate(fractions.items()):
        labels = None if strata is None else [strata[int(i)] for i in left]
        remaining = fraction * len(keys) / max(1, len(left))  # the fraction of the rows that are left
        out = hold_out(keys[left], remaining, seed + number, labels) if remaining else np.zeros(len(left), dtype=bool)
        parts[name], left = left[out], left[~out]
    return {"train": left, **parts}


def _quotas(rows: np.ndarray, total: int) -> np.ndarray:
    """Allocate `total` held-out rows to strata in proportion to their sizes (largest-remainder method).

    At least one row of each stratum is left for training, so the quotas can add up to less than `total`."""
    exact = rows * (total / rows.sum())
    quotas = np.minimum(np.floor(exact).astype(np.int64), np.maximum(rows - 1, 0))
    for number in np.argsort(quotas - exact, kind="stable"):
        if quotas.sum() == total:
            break
        quotas[number] += quotas[number] < rows[number] - 1
    return quotas


def _mix(keys: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers with a fixed permutation (the finaliser of splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
