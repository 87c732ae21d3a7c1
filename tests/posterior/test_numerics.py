"""What rounding does over many rows and collinear features."""

import numpy as np
import pytest

from bandexa_core.posterior import REFRESH_EVERY, GaussianPosterior, PosteriorConfig, Statistics

NEVER = 10**9


@pytest.mark.few(1)
@pytest.mark.parametrize("noise", ["nig", "fixed"])
def test_a_hundred_thousand_updates_do_not_drift(noise):
    """Relative error against one factorisation of the same sums, with no refresh in between."""
    config = PosteriorConfig(noise=noise, prior_var=5.0, noise_var=0.01)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(100_000, 16)) @ rng.normal(size=(16, 16))
    r = z @ rng.normal(size=16) + 0.3 * rng.normal(size=100_000)
    posterior = GaussianPosterior.prior(16, config, refresh_every=NEVER)
    for row, value in zip(z, r.tolist(), strict=True):
        posterior.update(row, value)
    assert posterior.updates_since_refresh == 100_000
    sums = Statistics(16)
    sums.add(z, r)
    fresh = GaussianPosterior.from_statistics(sums, config)
    sigma, expected = posterior.root @ posterior.root.T, fresh.root @ fresh.root.T
    assert np.linalg.norm(sigma - expected) <= 1e-8 * np.linalg.norm(expected)
    assert np.linalg.norm(posterior.mean - fresh.mean) <= 1e-8 * np.linalg.norm(fresh.mean)
    assert posterior.b == pytest.approx(fresh.b, rel=1e-8)


def test_a_refresh_comes_by_itself_and_changes_the_law_by_rounding_alone():
    config = PosteriorConfig()
    rng = np.random.default_rng(0)
    refreshed = GaussianPosterior.prior(4, config, refresh_every=100)
    never = GaussianPosterior.prior(4, config, refresh_every=NEVER)
    z, r = rng.normal(size=(100, 4)), rng.normal(size=100)
    for row, value in zip(z, r, strict=True):
        refreshed.update(row, value)
        never.update(row, value)
    assert (refreshed.updates_since_refresh, never.updates_since_refresh) == (0, 100)
    # A refreshed root is upper triangular; an updated one is not.
    assert not np.tril(refreshed.root, -1).any()
    assert np.tril(never.root, -1).any()
    np.testing.assert_allclose(
        refreshed.root @ refreshed.root.T, never.root @ never.root.T, rtol=1e-10, atol=1e-15
    )
    np.testing.assert_allclose(refreshed.mean, never.mean, rtol=1e-10)
    assert refreshed.b == pytest.approx(never.b, rel=1e-12)


def test_the_default_refresh_comes_after_ten_thousand_rows():
    assert REFRESH_EVERY == 10_000
    posterior = GaussianPosterior.prior(1, PosteriorConfig())
    for _ in range(9_999):
        posterior.update([1.0], 1.0)
    assert posterior.updates_since_refresh == 9_999
    posterior.update([1.0], 1.0)
    assert posterior.updates_since_refresh == 0


def test_a_perfect_fit_of_large_values_leaves_the_noise_at_its_prior():
    """The residual sum of squares is 0, found as a difference of numbers near 1e14."""
    config = PosteriorConfig(prior_var=1e10, noise_var=1e-10)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(100, 3))
        sums = Statistics(3)
        sums.add(z, z @ [1e6, -1e6, 1e6])
        posterior = GaussianPosterior.from_statistics(sums, config)
        assert posterior.b >= config.prior_rate


@pytest.mark.parametrize("noise", ["nig", "fixed"])
def test_collinear_features_after_a_million_rows(noise):
    """Columns 0 and 1 are equal, noise variance 0.01.

    The data determine z.w to 0.1 / sqrt(n); what they do not determine, the difference of the
    two weights, retains its prior variance: for z = (1, -1, 0 ...) std = sqrt(2 prior_var s2 / v).
    """
    config = PosteriorConfig(noise=noise, prior_var=1.0, noise_var=0.01)
    rng = np.random.default_rng(0)
    weights = np.array([0.5, 0.5, -1.0, 2.0, 0.3, 0.0])
    posterior = GaussianPosterior.prior(6, config)
    for _ in range(20):
        z = rng.normal(size=(50_000, 6))
        z[:, 1] = z[:, 0]
        r = z @ weights + 0.1 * rng.normal(size=50_000)
        posterior.update_batch(z[:-105], r[:-105])
        for row, value in zip(z[-105:-5], r[-105:-5], strict=True):
            posterior.update(row, value)
        posterior.update_batch(z[-5:], r[-5:])
    assert posterior.num_rows == 1_000_000
    mean, std = posterior.mean_std(z[:200])
    assert np.abs(mean - z[:200] @ weights).max() < 5e-3
    assert std.max() < 1e-3
    difference, spread = posterior.mean_std([[1.0, -1.0, 0.0, 0.0, 0.0, 0.0]])
    assert abs(difference[0]) < 1e-5
    assert spread[0] == pytest.approx(np.sqrt(2 * posterior.noise_mean / 0.01), rel=1e-5)
    sigma = posterior.root @ posterior.root.T
    assert np.linalg.eigvalsh(sigma).min() >= -1e-14 * np.linalg.norm(sigma)


def test_collinear_features_in_large_units_still_predict():
    """Unscaled columns near 1e7 over 20,000 rows: P / ridge is 1e20, past what float64 resolves."""
    config = PosteriorConfig(noise="fixed", prior_var=1.0, noise_var=0.01)
    rng = np.random.default_rng(0)
    weights = np.array([1e-7, 1e-7, 1.0])
    posterior = GaussianPosterior.prior(3, config)
    for _ in range(4):
        z = rng.normal(size=(5_000, 3)) * [1e7, 1e7, 1.0]
        z[:, 1] = z[:, 0]
        r = z @ weights + 0.1 * rng.normal(size=5_000)
        posterior.update_batch(z[:-50], r[:-50])
        for row, value in zip(z[-50:], r[-50:], strict=True):
            posterior.update(row, value)
    for _ in range(2):
        mean, std = posterior.mean_std(z[:200])
        assert np.abs(mean - z[:200] @ weights).max() < 0.02
        assert std.max() < 0.02
        assert np.isfinite(posterior.sample(rng, 8)).all()
        posterior.refresh()
