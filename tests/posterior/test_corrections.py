"""A corrected value counts as if it had been the only one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandexa_core.posterior import GaussianPosterior, PosteriorConfig

NIG = PosteriorConfig(prior_var=1.0, noise_var=1.0, noise_shape=1.0)
FIXED = PosteriorConfig(noise="fixed", prior_var=2.0, noise_var=0.3)


def test_a_correction_in_one_dimension():
    """prior_var = noise_var = 1, row z = 1 with r = 2 corrected to 4.

    Sigma = 1/2; mean 2/2 -> 4/2; b = 1 + r^2 / 4: 1 + 1 -> 1 + 4.
    """
    posterior = GaussianPosterior.prior(1, NIG)
    posterior.update([1.0], 2.0)
    assert posterior.mean[0] == pytest.approx(1.0, rel=1e-15)
    assert posterior.b == pytest.approx(2.0, rel=1e-15)
    root = posterior.root.copy()
    posterior.correct([1.0], 2.0, 4.0)
    assert posterior.mean[0] == pytest.approx(2.0, rel=1e-15)
    assert posterior.b == pytest.approx(5.0, rel=1e-15)
    assert posterior.a == 1.5
    assert np.array_equal(posterior.root, root)
    assert posterior.num_rows == 1


@pytest.mark.parametrize("config", [NIG, FIXED])
def test_corrections_amid_updates_equal_the_final_values(config):
    rng = np.random.default_rng(0)
    z, first, final = rng.normal(size=(200, 8)), rng.normal(size=200), rng.normal(size=200)
    corrected = GaussianPosterior.prior(8, config)
    for index in range(200):
        corrected.update(z[index], first[index])
        if index >= 10:
            corrected.correct(z[index - 10], first[index - 10], final[index - 10])
    final[190:] = first[190:]
    fresh = GaussianPosterior.prior(8, config)
    for row, value in zip(z, final, strict=True):
        fresh.update(row, value)
    np.testing.assert_allclose(corrected.mean, fresh.mean, rtol=1e-9)
    assert np.array_equal(corrected.root, fresh.root)
    assert corrected.a == fresh.a
    assert corrected.b == pytest.approx(fresh.b, rel=1e-9)
    corrected.refresh()
    np.testing.assert_allclose(corrected.mean, fresh.mean, rtol=1e-9)
    assert corrected.b == pytest.approx(fresh.b, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    before=st.floats(-100, 100),
    after=st.floats(-100, 100),
    which=st.integers(0, 11),
)
def test_any_correction_equals_the_final_value(seed, before, after, which):
    rng = np.random.default_rng(seed)
    z, r = rng.normal(size=(12, 3)), rng.normal(size=12)
    corrected, fresh = GaussianPosterior.prior(3, NIG), GaussianPosterior.prior(3, NIG)
    for index in range(12):
        corrected.update(z[index], before if index == which else r[index])
        fresh.update(z[index], after if index == which else r[index])
    corrected.correct(z[which], before, after)
    scale = max(1.0, abs(before), abs(after))
    np.testing.assert_allclose(corrected.mean, fresh.mean, rtol=1e-9, atol=1e-12 * scale)
    assert corrected.b == pytest.approx(fresh.b, rel=1e-9, abs=1e-12 * scale**2)


def test_correcting_there_and_back_returns():
    rng = np.random.default_rng(1)
    posterior = GaussianPosterior.prior(4, NIG)
    z = rng.normal(size=(30, 4))
    for row in z:
        posterior.update(row, rng.normal())
    mean, b = posterior.mean.copy(), posterior.b
    posterior.correct(z[5], 0.25, 1e3)
    posterior.correct(z[5], 1e3, 0.25)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-11, atol=1e-12)
    assert posterior.b == pytest.approx(b, rel=1e-9)


def test_rounding_never_takes_the_noise_below_its_prior():
    """A value of 1e12 corrected to a perfect fit leaves b0 = 0.1 amid errors of order 1e8."""
    config = PosteriorConfig(noise_var=0.1)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        posterior = GaussianPosterior.prior(3, config)
        z = rng.normal(size=(10, 3))
        posterior.update(z[0], 1e12)
        for row in z[1:]:
            posterior.update(row, 0.0)
        posterior.correct(z[0], 1e12, 0.0)
        assert posterior.b >= 0.1
        posterior.refresh()
        assert posterior.b >= 0.1
        assert math.isfinite(posterior.noise_mean)


def test_corrections_count_towards_the_next_refresh():
    posterior = GaussianPosterior.prior(1, NIG, refresh_every=3)
    posterior.update([1.0], 1.0)
    posterior.correct([1.0], 1.0, 2.0)
    assert posterior.updates_since_refresh == 2
    posterior.correct([1.0], 2.0, 3.0)
    assert posterior.updates_since_refresh == 0
    # One row z = 1, r = 3 under a unit ridge.
    assert posterior.mean[0] == pytest.approx(1.5, rel=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    largest=st.sampled_from([1.0, 1e2, 1e4, 1e6, 1e8]),
    num_wrong=st.integers(1, 20),
    factor=st.sampled_from([1.0, 0.99, 0.9]),
)
def test_what_an_extreme_value_leaves_behind_is_its_rounding(seed, largest, num_wrong, factor):
    """The bounds that docs/rewards.md states, against a posterior of the final values alone."""
    rng = np.random.default_rng(seed)
    z, final = rng.normal(size=(100, 6)), rng.normal(size=100)
    wrong = rng.choice(100, num_wrong, replace=False)
    first = final.copy()
    first[wrong] = largest * rng.uniform(-1.0, 1.0, num_wrong)
    corrected, fresh = GaussianPosterior.prior(6, NIG), GaussianPosterior.prior(6, NIG)
    for index in range(100):
        for posterior, values in ((corrected, first), (fresh, final)):
            posterior.update(z[index], values[index])
            posterior.forget(factor)
    for index in wrong:
        weight = factor ** (100 - int(index))
        corrected.correct(z[index], first[index], final[index], weight)
    top = max(largest, float(np.abs(final).max()))
    for _ in range(2):  # as it is served, and as a snapshot's sums give it
        assert np.abs(corrected.mean - fresh.mean).max() <= 1e-13 * top
        assert abs(corrected.b - fresh.b) <= 1e-12 * top**2
        corrected.refresh()
        fresh.refresh()
    assert np.allclose(corrected.root @ corrected.root.T, fresh.root @ fresh.root.T, rtol=1e-10)
