"""In-place BLAS and LAPACK calls that numpy does not offer, for posteriors of many weights.

They come from scipy. Importing it takes 0.17 s of CPU and 29 MB, so that happens at the first
posterior of more than `SMALL_DIM` weights; smaller ones use numpy alone. The functions are pure,
apart from the arrays that their docstrings name as changed. Arrays are in C order; BLAS expects
Fortran order and receives transposed views, so nothing is copied.
Shapes: D weights, W = D + 1, N columns.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bandexa_core.posterior.rows import FloatArray

SMALL_DIM = 64  # the most weights for which numpy alone is used

_ALIGNMENT = 64  # bytes: one cache line
_MAX_PANEL = 32  # rows
# OpenBLAS multiplies without packing the operands up to this many multiply-adds (AVX-512).
_UNPACKED_PRODUCT = 1_000_000


@functools.cache
def _scipy() -> tuple[Any, Any]:
    from scipy.linalg import blas, lapack

    return blas, lapack


def prepare(dim: int) -> None:
    """Import what a posterior of `dim` weights needs, so that no reward has to wait for it."""
    if dim > SMALL_DIM:
        _scipy()


def aligned(*shape: int) -> FloatArray:
    """Return an uninitialised array that begins at a cache line.

    On some processors the order in which BLAS sums depends on the address of an array.
    """
    num_bytes = 8 * math.prod(shape)
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    array: FloatArray = memory[first : first + num_bytes].view(np.float64).reshape(shape)
    return array


def outer_subtraction(
    matrix_DW: FloatArray, left_D: FloatArray, right_W: FloatArray
) -> Callable[[], object]:
    """Return a function that subtracts the outer product of two vectors from the matrix, in place.

    Each call reads the present contents of the three arrays. It passes over the matrix once: for
    D = 256 that takes 12 us, against 55 us in numpy.
    """
    # By position, as keyword arguments cost half a microsecond. The last three permit changes.
    return functools.partial(
        _scipy()[0].dger, -1.0, right_W, left_D, 1, 1, matrix_DW.T, True, True, True
    )


def subtract_product(matrix_DW: FloatArray, left_DN: FloatArray, right_NW: FloatArray) -> None:
    """Subtract a product from the matrix, in place and in one pass."""
    _scipy()[0].dgemm(-1.0, right_NW.T, left_DN.T, beta=1.0, c=matrix_DW.T, overwrite_c=True)


def product_in_panels(matrix_DK: FloatArray, right_KN: FloatArray) -> FloatArray:
    """Return the product (D, N) of a matrix and a few columns, computed in panels of rows.

    BLAS packs the operands of a large product, which takes longer than the arithmetic where N is
    small: 1.2 ms for D = K = 785 and N = 17, against 0.4 ms in panels.
    """
    (num_rows, size), num = matrix_DK.shape, right_KN.shape[1]
    most = max(1, _UNPACKED_PRODUCT // right_KN.size)
    height = min(_MAX_PANEL, 1 << (most.bit_length() - 1))
    end = num_rows - num_rows % height
    product_DN = np.empty((num_rows, num))
    panels = matrix_DK[:end].reshape(-1, height, size)
    np.matmul(panels, right_KN, out=product_DN[:end].reshape(-1, height, num))
    np.matmul(matrix_DK[end:], right_KN, out=product_DN[end:])
    return product_DN


def cholesky(matrix_DD: FloatArray) -> FloatArray | None:
    """Return upper triangular U with U^T U = P; None where P is not positive definite."""
    work_DD = aligned(*matrix_DD.shape)
    work_DD[:] = matrix_DD
    factor, info = _scipy()[1].dpotrf(work_DD.T, lower=True, clean=True, overwrite_a=True)
    upper_DD: FloatArray = factor.T
    return None if info else upper_DD


def inverse_of_upper(upper_DD: FloatArray) -> FloatArray:
    """Return the inverse of an upper triangular matrix without zeros on its diagonal."""
    inverse, info = _scipy()[1].dtrtri(upper_DD.T, lower=True)
    assert info == 0, "the diagonal holds a zero"
    found_DD: FloatArray = inverse.T
    return found_DD
