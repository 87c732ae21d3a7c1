"""The matrices [S mean] of all slots of a disjoint posterior in one array, for its queries.

A query of K slots is then two calls of numpy instead of K times two. The array is a copy: whoever
changes a slot puts it again, which copies one matrix (2 KB for 16 features). So queries write
nothing. Each slot's part of a result has the bits that `State.project` gives, because numpy calls
the same routine of BLAS for each matrix.
Shapes: B vectors, K requested slots, N learned slots, D weights, W = D + 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandexa_core.posterior.rows import FloatArray
from bandexa_core.posterior.state import IntArray

# Above, matrices are too large to have twice, and a context of pixels does not read all of them.
STACKED_DIM = 128
_FIRST_ROWS = 16


class Found(NamedTuple):
    """Where the matrices of K slots are.

    Attributes:
        rows: The rows of those that have learned.
        learned_K: Which these are, (K,); None: all.
    """

    rows: slice | IntArray
    learned_K: npt.NDArray[np.bool_] | None


class Stacked:
    """The matrices of slots, in the order in which these began to learn.

    Args:
        dim: D.
    """

    __slots__ = ("_matrices_NDW", "_num", "_row_of", "_slot_of")

    def __init__(self, dim: int) -> None:
        self._num = 0
        self._matrices_NDW: FloatArray = np.empty((0, dim, dim + 1))
        self._slot_of = np.empty(0, np.intp)  # by row
        self._row_of = np.empty(0, np.intp)  # by slot; -1: it has learned nothing

    def put(self, slot: int, matrix_DW: FloatArray) -> None:
        """Copy the matrix of a slot."""
        row = int(self._row_of[slot]) if slot < len(self._row_of) else -1
        if row < 0:
            row = self._add(slot)
        self._matrices_NDW[row] = matrix_DW

    def _add(self, slot: int) -> int:
        row, size = self._num, len(self._slot_of)
        if row == size:
            more = max(_FIRST_ROWS, size)
            self._matrices_NDW = np.concatenate(
                [self._matrices_NDW, np.empty((more, *self._matrices_NDW.shape[1:]))]
            )
            self._slot_of = np.concatenate([self._slot_of, np.full(more, -1, np.intp)])
        if slot >= len(self._row_of):
            more = max(_FIRST_ROWS, len(self._row_of), slot + 1 - len(self._row_of))
            self._row_of = np.concatenate([self._row_of, np.full(more, -1, np.intp)])
        self._num = row + 1
        self._slot_of[row], self._row_of[slot] = slot, row
        return row

    def copy(self) -> Stacked:
        """Return an independent copy."""
        other = Stacked(self._matrices_NDW.shape[1])
        other._num = self._num
        other._matrices_NDW = self._matrices_NDW[: self._num].copy()
        other._slot_of, other._row_of = self._slot_of[: self._num].copy(), self._row_of.copy()
        return other

    def found(self, slots_K: IntArray) -> Found:
        """Return where the matrices of slots are, until another slot is put."""
        slots_N = self._slot_of[: self._num]
        if len(slots_K) == len(slots_N) and np.array_equal(slots_K, slots_N):
            return Found(slice(self._num), None)
        rows_K = np.full(len(slots_K), -1, np.intp)
        known_K = slots_K < len(self._row_of)
        rows_K[known_K] = self._row_of[slots_K[known_K]]
        learned_K = rows_K >= 0
        return Found(rows_K[learned_K], None if learned_K.all() else learned_K)

    def project(
        self, z_BD: FloatArray, found: Found, default: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return z.mean and z^T Sigma z of each slot, (B, K) each.

        `default`: The latter of a slot that has learned nothing, (B, 1); its mean is 0.
        """
        matrices_KDW = self._matrices_NDW[found.rows]
        product_BKW = np.matmul(z_BD[:, None, None], matrices_KDW)[:, :, 0]
        mean_BK, f_BKD = product_BKW[:, :, -1], product_BKW[:, :, :-1]
        if found.learned_K is None:
            return mean_BK, np.vecdot(f_BKD, f_BKD)
        means_BK = np.zeros((len(z_BD), len(found.learned_K)))
        squares_BK = np.empty_like(means_BK)
        squares_BK[:] = default
        means_BK[:, found.learned_K] = mean_BK
        squares_BK[:, found.learned_K] = np.vecdot(f_BKD, f_BKD)
        return means_BK, squares_BK
