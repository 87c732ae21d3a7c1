"""Groups of actions with equal features, such as the variants of a product.

An encoder cannot distinguish them. Computed apart, their values would still differ by rounding,
otherwise in each product, and rounding would choose among them. So each group is scored once.
Legend: K rows, A features, G groups.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FEW = 512  # rows up to which comparing their bytes takes less time than numbers for them
CHUNK = 4096  # rows whose numbers are computed together; they stay in the cache
ZERO = np.float32(0.0)  # added to a row, it makes -0 the 0 that it equals


class Groups(NamedTuple):
    """Rows in groups.

    Attributes:
        first: The first row of each group, (G,).
        of: The group of each row, (K,).
        sizes: The number of rows in each group, (G,).
    """

    first: NDArray[np.int64]
    of: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of_rows(cls, rows_KA: NDArray[Any]) -> Groups | None:
        """Return the groups of rows with equal numbers; None where all differ."""
        keys_K = equal_rows(rows_KA)
        return None if keys_K is None else cls.by(keys_K)

    @classmethod
    def by(cls, keys_K: NDArray[np.int64]) -> Groups | None:
        """Return the groups of equal keys; None where all keys differ."""
        _, first, of, sizes = np.unique(
            keys_K, return_index=True, return_inverse=True, return_counts=True
        )
        return None if len(first) == len(keys_K) else cls(first, of, sizes)


def equal_rows(rows_KA: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return for each row the index of the first one with equal numbers, (K,); None: all differ.

    Args:
        rows_KA: Numbers, float32 (K, A), or the bytes of objects with zeros behind them, uint8.
    """
    num = len(rows_KA)
    if num < 2:
        return None
    if rows_KA.dtype == np.uint8:  # behind the longest object there is nothing to compare
        rows_KA = rows_KA[:, : int(np.count_nonzero(rows_KA.any(axis=0)))]
    size = rows_KA.shape[1]
    if not size:
        return np.zeros(num, np.int64)
    suspects = np.arange(num) if num <= FEW else _suspects(rows_KA)
    rows = np.ascontiguousarray(rows_KA[suspects] + ZERO)
    texts = rows.view(f"V{rows.itemsize * size}").ravel().tolist()
    first: dict[bytes, int] = {}
    found = [first.setdefault(row, at) for at, row in zip(suspects.tolist(), texts, strict=True)]
    if len(first) == len(suspects):
        return None
    firsts = np.arange(num)
    firsts[suspects] = found
    return firsts


def _suspects(rows_KA: NDArray[Any]) -> NDArray[np.int64]:
    """Return the rows that may equal another one: those whose number occurs twice."""
    num = len(rows_KA)
    factors = _factors(rows_KA.shape[1])
    numbers_K = np.empty(num, np.uint64)
    for start in range(0, num, CHUNK):
        piece = slice(start, start + CHUNK)
        numbers_K[piece] = np.ascontiguousarray(rows_KA[piece] + ZERO).view(np.uint32) @ factors
    in_order = np.sort(numbers_K)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    return np.flatnonzero(np.isin(numbers_K, twice)) if len(twice) else np.zeros(0, np.int64)


@lru_cache(maxsize=64)
def _factors(size: int) -> NDArray[np.uint64]:
    return np.random.default_rng(20).integers(0, 2**63, size, np.uint64) * 2 + 1
