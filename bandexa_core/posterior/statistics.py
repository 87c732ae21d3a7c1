"""Owns the sufficient statistics of a linear model: what is left of N rows once they are summed.

Used by whoever rebuilds a posterior (trainer, tests) and kept inside every posterior as its truth.
Holds numbers only; persistence is the snapshot's.
Shapes: N rows, D features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.rows import FloatArray, as_row, as_rows, as_value, as_values

_WAITING_ROWS = 64


class Statistics:
    """Exact sums over N rows (z, r), in float64.

    Attributes:
        zz: sum of z z^T, shape (D, D), symmetric.
        zr: sum of r z, shape (D,).
        rr: sum of r^2.
        n: number of rows.
    """

    __slots__ = ("n", "rr", "zr", "zz")

    def __init__(self, dim: int) -> None:
        """Start empty.

        Raises:
            ValueError: dim is below 1.
        """
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.zz: FloatArray = np.zeros((dim, dim))
        self.zr: FloatArray = np.zeros(dim)
        self.rr = 0.0
        self.n = 0

    @property
    def dim(self) -> int:
        """Number of features D."""
        return len(self.zr)

    def add(self, z_ND: npt.ArrayLike, r_N: npt.ArrayLike) -> None:
        """Add a chunk of rows: z of shape (N, D) and values r of shape (N,).

        Raises:
            ValueError: wrong shapes or numbers that are not finite; nothing is added then.
        """
        rows = as_rows(z_ND, self.dim)
        values = as_values(r_N, rows.shape[0])
        self.zz += rows.T @ rows
        self.zr += values @ rows
        self.rr += float(values @ values)
        self.n += rows.shape[0]

    def merge(self, other: Statistics) -> None:
        """Add the rows another object has summed.

        Raises:
            ValueError: the dimensions differ.
        """
        if other.dim != self.dim:
            raise ValueError(f"can not merge statistics of dimension {other.dim} into {self.dim}")
        self.zz += other.zz
        self.zr += other.zr
        self.rr += other.rr
        self.n += other.n

    def correct(self, z: npt.ArrayLike, before: float, after: float) -> None:
        """Change the value of one row that was added from `before` to `after`.

        Raises:
            ValueError: wrong shape or numbers that are not finite; nothing is changed then.
        """
        row, before, after = as_row(z, self.dim), as_value(before), as_value(after)
        self.zr += (after - before) * row
        # A sum of squares; rounding must not take it below zero.
        self.rr = max(self.rr + (after - before) * (after + before), 0.0)

    def copy(self) -> Statistics:
        """Return an independent copy."""
        other = Statistics(self.dim)
        other.zz, other.zr = self.zz.copy(), self.zr.copy()
        other.rr, other.n = self.rr, self.n
        return other


class RowStatistics:
    """Exact sums that grow row by row: what a serving posterior keeps.

    `zr`, `rr` and `n` of `sums` are always up to date. Rows wait for `zz` and enter it 64 at a time
    as one matrix product: a rank-1 sum for each would cost as much as the update of the root. They
    enter by count alone, so a copy with the same waiting rows continues bit for bit.

    Attributes:
        sums: the sums, with `zz` behind by the rows that wait.
    """

    __slots__ = ("_num_waiting", "_waiting", "sums")

    def __init__(self, sums: Statistics, waiting: FloatArray | None = None) -> None:
        """Take ownership of `sums`; `waiting` holds fewer than 64 rows, shape (W, D).

        Raises:
            ValueError: `waiting` has a wrong shape.
        """
        self.sums = sums
        self._waiting: FloatArray = np.zeros((_WAITING_ROWS, sums.dim))
        self._num_waiting = 0
        if waiting is not None:
            if waiting.ndim != 2 or waiting.shape[1] != sums.dim or len(waiting) >= _WAITING_ROWS:
                raise ValueError(f"waiting rows have a wrong shape, {waiting.shape}")
            self._num_waiting = len(waiting)
            self._waiting[: len(waiting)] = waiting

    @property
    def waiting(self) -> FloatArray:
        """The rows that wait, shape (W, D): a view."""
        return self._waiting[: self._num_waiting]

    def add_row(self, z: FloatArray, r: float) -> None:
        """Add one row that has been checked."""
        sums = self.sums
        sums.zr += r * z
        sums.rr += r * r
        sums.n += 1
        self._waiting[self._num_waiting] = z
        self._num_waiting += 1
        if self._num_waiting == _WAITING_ROWS:
            self.fold()

    def fold(self) -> None:
        """Bring `zz` up to date."""
        if self._num_waiting:
            self.sums.zz += self.waiting.T @ self.waiting
            self._num_waiting = 0

    def copy(self) -> RowStatistics:
        """Return an independent copy that continues bit for bit."""
        return RowStatistics(self.sums.copy(), self.waiting)
