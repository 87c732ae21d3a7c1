"""Encodes a data frame as a context: the same numbers for every policy and peer.

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

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MISSING = "(missing)"


class Encoded(NamedTuple):
    """Rows of numbers: `values` float32 (n, d), and the names of the d columns."""

    values: NDArray[np.float32]
    names: tuple[str, ...]


def encode(frame: Any, *, logs: Collection[str] = ()) -> Encoded:
    """Return the columns of a pandas data frame as numbers.

    Raises:
        ValueError: A name in `logs` is no column of numbers, or no column is left.
    """
    columns: list[NDArray[np.float64]] = []
    names: list[str] = []
    logs_left = set(logs)
    for name in frame.columns:
        series = frame[name]
        if series.dtype.kind in "iuf":
            values = series.to_numpy(dtype=np.float64, na_value=np.nan)
            logs_left.discard(name)
            found = _numbers(name, values, name in logs)
        else:
            found = _categories(name, [_text(value) for value in series])
        for label, column in found:
            if column.min() != column.max():
                names.append(label)
                columns.append(column)
    if logs_left:
        raise ValueError(f"no columns of numbers: {', '.join(sorted(logs_left))}")
    if not columns:
        raise ValueError("no column has two values")
    return Encoded(np.stack(columns, axis=1).astype(np.float32), tuple(names))


def labels(series: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return for each value its index among the sorted distinct values, and these."""
    texts = [_text(value) for value in series]
    distinct = tuple(sorted(set(texts)))
    index = {text: number for number, text in enumerate(distinct)}
    return np.array([index[text] for text in texts], np.int64), distinct


def _numbers(
    name: str, values: NDArray[np.float64], log: bool
) -> list[tuple[str, NDArray[np.float64]]]:
    if log:
        values = np.sign(values) * np.log1p(np.abs(values))
    missing = np.isnan(values)
    spread = np.nanstd(values)
    scaled = (values - np.nanmean(values)) / (spread if spread > 0 else 1.0)
    scaled[missing] = 0.0
    return [(name, scaled), (f"{name}={MISSING}", missing.astype(np.float64))]


def _categories(name: str, texts: list[str]) -> list[tuple[str, NDArray[np.float64]]]:
    array = np.array(texts)
    return [
        (f"{name}={value}", (array == value).astype(np.float64)) for value in sorted(set(texts))
    ]


def _text(value: Any) -> str:
    # None, NaN and pandas' NA differ from themselves or refuse the comparison.
    return MISSING if value is None or value != value or str(value) == "<NA>" else str(value)
