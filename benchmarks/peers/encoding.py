"""Encodes the columns of a table as a context: the same numbers for every policy and peer.

- A column of numbers is (value - mean) / standard deviation, with the moments of the whole table.
  Columns named in `logs` are replaced by sign(v) log(1 + |v|) first. A missing number is 0, the
  mean, and the column gets a second one that is 1 where the number is missing.
- Any other column becomes one column of 0 and 1 for each of its values in sorted order; a missing
  value is a value of its own.
- A column that is constant is dropped.

The moments of the whole table are known before the first step. Libraries without scaling of their
own are so at their best, and nobody learns less from it than the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MISSING = "(missing)"
Column = NDArray[np.float64] | tuple[str, ...]
"""n numbers, where NaN is missing, or n texts."""


class Encoded(NamedTuple):
    """Rows of numbers: `values` float32 (n, d), and the names of the d columns."""

    values: NDArray[np.float32]
    names: tuple[str, ...]


def column(values: Iterable[Any]) -> Column:
    """Return values as numbers where all of them are some, else as texts; None is missing."""
    found = list(values)
    if all(value is None or isinstance(value, int | float | np.number) for value in found):
        return np.array([np.nan if value is None else float(value) for value in found])
    return tuple(MISSING if value is None else str(value) for value in found)


def encode(columns: Mapping[str, Column], *, logs: Collection[str] = ()) -> Encoded:
    """Return columns of n rows as numbers.

    Raises:
        ValueError: A name in `logs` is no column of numbers, or no column has two values.
    """
    numbers = {name for name, values in columns.items() if not isinstance(values, tuple)}
    if wrong := set(logs) - numbers:
        raise ValueError(f"no columns of numbers: {', '.join(sorted(wrong))}")
    found: dict[str, NDArray[np.float64]] = {}
    for name, values in columns.items():
        if isinstance(values, tuple):
            texts = np.array(values)
            for value in sorted(set(values)):
                found[f"{name}={value}"] = (texts == value).astype(np.float64)
        else:
            missing = np.isnan(values)
            found[name] = _scaled(_logarithm(values) if name in logs else values, missing)
            found[f"{name}={MISSING}"] = missing.astype(np.float64)
    varying = {name: values for name, values in found.items() if values.min() != values.max()}
    if not varying:
        raise ValueError("no column has two values")
    stacked = np.stack(list(varying.values()), axis=1)
    return Encoded(stacked.astype(np.float32), tuple(varying))


def labels(values: Column) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return for each value its index among the sorted distinct values, and these."""
    texts = [value if isinstance(value, str) else format(value, "g") for value in values]
    distinct = tuple(sorted(set(texts)))
    index = {text: number for number, text in enumerate(distinct)}
    return np.array([index[text] for text in texts], np.int64), distinct


def _logarithm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def _scaled(values: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return standardised values, 0 where one is missing or where all are equal."""
    known = values[~missing]
    out = np.zeros(len(values))
    if len(known) and known.min() != known.max():
        out[~missing] = (known - known.mean()) / known.std()
    return out
