"""Owns the checks of a posterior's input: feature rows z and values r.

Pure functions, called before any state changes, so a refused row changes nothing.
Shapes: N rows, D features.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# With this bound and the range of PosteriorConfig every sum and product is finite, for any number
# of rows: finite input cannot turn a posterior into NaN.
MAX_NORM = 1e50
_MAX_SQUARE = MAX_NORM**2


def as_row(z: npt.ArrayLike, dim: int) -> FloatArray:
    """Return z as a contiguous float64 row of shape (D,).

    Contiguous because BLAS may sum a strided row in another order, and replaying the same row
    from elsewhere must repeat bit for bit.

    Raises:
        ValueError: wrong shape, NaN, infinite, or a norm above 1e50.
    """
    row = np.ascontiguousarray(z, dtype=np.float64)
    if row.shape != (dim,):
        raise ValueError(f"z must have shape ({dim},), got {row.shape}")
    # One product finds NaN, infinity and overflow alike: the comparison is false for all of them.
    # vdot, because dot also warns of the overflow.
    if not np.vdot(row, row) <= _MAX_SQUARE:
        raise ValueError(f"z must be finite with a norm of at most {MAX_NORM:g}")
    return row


def learnable(z_ND: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which rows `as_rows` accepts, shape (N,); NaN compares as false."""
    sizes_N = np.maximum.reduce(np.abs(z_ND), axis=1)
    taken: npt.NDArray[np.bool_] = sizes_N <= MAX_NORM / z_ND.shape[1] ** 0.5
    return taken


def as_rows(z_ND: npt.ArrayLike, dim: int) -> FloatArray:
    """Return z as contiguous float64 rows of shape (N, D).

    Raises:
        ValueError: wrong shape, NaN, infinite, or a row whose norm is above 1e50.
    """
    rows = np.ascontiguousarray(z_ND, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"z must have shape (N, {dim}), got {rows.shape}")
    # max and min return NaN when one is there; the bound by sqrt(D) is the row norm's.
    limit = MAX_NORM / max(dim, 1) ** 0.5
    if rows.size and not (rows.max() <= limit and rows.min() >= -limit):
        raise ValueError(f"z must be finite with row norms of at most {MAX_NORM:g}")
    return rows


def as_value(r: float) -> float:
    """Return the value r as a float; int, bool and numpy scalars are accepted.

    Raises:
        ValueError: NaN, infinite, or above 1e50 in size.
    """
    try:
        value = float(r)
    except OverflowError:  # an int beyond float64
        value = math.inf
    if not abs(value) <= MAX_NORM:
        raise ValueError(
            f"the value r must be finite and at most {MAX_NORM:g} in size, got {value}"
        )
    return value


def as_values(r_N: npt.ArrayLike, num: int) -> FloatArray:
    """Return values as a contiguous float64 array of shape (N,).

    Raises:
        ValueError: wrong shape, NaN, infinite, or above 1e50 in size.
    """
    values = np.ascontiguousarray(r_N, dtype=np.float64)
    if values.shape != (num,):
        raise ValueError(f"r must have shape ({num},), got {values.shape}")
    if num and not (values.max() <= MAX_NORM and values.min() >= -MAX_NORM):
        raise ValueError(f"values r must be finite and at most {MAX_NORM:g} in size")
    return values
