"""Fits categories: which values have a column of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def vocabulary(rows: Iterable[Iterable[str]], most: int, least_rows: int) -> tuple[str, ...]:
    """Return the values that have a column, in the order of their names.

    Args:
        rows: The values of each row.
        most: How many may have one: the most frequent, and of equally frequent ones the first by
            name.
        least_rows: In how many rows a value must have been seen.
    """
    counts = Counter(value for values in rows for value in set(values))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(sorted(value for value, num in ranked[:most] if num >= least_rows))
