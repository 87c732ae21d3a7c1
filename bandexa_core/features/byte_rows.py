"""Rows of bytes: objects as JSON, with zeros behind them up to a common size.

How many zeros are behind an object says nothing, as JSON has none. Rows of numbers all have one
shape, and pass through here as they are. Legend: N rows, R bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def stacked(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return rows as one array (N, *X); objects are made as long as the longest row.

    Raises:
        ValueError: Rows of numbers have several shapes.
    """
    if len({row.shape for row in rows}) == 1 or any(row.dtype != np.uint8 for row in rows):
        return np.stack(rows)
    whole = np.zeros((len(rows), max(len(row) for row in rows)), np.uint8)
    for number, row in enumerate(rows):
        whole[number, : len(row)] = row
    return whole


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return parts (N, R) one after the other; objects are made as long as the longest row."""
    widest = max(part.shape[1] for part in parts)
    return np.concatenate([resized(part, widest) for part in parts])


def resized(rows_NR: NDArray[Any], size: int) -> NDArray[Any]:
    """Return objects (N, R) as rows of `size` bytes.

    Raises:
        ValueError: One of them is longer.
    """
    num, known = rows_NR.shape
    if known == size:
        return rows_NR
    if known > size:
        if rows_NR[:, size:].any():
            raise ValueError(f"an object has more than {size} bytes")
        return rows_NR[:, :size]
    wider = np.zeros((num, size), rows_NR.dtype)
    wider[:, :known] = rows_NR
    return wider


def longest(rows_NR: NDArray[Any]) -> int:
    """Return the bytes of the longest object of rows (N, R); 0 without any."""
    used = np.flatnonzero(rows_NR.any(axis=0))
    return int(used[-1]) + 1 if len(used) else 0
