"""The in-place calls change the array they are given, and nothing else."""

import numpy as np
import pytest

from bandexa_core.posterior import blas


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (65, 66)])
def test_an_aligned_array_begins_at_a_cache_line(shape):
    for _ in range(5):
        array = blas.aligned(*shape)
        assert array.shape == shape
        assert array.dtype == np.float64
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.ctypes.data % 64 == 0


def test_an_outer_product_is_subtracted_in_place_with_what_the_vectors_hold_then():
    matrix, left, right = blas.aligned(2, 3), np.zeros(2), np.zeros(3)
    matrix[:] = 10.0
    subtract = blas.outer_subtraction(matrix, left, right)
    left[:], right[:] = [1.0, 2.0], [1.0, 0.0, 3.0]
    subtract()
    assert matrix.tolist() == [[9.0, 10.0, 7.0], [8.0, 10.0, 4.0]]
    left[:] = [1.0, 0.0]
    subtract()
    assert matrix.tolist() == [[8.0, 10.0, 4.0], [8.0, 10.0, 4.0]]


def test_a_product_is_subtracted_in_place():
    rng = np.random.default_rng(0)
    matrix = blas.aligned(70, 71)
    matrix[:] = rng.normal(size=(70, 71))
    left, right = rng.normal(size=(70, 5)), rng.normal(size=(5, 71))
    expected = matrix - left @ right
    blas.subtract_product(matrix, left, right)
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (32, 4), (33, 4), (100, 785), (5, 40_000)])
def test_a_product_in_panels_is_the_product(rows, columns):
    rng = np.random.default_rng(0)
    matrix, right = rng.normal(size=(rows, columns + 1)), rng.normal(size=(columns, 17))
    found = blas.product_in_panels(matrix[:, :-1], right)
    np.testing.assert_allclose(found, matrix[:, :-1] @ right, rtol=0, atol=1e-11)


def test_a_cholesky_factor_is_upper_triangular_and_its_source_unchanged():
    matrix = np.array([[4.0, 2.0], [2.0, 10.0]])
    upper = blas.cholesky(matrix)
    assert upper is not None
    assert upper.tolist() == [[2.0, 1.0], [0.0, 3.0]]
    assert matrix.tolist() == [[4.0, 2.0], [2.0, 10.0]]
    assert blas.inverse_of_upper(np.array([[2.0, 2.0], [0.0, 4.0]])).tolist() == [
        [0.5, -0.25],
        [0.0, 0.25],
    ]


def test_what_is_not_positive_definite_has_no_cholesky_factor():
    assert blas.cholesky(np.array([[1.0, 2.0], [2.0, 1.0]])) is None
