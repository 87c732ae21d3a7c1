"""A bounded sample of the rows of a log, so that fitting takes bounded memory and one pass.

Each row has a priority by its place in the sequence, and the rows of the lowest priorities stay
(bottom-k sampling). It is a uniform sample, the same in every process, and, unlike every n-th row,
no period of the rows can fool it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.schema.objects import JsonObject, flatten

SAMPLE_ROWS = 10_000
SAMPLE_BYTES = 64 << 20  # about; rows with much text are fewer
_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Rows of a log, in their order.

    Attributes:
        rows: The values of each row by path, N of them.
        weights: Their weights (N,), above 0.
        num_rows: How many rows of a weight above 0 there were.
    """

    rows: tuple[Mapping[str, Any], ...]
    weights: NDArray[np.float64]
    num_rows: int


def sample_rows(
    objects: Iterable[JsonObject],
    weights: Iterable[float] | None = None,
    *,
    most_rows: int = SAMPLE_ROWS,
    most_bytes: int = SAMPLE_BYTES,
) -> Sample:
    """Return at most `most_rows` of the objects, by their place in the sequence alone.

    Args:
        objects: The objects, oldest first.
        weights: How much each counts; None: all alike. Those of weight 0 are left out.
        most_rows: How many may stay.
        most_bytes: How large they may be together, by a rough count. One row always stays.

    Raises:
        ValueError: A weight is no finite number of 0 or above, or there are more or fewer of them.
    """
    if weights is not None:
        rows: Iterable[tuple[JsonObject, float]] = zip(objects, weights, strict=True)
    else:
        rows = ((item, 1.0) for item in objects)
    heap: list[tuple[int, int, Mapping[str, Any], float, int]] = []
    num, size = 0, 0
    highest = _BITS + 1  # priorities from here on are not taken
    for item, weight in rows:
        if not (math.isfinite(weight) and weight >= 0.0):
            raise ValueError("weights: must be finite numbers, 0 or above")
        if weight == 0.0:
            continue
        priority = _mixed(num)
        num += 1
        if priority >= highest:
            continue
        flat = flatten(item)
        cost = _cost(flat)
        heappush(heap, (-priority, num, flat, float(weight), cost))
        size += cost
        while len(heap) > most_rows or (size > most_bytes and len(heap) > 1):
            dropped = heappop(heap)
            highest, size = -dropped[0], size - dropped[4]
    kept = sorted(heap, key=lambda row: row[1])
    found = np.array([row[3] for row in kept], np.float64)
    return Sample(tuple(row[2] for row in kept), found, num)


def _mixed(number: int) -> int:
    """Return a number as 64 bits that look random: splitmix64 of Steele, Lea and Flood, 2014."""
    bits = (number + 1) * 0x9E3779B97F4A7C15 & _BITS
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _BITS
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _BITS
    return bits ^ bits >> 31


def _cost(flat: Mapping[str, Any]) -> int:
    """Return about how many bytes a row takes."""
    size = 240 + 100 * len(flat)
    for item in flat.values():
        if isinstance(item, str):
            size += 4 * len(item)
        elif isinstance(item, list | tuple):
            size += 8 * len(item) + sum(
                4 * len(entry) + 56 if isinstance(entry, str) else 32 for entry in item
            )
    return size
