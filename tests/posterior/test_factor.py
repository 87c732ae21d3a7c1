import numpy as np
import pytest

from bandexa_core.posterior import (
    GaussianPosterior,
    NotPositiveDefiniteError,
    PosteriorConfig,
    Statistics,
)
from bandexa_core.posterior.factor import inverse_root


def test_root_of_a_diagonal_precision():
    """(diag(3, 8) + 1 I)^-1 = diag(1/4, 1/9), whose root is diag(1/2, 1/3)."""
    root = inverse_root(np.diag([3.0, 8.0]), 1.0)
    np.testing.assert_allclose(root, np.diag([1 / 2, 1 / 3]), rtol=1e-15)


def test_root_times_its_transpose_is_the_inverse():
    z = np.random.default_rng(0).normal(size=(100, 30))
    root = inverse_root(z.T @ z, 0.1)
    np.testing.assert_allclose(
        root @ root.T, np.linalg.inv(z.T @ z + 0.1 * np.eye(30)), rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e9])
def test_collinear_columns_far_above_the_ridge_still_give_a_root(scale):
    """Two equal columns in large units: zz / ridge reaches 5e22, beyond float64.

    No direction may become less certain than the prior, 1 / ridge. The data determine
    u = scale (w_0 + w_1), the coefficient of x = z_0 / scale, up to the variance 1 / |e|^2 of least
    squares, with e what the other columns do not explain of x.
    """
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 4))
    z[:, 1] = z[:, 0]
    z[:, :2] *= scale
    zz = z.T @ z
    root = inverse_root(zz, 0.01)
    assert np.isfinite(root).all()
    variances = np.linalg.svd(root, compute_uv=False) ** 2
    assert variances.max() <= 100 * (1 + 1e-6)
    others, x = z[:, 2:], z[:, 0] / scale
    residual = x - others @ np.linalg.lstsq(others, x, rcond=None)[0]
    along = np.array([scale, scale, 0.0, 0.0])
    assert float(np.sum((along @ root) ** 2)) == pytest.approx(1 / float(residual @ residual), 1e-3)


def test_a_pivot_that_rounding_left_too_small_makes_no_variance_far_beyond_the_prior():
    """zz near 5e13 rounds by about the ridge of 0.01: what is left of it is noise.

    A factorisation can succeed on it with a fifth of the ridge, which is five prior variances.
    """
    for seed in range(300):
        column = np.random.default_rng(seed).normal(size=50) * 1e6
        z = np.column_stack([column, 0.7 * column])
        variances = np.sum(inverse_root(z.T @ z, 0.01) ** 2, axis=1)
        assert variances.max() <= 2 / 0.01


def test_a_matrix_no_rows_add_up_to_is_named():
    with pytest.raises(NotPositiveDefiniteError):
        inverse_root(np.array([[1.0, 2.0], [2.0, 1.0]]), 0.01)
    with pytest.raises(NotPositiveDefiniteError):
        inverse_root(np.diag([1.0, -1.0]), 0.01)
    with pytest.raises(NotPositiveDefiniteError):
        inverse_root(np.array([[np.nan]]), 0.01)


def test_a_broken_sum_is_refused_by_the_posterior():
    sums = Statistics(2)
    sums.zz[:] = [[1.0, 2.0], [2.0, 1.0]]
    with pytest.raises(NotPositiveDefiniteError):
        GaussianPosterior.from_statistics(sums, PosteriorConfig())


@pytest.mark.parametrize("dim", [1, 2, 8, 31, 32, 33, 47, 64, 65, 71, 127, 128, 129, 200, 385])
def test_the_root_is_triangular_and_exact_for_every_size(dim):
    z = np.random.default_rng(dim).normal(size=(2 * dim, dim))
    root = inverse_root(z.T @ z, 0.5)
    assert root.flags.c_contiguous
    assert not np.tril(root, -1).any()
    assert (np.diagonal(root) > 0.0).all()
    whole = root.T @ (z.T @ z + 0.5 * np.eye(dim)) @ root
    np.testing.assert_allclose(whole, np.eye(dim), rtol=0, atol=1e-13 * dim)


@pytest.mark.parametrize("dim", [40, 100])
def test_large_sums_are_cut_off_and_refused_alike(dim):
    column = np.random.default_rng(0).normal(size=(3 * dim, dim)) * 1e7
    column[:, 1:] = column[:, :1]
    variances = np.linalg.svd(inverse_root(column.T @ column, 0.01), compute_uv=False) ** 2
    assert variances.max() <= 100 * (1 + 1e-6)
    with pytest.raises(NotPositiveDefiniteError):
        inverse_root(-column.T @ column, 0.01)


def test_sums_are_not_changed_whatever_their_layout():
    z = np.random.default_rng(0).normal(size=(9, 3))
    sums = np.asfortranarray(z.T @ z)
    before = sums.copy()
    root = inverse_root(sums, 1.0)
    assert np.array_equal(sums, before)
    np.testing.assert_array_equal(root, inverse_root(np.ascontiguousarray(sums), 1.0))
