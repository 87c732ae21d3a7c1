import numpy as np
import pytest
import torch

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


def test_a_posterior_made_in_inference_mode_learns_outside_of_it():
    sums = Statistics(2)
    sums.add([[1.0, 2.0]], [1.0])
    with torch.inference_mode():
        rebuilt = GaussianPosterior.from_statistics(sums, PosteriorConfig())
        rebuilt.update([0.5, 0.5], 1.0)
    rebuilt.update([1.0, 0.0], 1.0)
    assert rebuilt.num_rows == 3
