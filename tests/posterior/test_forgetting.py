"""Forgetting multiplies what rows weigh and leaves the prior: closed forms of the weighted rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    PosteriorConfig,
    Statistics,
)

NIG = PosteriorConfig(noise="nig", prior_var=2.0, noise_var=0.3, noise_shape=0.7)
FIXED = PosteriorConfig(noise="fixed", prior_var=2.0, noise_var=0.3)
CONFIGS = pytest.mark.parametrize("config", [NIG, FIXED], ids=["nig", "fixed"])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Thousands of small factorisations: threads only lose time on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _cov(posterior: GaussianPosterior):
    return posterior.root @ posterior.root.T


def _assert_same_law(found: GaussianPosterior, expected: GaussianPosterior, rtol: float = 1e-9):
    np.testing.assert_allclose(found.mean, expected.mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(_cov(found), _cov(expected), rtol=rtol, atol=rtol)
    assert found.a == pytest.approx(expected.a, rel=rtol)
    assert found.b == pytest.approx(expected.b, rel=rtol)
    assert found.num_rows == pytest.approx(expected.num_rows, rel=rtol, abs=1e-15)


def _by_hand(config: PosteriorConfig, z, r, weights, prior_mean=0.0):
    """Return mean, Sigma, a and b of weighted rows from the normal equations."""
    dim = z.shape[1]
    start = np.full(dim, prior_mean)
    precision = config.ridge * np.eye(dim) + (z * weights[:, None]).T @ z
    cov = np.linalg.inv(precision)
    mean = cov @ (config.ridge * start + (z * weights[:, None]).T @ r)
    if config.noise == "fixed":
        return mean, cov, config.noise_shape, config.prior_rate
    residual = weights @ (r - z @ mean) ** 2 + config.ridge * float((mean - start) @ (mean - start))
    a = config.noise_shape + 0.5 * weights.sum()
    return mean, cov, a, config.prior_rate + 0.5 * residual


def _rows(num: int, dim: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, dim)), rng.normal(size=num)


def test_half_of_one_row_in_one_dimension():
    """prior_var = noise_var = 1, row z = 1, r = 2, half forgotten: precision 1 + 1/2.

    Mean (1/2 * 2) / (3/2) = 2/3; residual 1/2 (4/3)^2 + (2/3)^2 = 4/3; a = 1 + 1/4, b = 1 + 2/3.
    """
    posterior = GaussianPosterior.prior(1, PosteriorConfig(prior_var=1, noise_var=1, noise_shape=1))
    posterior.update([1.0], 2.0)
    posterior.forget(0.5)
    assert posterior.mean[0] == pytest.approx(2 / 3, rel=1e-15)
    assert _cov(posterior)[0, 0] == pytest.approx(2 / 3, rel=1e-15)
    assert posterior.a == 1.25
    assert posterior.b == pytest.approx(5 / 3, rel=1e-15)
    assert posterior.num_rows == 0.5


@CONFIGS
def test_it_is_the_posterior_of_rows_weighted_by_what_was_forgotten_since(config):
    z, r = _rows(90, 6)
    posterior = GaussianPosterior.prior(6, config)
    weights = np.zeros(90)
    rng = np.random.default_rng(3)
    for index in range(90):
        if rng.random() < 0.4:
            factor = float(rng.uniform(0.5, 1.0))
            posterior.forget(factor)
            weights *= factor
        posterior.update(z[index], r[index])
        weights[index] = 1.0
    mean, cov, a, b = _by_hand(config, z, r, weights)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(_cov(posterior), cov, rtol=1e-9, atol=1e-12)
    assert posterior.a == pytest.approx(a, rel=1e-12)
    assert posterior.b == pytest.approx(b, rel=1e-9)
    sums = Statistics(6)
    for chunk in (slice(0, 7), slice(7, 8), slice(8, 90)):
        sums.add(z[chunk], r[chunk], weights[chunk])
    _assert_same_law(GaussianPosterior.from_statistics(sums, config), posterior)


@CONFIGS
def test_a_prior_mean_is_what_is_returned_to(config):
    z, r = _rows(30, 3)
    sums = Statistics(3)
    sums.add(z, r)
    posterior = GaussianPosterior.from_statistics(sums, config, prior_mean=np.full(3, 5.0))
    posterior.forget(0.25)
    mean, cov, a, b = _by_hand(config, z, r, np.full(30, 0.25), prior_mean=5.0)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(_cov(posterior), cov, rtol=1e-10, atol=1e-14)
    assert posterior.a == pytest.approx(a)
    assert posterior.b == pytest.approx(b, rel=1e-10)
    posterior.forget(0.0)
    np.testing.assert_allclose(posterior.mean, np.full(3, 5.0), rtol=1e-15)


@CONFIGS
@pytest.mark.parametrize("steps", [1, 2000])
def test_the_prior_is_what_is_left_when_all_is_forgotten(config, steps):
    """At once, or 62 half-lives in steps of 1/32."""
    posterior, prior = (GaussianPosterior.prior(4, config) for _ in range(2))
    for row, value in zip(*_rows(50, 4), strict=True):
        posterior.update(row, value)
    for _ in range(steps):
        posterior.forget(0.0 if steps == 1 else 2 ** (-1 / 32))
    _assert_same_law(posterior, prior, rtol=1e-14)
    if steps == 1:
        assert posterior.num_rows == 0.0
        assert np.array_equal(posterior.mean, prior.mean)
    # And it learns again as a new one does.
    for each in (posterior, prior):
        each.update([1.0, 2.0, 0.0, -1.0], 3.0)
    _assert_same_law(posterior, prior, rtol=1e-12)


@CONFIGS
def test_directions_that_no_row_excites_keep_the_priors_precision(config):
    """Where the prior is forgotten with the rows, their variance grows without a bound."""
    posterior = GaussianPosterior.prior(6, config)
    z, r = _rows(1500, 6)
    z[:, 3:] = 0.0
    for row, value in zip(z, r, strict=True):
        posterior.forget(2 ** (-1 / 32))
        posterior.update(row, value)
    cov = _cov(posterior)
    np.testing.assert_allclose(cov[3:, 3:], np.eye(3) / config.ridge, rtol=1e-12)
    assert np.array_equal(posterior.mean[3:], np.zeros(3))
    # Excited ones hold what half-lives of rows are worth: 1 / (1 - 2^(-1/32)) = 46.7 rows.
    spread = np.diag(cov)[:3]
    assert ((spread > 0.6 / 47) & (spread < 1.8 / 47)).all()
    assert posterior.num_rows == pytest.approx(1 / (1 - 2 ** (-1 / 32)), rel=1e-12)


def test_no_direction_is_ever_known_less_than_at_first():
    posterior = GaussianPosterior.prior(5, NIG)
    rng = np.random.default_rng(4)
    for _ in range(400):
        posterior.forget(float(rng.uniform(0.1, 1.0)))
        posterior.update(rng.normal(size=5) * 10.0 ** rng.integers(-3, 4), rng.normal())
        assert np.linalg.eigvalsh(_cov(posterior)).max() <= (1 + 1e-9) / NIG.ridge
        assert posterior.b >= NIG.prior_rate
        assert posterior.a >= NIG.noise_shape


@CONFIGS
def test_a_factor_of_one_forgets_nothing(config):
    posterior = GaussianPosterior.prior(4, config)
    for row, value in zip(*_rows(30, 4), strict=True):
        posterior.update(row, value)
    before = posterior.copy()
    posterior.forget(1.0)
    _assert_same_law(posterior, before)


@CONFIGS
def test_a_correction_counts_as_if_the_final_value_had_been_the_only_one(config):
    """Rows of every age are corrected, some twice, with what is left of them."""
    z, first = _rows(80, 5)
    final = np.random.default_rng(9).normal(size=80)
    corrected, fresh = (GaussianPosterior.prior(5, config) for _ in range(2))
    weights = np.zeros(80)
    for index in range(80):
        if index % 3 == 1:
            weights *= 0.8
            corrected.forget(0.8)
            fresh.forget(0.8)
        weights[index] = 1.0
        corrected.update(z[index], first[index])
        fresh.update(z[index], final[index])
        was = index - 20
        if was >= 0:
            corrected.correct(z[was], first[was], 7.0, weights[was])
            corrected.correct(z[was], 7.0, final[was], weights[was])
    for was in range(60, 80):
        corrected.correct(z[was], first[was], final[was], weights[was])
    _assert_same_law(corrected, fresh)
    for each in (corrected, fresh):  # the sums behind them are the same as well
        each.forget(0.5)
    _assert_same_law(corrected, fresh)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    before=st.floats(-100, 100),
    after=st.floats(-100, 100),
    which=st.integers(0, 9),
    factors=st.lists(st.floats(0.0, 1.0), min_size=10, max_size=10),
)
def test_any_correction_after_any_forgetting_is_exact(seed, before, after, which, factors):
    z, r = _rows(10, 3, seed)
    corrected, fresh = GaussianPosterior.prior(3, NIG), GaussianPosterior.prior(3, NIG)
    for index, factor in enumerate(factors):
        for each, value in ((corrected, before), (fresh, after)):
            each.update(z[index], value if index == which else r[index])
            each.forget(factor)
    weight = math.prod(factors[which:])
    corrected.correct(z[which], before, after, weight)
    scale = max(1.0, abs(before), abs(after))
    np.testing.assert_allclose(corrected.mean, fresh.mean, rtol=1e-9, atol=1e-12 * scale)
    assert corrected.b == pytest.approx(fresh.b, rel=1e-9, abs=1e-12 * scale**2)
    assert np.array_equal(corrected.root, fresh.root)
    assert corrected.a == fresh.a


def test_correcting_a_row_of_which_nothing_is_left_changes_nothing():
    posterior = GaussianPosterior.prior(2, NIG)
    posterior.update([1.0, 1.0], 4.0)
    posterior.forget(0.0)
    mean, b = posterior.mean.copy(), posterior.b
    posterior.correct([1.0, 1.0], 4.0, -9.0, 0.0)
    assert np.array_equal(posterior.mean, mean)
    assert posterior.b == b


def test_rows_that_wait_for_their_sums_are_forgotten_with_the_others():
    """Rows enter zz 64 at a time: at any count before that, forgetting must see them."""
    z, r = _rows(70, 3)
    for num in (1, 63, 64, 65, 70):
        posterior = GaussianPosterior.prior(3, NIG)
        for index in range(num):
            posterior.update(z[index], r[index])
        posterior.forget(0.5)
        sums = Statistics(3)
        sums.add(z[:num], r[:num], np.full(num, 0.5))
        _assert_same_law(posterior, GaussianPosterior.from_statistics(sums, NIG))


def test_the_state_after_forgetting_comes_back_bit_for_bit():
    z, r = _rows(40, 4)
    posterior = GaussianPosterior.prior(4, NIG)
    for index in range(20):
        posterior.update(z[index], r[index])
        posterior.forget(0.97)
    loaded = GaussianPosterior.from_tensors(posterior.to_tensors(), NIG)
    assert loaded.num_rows == posterior.num_rows
    for index in range(20, 40):
        for each in (posterior, loaded):
            each.update(z[index], r[index])
            each.forget(0.97)
    ours, theirs = loaded.to_tensors(), posterior.to_tensors()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@CONFIGS
def test_every_slot_of_a_disjoint_posterior_forgets(config):
    z, r = _rows(60, 3)
    disjoint = DisjointPosterior.prior(3, config)
    alone = {slot: GaussianPosterior.prior(3, config) for slot in (0, 4, 7)}
    for index in range(60):
        slot = (0, 4, 7)[index % 3]
        disjoint.update(slot, z[index], r[index])
        alone[slot].update(z[index], r[index])
        if index % 5 == 0:
            disjoint.forget(0.9)
            for each in alone.values():
                each.forget(0.9)
        if index == 30:
            disjoint.correct(4, z[1], r[1], 2.0, 0.9**6)
            alone[4].correct(z[1], r[1], 2.0, 0.9**6)
    assert disjoint.slots == (0, 4, 7)
    assert disjoint.slot(5) is None
    for slot, expected in alone.items():
        found = disjoint.slot(slot)
        assert found is not None
        _assert_same_law(found, expected)
    assert disjoint.num_rows == pytest.approx(sum(each.num_rows for each in alone.values()))
    sums = disjoint.statistics()
    rebuilt = DisjointPosterior.from_statistics(sums, config)
    for slot, expected in alone.items():
        found = rebuilt.slot(slot)
        assert found is not None
        _assert_same_law(found, expected)


def test_weighted_sums_are_those_of_rows_that_count_as_often():
    z, r = _rows(12, 3)
    often = np.arange(12) % 4
    weighted, repeated, merged = Statistics(3), Statistics(3), Statistics(3)
    weighted.add(z, r, often / 4.0)
    repeated.add(np.repeat(z, often, axis=0), np.repeat(r, often))
    repeated.scale(0.25)
    merged.add(z[:5], r[:5], often[:5] / 4.0)
    rest = Statistics(3)
    rest.add(z[5:], r[5:], often[5:] / 4.0)
    merged.merge(rest)
    for found in (repeated, merged):
        np.testing.assert_allclose(found.zz, weighted.zz, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.zr, weighted.zr, rtol=1e-12, atol=1e-14)
        assert found.rr == pytest.approx(weighted.rr, rel=1e-12)
        assert found.n == weighted.n == often.sum() / 4
    assert np.array_equal(weighted.zz, weighted.zz.T)
