"""Owns the sufficient statistics of a linear model: the sums over N rows.

The trainer rebuilds posteriors from them, and every posterior contains them as its exact record.
They hold numbers only; snapshots persist them.
Shapes: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.rows import FloatArray, as_row, as_rows, as_value, as_values
from bandexa_core.posterior.tensors import read_scalar, read_tensor

_WAITING_ROWS = 64
_NO_WEIGHT = 1e-12  # of what was subtracted: what rounding may leave of it
_NEARLY_0 = 1e-3  # the mean square of a feature that may be one of rounding errors


class Statistics:
    """Exact sums over N rows (z, r), in float64.

    Attributes:
        zz: sum of z z^T, shape (D, D), symmetric.
        zr: sum of r z, shape (D,).
        rr: sum of r^2.
        n: sum of the rows' weights: their number if each weighs 1.
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
        self.n = 0.0

    @property
    def dim(self) -> int:
        """Number of features D."""
        return len(self.zr)

    def add(
        self, z_ND: npt.ArrayLike, r_N: npt.ArrayLike, weights_N: FloatArray | None = None
    ) -> None:
        """Add a chunk of rows: z of shape (N, D), values r and weights from 0 to 1 of shape (N,).

        Raises:
            ValueError: wrong shapes or numbers that are not finite; nothing is added then.
        """
        rows = as_rows(z_ND, self.dim)
        values = as_values(r_N, rows.shape[0])
        num = float(len(rows))
        if weights_N is not None:
            roots_N = np.sqrt(weights_N)
            rows, values, num = rows * roots_N[:, None], values * roots_N, float(weights_N.sum())
        self.zz += rows.T @ rows
        self.zr += values @ rows
        self.rr += float(values @ values)
        self.n += num

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

    def scale(self, factor: float) -> None:
        """Multiply the weight of every row by `factor`."""
        self.zz *= factor
        self.zr *= factor
        self.rr *= factor
        self.n *= factor

    def shift(self, change: float) -> None:
        """Subtract `change` from the value of every row; the last feature is the constant 1."""
        if not change:
            return
        count, total = float(self.zz[-1, -1]), float(self.zr[-1])
        self.zr -= change * self.zz[-1]
        # A sum of squares; rounding must not take it below zero.
        self.rr = max(self.rr + change * (change * count - 2.0 * total), 0.0)

    def correct(self, z: npt.ArrayLike, before: float, after: float, weight: float = 1.0) -> None:
        """Change the value of one row from `before` to `after`; `weight`: its present weight.

        Raises:
            ValueError: wrong shape or numbers that are not finite; nothing is changed then.
        """
        row, before, after = as_row(z, self.dim), as_value(before), as_value(after)
        self.zr += weight * (after - before) * row
        # A sum of squares; rounding must not take it below zero.
        self.rr = max(self.rr + weight * (after - before) * (after + before), 0.0)

    def remove(self, z_ND: npt.ArrayLike, r_N: npt.ArrayLike, weights_N: FloatArray) -> None:
        """Subtract rows that `add` or single rows brought, with the weights that they have now.

        What rounding leaves is of the size of the sums that were subtracted from. Where no weight
        is left, nothing is.

        Raises:
            ValueError: wrong shapes or numbers that are not finite; nothing is changed then.
        """
        other = Statistics(self.dim)
        other.add(z_ND, r_N, weights_N)
        left = self.n - other.n
        if left <= _NO_WEIGHT * max(other.n, 1.0):
            self.scale(0.0)
            return
        self.zz -= other.zz
        self.zr -= other.zr
        self.rr = max(self.rr - other.rr, 0.0)  # as above
        self.n = left

    def mapped(self, matrix_DD: FloatArray) -> Statistics:
        """Return the sums of the same rows with features T z, for a matrix T of shape (D, D)."""
        other = self.copy()
        zz = matrix_DD @ self.zz @ matrix_DD.T
        other.zz, other.zr = 0.5 * (zz + zz.T), matrix_DD @ self.zr
        return other

    def is_semidefinite(self, within: float = 0.0) -> bool:
        """Whether `zz` is positive semidefinite, up to rounding of its factorisation.

        `within`: by how much, with the diagonal scaled to 1, an eigenvalue may be negative. A
        feature that was nearly 0 in all rows counts as a larger one: standardised, a constant is 0
        up to rounding, and so are its products, the square as well.
        """
        scaled_DD, size_D = self._scaled(_NEARLY_0 * self.n)
        if self.zz[size_D == 0.0].any():  # a feature that was always 0 has no products
            return False
        rounding = 4.0 * len(size_D) * np.finfo(float).eps
        scaled_DD[np.diag_indices_from(scaled_DD)] += within + rounding
        try:
            np.linalg.cholesky(scaled_DD + np.diag(size_D == 0.0))
        except np.linalg.LinAlgError:
            return False
        return True

    def mended(self) -> Statistics:
        """Return sums whose `zz` is positive semidefinite again, after rounding has changed it.

        Negative eigenvalues (with the diagonal scaled to 1) become zero; see `is_semidefinite`.
        """
        other = self.copy()
        scaled_DD, size_D = self._scaled(_NEARLY_0 * self.n)
        eigenvalues, vectors = np.linalg.eigh(scaled_DD)
        half = vectors * np.sqrt(np.maximum(eigenvalues, 0.0)) * size_D[:, None]
        other.zz = half @ half.T
        return other

    def _scaled(self, least: float) -> tuple[FloatArray, FloatArray]:
        """Return `zz` with its diagonal scaled to 1, and the sizes of the features, (D,).

        `least`: the least sum of squares that a feature is scaled by.
        """
        size_D = np.sqrt(np.maximum(np.diagonal(self.zz), least))
        scale_D = np.divide(1.0, size_D, out=np.zeros_like(size_D), where=size_D > 0.0)
        return self.zz * scale_D * scale_D[:, None], size_D

    def squares(self, mean_D: FloatArray) -> float:
        """Return the sum of squared errors of the predictions z.mean."""
        return self.rr + float(mean_D @ (self.zz @ mean_D - 2.0 * self.zr))

    def to_tensors(self) -> dict[str, FloatArray]:
        """Return copies of the sums by name."""
        return {
            "zz": self.zz.copy(),
            "zr": self.zr.copy(),
            "rr": np.array(self.rr),
            "n": np.array(self.n),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.ArrayLike], dim: int) -> Statistics:
        """Return the sums that `to_tensors` wrote.

        Raises:
            ValueError: a tensor is missing or invalid; it is named.
        """
        sums = cls(dim)
        sums.zz = read_tensor(tensors, "zz", (dim, dim))
        sums.zr = read_tensor(tensors, "zr", (dim,))
        sums.rr = read_scalar(tensors, "rr", 0.0)
        sums.n = read_scalar(tensors, "n", 0.0)
        return sums

    def copy(self) -> Statistics:
        """Return an independent copy."""
        other = Statistics(self.dim)
        other.zz, other.zr = self.zz.copy(), self.zr.copy()
        other.rr, other.n = self.rr, self.n
        return other


class RowStatistics:
    """Exact sums that grow row by row, for a serving posterior.

    `rr` and `n` of `sums` are always up to date. Rows are buffered and enter `zz` and `zr` 64 at a
    time as matrix products: a rank-1 sum for each would cost as much as the update of the root.
    Only their count decides when, so a copy with the same buffered rows continues bit for bit.

    Attributes:
        sums: the sums, with `zz` and `zr` without the waiting rows.
    """

    __slots__ = ("_num_waiting", "_waiting", "sums")

    def __init__(self, sums: Statistics, waiting: FloatArray | None = None) -> None:
        """Take ownership of `sums`.

        Args:
            sums: see the class.
            waiting: fewer than 64 rows (z, r), shape (W, D + 1); or z alone, (W, D), from a time
                when rows waited for `zz` alone.

        Raises:
            ValueError: `waiting` has a wrong shape.
        """
        self.sums = sums
        self._waiting: FloatArray = np.zeros((_WAITING_ROWS, sums.dim + 1))
        self._num_waiting = 0
        if waiting is not None:
            widths = (sums.dim, sums.dim + 1)
            if waiting.ndim != 2 or waiting.shape[1] not in widths or len(waiting) >= _WAITING_ROWS:
                raise ValueError(f"waiting rows have a wrong shape, {waiting.shape}")
            self._num_waiting = len(waiting)
            self._waiting[: len(waiting), : waiting.shape[1]] = waiting

    @property
    def waiting(self) -> FloatArray:
        """The rows (z, r) that wait, shape (W, D + 1): a view."""
        return self._waiting[: self._num_waiting]

    def add_row(self, z: FloatArray, r: float) -> None:
        """Add one row that has been checked."""
        self.sums.rr += r * r
        self.sums.n += 1
        row = self._waiting[self._num_waiting]
        row[:-1] = z
        row[-1] = r
        self._num_waiting += 1
        if self._num_waiting == _WAITING_ROWS:
            self.fold()

    def fold(self) -> None:
        """Bring `zz` and `zr` up to date."""
        if self._num_waiting:
            z_WD, r_W = self.waiting[:, :-1], self.waiting[:, -1]
            self.sums.zz += z_WD.T @ z_WD
            self.sums.zr += r_W @ z_WD
            self._num_waiting = 0

    def copy(self) -> RowStatistics:
        """Return an independent copy that continues bit for bit."""
        return RowStatistics(self.sums.copy(), self.waiting)
