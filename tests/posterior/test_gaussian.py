"""One Gaussian posterior against closed forms, direct inverses and scipy."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from bandexa_core.posterior import GaussianPosterior, PosteriorConfig, Statistics
from bandexa_core.posterior.noise import noise_of

FIXED = PosteriorConfig(noise="fixed", prior_var=4.0, noise_var=1.0)
NIG = PosteriorConfig(noise="nig", prior_var=4.0, noise_var=1.0, noise_shape=1.0)


def _rows(num: int, dim: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num, dim)) @ rng.normal(size=(dim, dim))
    return z, z @ rng.normal(size=dim) + 0.3 * rng.normal(size=num)


def _learned(config: PosteriorConfig, z, r) -> GaussianPosterior:
    posterior = GaussianPosterior.prior(z.shape[1], config)
    for row, value in zip(z, r, strict=True):
        posterior.update(row, value)
    return posterior


def _sigma(posterior: GaussianPosterior):
    return posterior.root @ posterior.root.T


def test_prior_has_zero_mean_and_the_prior_variance():
    """std of z.w = sqrt(prior_var) |z| = 2 * 5 for z = (3, 4)."""
    for config in (FIXED, NIG):
        mean, std = GaussianPosterior.prior(2, config).mean_std([[3.0, 4.0]])
        assert mean.tolist() == [0.0]
        assert std[0] == pytest.approx(10.0, rel=1e-15)


def test_one_row_in_one_dimension_with_known_noise():
    """prior_var 4, noise_var 1, row z = 2, r = 3.

    P = 1/4 + 2 * 2 = 17/4, Sigma = 4/17, mean = Sigma * 2 * 3 = 24/17;
    for z = 5: mean 120/17, std 5 * sqrt(4/17).
    """
    posterior = GaussianPosterior.prior(1, FIXED)
    posterior.update([2.0], 3.0)
    assert posterior.mean[0] == pytest.approx(24 / 17, rel=1e-15)
    mean, std = posterior.mean_std([[5.0]])
    assert mean[0] == pytest.approx(120 / 17, rel=1e-15)
    assert std[0] == pytest.approx(5 * math.sqrt(4 / 17), rel=1e-15)
    assert posterior.num_rows == 1


def test_one_row_in_one_dimension_with_learned_noise():
    """As above with a0 = b0 = 1: a = 3/2, b = 1 + 1/2 * 3^2 / (1 + 2 * 4 * 2) = 1 + 9/34.

    E[s2] = b / (a - 1) = 43/17, so for z = 5: std = 5 * sqrt(43/17 * 4/17).
    """
    posterior = GaussianPosterior.prior(1, NIG)
    posterior.update([2.0], 3.0)
    assert posterior.a == 1.5
    assert posterior.b == pytest.approx(43 / 34, rel=1e-15)
    assert posterior.noise_mean == pytest.approx(43 / 17, rel=1e-15)
    assert posterior.mean_std([[5.0]])[1][0] == pytest.approx(5 * math.sqrt(172) / 17, rel=1e-15)


def test_two_rows_in_two_dimensions():
    """prior_var = noise_var, rows ((1, 1), 1) and ((1, -1), 3).

    P = I + [[2, 0], [0, 2]] = 3 I, zr = (1, 1) + (3, -3) = (4, -2), mean = (4/3, -2/3),
    b = b0 + (rr - zr.mean) / 2 = 1/2 + (10 - 20/3) / 2 = 1/2 + 5/3, a = 2 + 1.
    """
    config = PosteriorConfig(prior_var=0.25, noise_var=0.25, noise_shape=2.0)
    posterior = _learned(config, np.array([[1.0, 1.0], [1.0, -1.0]]), [1.0, 3.0])
    np.testing.assert_allclose(_sigma(posterior), np.eye(2) / 3, atol=1e-15)
    np.testing.assert_allclose(posterior.mean, [4 / 3, -2 / 3], rtol=1e-14)
    assert posterior.a == 3.0
    assert posterior.b == pytest.approx(0.5 + 5 / 3, rel=1e-14)


@pytest.mark.parametrize("dim", [1, 2, 7, 32, 65])
def test_updates_agree_with_the_direct_inverse(dim):
    z, r = _rows(3 * dim + 5, dim)
    config = PosteriorConfig(prior_var=2.0, noise_var=0.3, noise_shape=1.5)
    posterior = _learned(config, z, r)
    precision = z.T @ z + (0.3 / 2.0) * np.eye(dim)
    sigma = np.linalg.inv(precision)
    mean = np.linalg.solve(precision, z.T @ r)
    np.testing.assert_allclose(_sigma(posterior), sigma, rtol=1e-8, atol=1e-10 * sigma.max())
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-8, atol=1e-10)
    b = 1.5 * 0.3 + 0.5 * (r @ r - mean @ precision @ mean)
    assert posterior.b == pytest.approx(b, rel=1e-9)
    assert posterior.a == 1.5 + 0.5 * len(r)


def test_learned_noise_agrees_with_the_multivariate_student_t():
    """The chain of one-step predictions multiplies up to the marginal likelihood of all rows.

    r_i given the rows before: Student-t, 2a degrees of freedom, location z.mean, squared scale
    b/a (1 + z^T Sigma z). Rows together: multivariate t, 2 a0 degrees of freedom, location 0,
    shape b0/a0 (I + Z Sigma0 Z^T). Every part of the state enters, none of our formulas do.
    """
    z, r = _rows(12, 3)
    config = PosteriorConfig(prior_var=2.0, noise_var=0.3, noise_shape=1.5)
    posterior = GaussianPosterior.prior(3, config)
    log_likelihood = 0.0
    for row, value in zip(z, r, strict=True):
        f = row @ posterior.root
        scale = math.sqrt(posterior.b / posterior.a * (1 + f @ f))
        log_likelihood += stats.t.logpdf(value, 2 * posterior.a, row @ posterior.mean, scale)
        posterior.update(row, value)
    shape = 0.3 * (np.eye(12) + z @ z.T * (2.0 / 0.3))
    expected = stats.multivariate_t.logpdf(r, np.zeros(12), shape, df=3.0)
    assert log_likelihood == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("config", [FIXED, NIG])
def test_updates_equal_one_factorisation_of_the_sums(config):
    z, r = _rows(300, 10)
    sums = Statistics(10)
    sums.add(z, r)
    posterior, rebuilt = _learned(config, z, r), GaussianPosterior.from_statistics(sums, config)
    np.testing.assert_allclose(_sigma(posterior), _sigma(rebuilt), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(posterior.mean, rebuilt.mean, rtol=1e-9)
    assert posterior.a == rebuilt.a
    assert posterior.b == pytest.approx(rebuilt.b, rel=1e-11)
    assert posterior.num_rows == rebuilt.num_rows == 300


@pytest.mark.parametrize("config", [FIXED, NIG])
def test_no_rows_rebuild_to_the_prior(config):
    prior = GaussianPosterior.prior(4, config)
    rebuilt = GaussianPosterior.from_statistics(Statistics(4), config)
    np.testing.assert_allclose(rebuilt.root, prior.root, rtol=1e-15)
    assert not rebuilt.mean.any()
    assert (rebuilt.a, rebuilt.b) == (prior.a, prior.b)


def test_a_prior_mean_shifts_the_problem():
    """w - m0 given (z, r) is w given (z, r - z.m0) with prior mean 0, before and after learning."""
    z, r = _rows(40, 3)
    start = np.array([1.0, -2.0, 0.5])
    sums, shifted = Statistics(3), Statistics(3)
    sums.add(z[:20], r[:20])
    shifted.add(z[:20], r[:20] - z[:20] @ start)
    posterior = GaussianPosterior.from_statistics(sums, NIG, start)
    reference = GaussianPosterior.from_statistics(shifted, NIG)
    for row, value in zip(z[20:], r[20:], strict=True):
        posterior.update(row, value)
        reference.update(row, value - row @ start)
    posterior.correct(z[3], r[3], 7.0)
    reference.correct(z[3], r[3] - z[3] @ start, 7.0 - z[3] @ start)
    for _ in range(2):
        np.testing.assert_allclose(posterior.mean, reference.mean + start, rtol=1e-10)
        assert posterior.b == pytest.approx(reference.b, rel=1e-10)
        posterior.refresh()
        reference.refresh()


def test_learned_noise_finds_the_noise_variance():
    """5,000 rows with noise sd 0.3 against a guess ten times too large."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5000, 4))
    r = z @ [1.0, -1.0, 2.0, 0.5] + 0.3 * rng.normal(size=5000)
    posterior = _learned(PosteriorConfig(noise_var=0.9), z, r)
    # The standard error of a variance from n rows is s2 sqrt(2 / n) = 2 %; five of them.
    assert posterior.noise_mean == pytest.approx(0.09, rel=0.1)


def test_draws_have_the_posterior_mean_and_covariance():
    """Known noise: w ~ N(mean, v Sigma) with Sigma from a direct inverse.

    A mean of M draws has standard error sqrt(C_ii / M), a sample covariance
    sqrt((C_ii C_jj + C_ij^2) / M); five of each for every entry.
    """
    z, r = _rows(6, 4)
    config = PosteriorConfig(noise="fixed", prior_var=2.0, noise_var=0.5)
    posterior = _learned(config, z, r)
    num = 200_000
    draws = posterior.sample(np.random.default_rng(1), num)
    assert draws.shape == (num, 4)
    cov = 0.5 * np.linalg.inv(z.T @ z + 0.25 * np.eye(4))
    variance = np.diagonal(cov)
    assert (np.abs(draws.mean(0) - posterior.mean) <= 5 * np.sqrt(variance / num)).all()
    error = np.sqrt((np.outer(variance, variance) + cov**2) / num)
    assert (np.abs(np.cov(draws.T) - cov) <= 5 * error).all()


def test_draws_under_learned_noise_are_student_t():
    """z.w has 2a degrees of freedom, location z.mean and squared scale b/a z^T Sigma z."""
    z, r = _rows(3, 2)
    posterior = _learned(NIG, z, r)
    row = np.array([0.7, -1.2])
    scores = posterior.sample(np.random.default_rng(2), 20_000) @ row
    sigma = np.linalg.inv(z.T @ z + 0.25 * np.eye(2))
    scale = math.sqrt(posterior.b / posterior.a * (row @ sigma @ row))
    law = stats.t(2 * posterior.a, row @ posterior.mean, scale)
    assert stats.kstest(scores, law.cdf).pvalue > 0.01
    assert posterior.mean_std([row])[1][0] == pytest.approx(law.std(), rel=1e-10)


def test_noise_draws_are_inverse_gamma():
    z, r = _rows(5, 2)
    posterior = _learned(NIG, z, r)
    gammas = np.random.default_rng(3).standard_gamma(posterior.a, 20_000)
    draws = noise_of(gammas, posterior.b)
    law = stats.invgamma(posterior.a, scale=posterior.b)
    assert stats.kstest(draws, law.cdf).pvalue > 0.01


def test_known_noise_is_drawn_as_itself():
    posterior = GaussianPosterior.prior(1, FIXED)
    posterior.update([1.0], 9.0)
    assert posterior.noise_mean == 1.0
    rng = np.random.default_rng(0)
    eps = np.random.default_rng(0).standard_normal(2)
    root = posterior.root[0, 0]
    expected = posterior.mean[0] + root * np.array([eps[0], eps[1], -eps[0], -eps[1]])
    np.testing.assert_allclose(posterior.sample(rng, 4)[:, 0], expected, rtol=1e-14)


def test_each_draw_has_its_own_noise_variance():
    """Two weights far apart share s2 within a draw: their sizes go together, their signs do not."""
    posterior = GaussianPosterior.prior(2, PosteriorConfig(noise_shape=1.0))
    draws = posterior.sample(np.random.default_rng(4), 20_000)
    assert stats.spearmanr(np.abs(draws[:, 0]), np.abs(draws[:, 1])).statistic > 0.1
    # Spearman's coefficient of independent columns has standard error 1/sqrt(M).
    assert abs(stats.spearmanr(draws[:, 0], draws[:, 1]).statistic) < 5 / math.sqrt(20_000)


def test_members_come_in_mirrored_pairs_with_noise_of_their_own():
    z, r = _rows(5, 3)
    posterior = _learned(NIG, z, r)
    draws = posterior.sample(np.random.default_rng(5), 8) - posterior.mean
    first, second = draws[:4], draws[4:]
    sizes = np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    np.testing.assert_allclose(first, -second * sizes[:, None], rtol=1e-12)
    assert len(set(sizes)) == 4


def test_an_odd_number_of_members_is_drawn_independently():
    posterior = GaussianPosterior.prior(1, FIXED)
    rng = np.random.default_rng(0)
    draws = np.stack([posterior.sample(rng, 3)[:, 0] for _ in range(20_000)])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert abs(stats.spearmanr(draws[:, first], draws[:, second]).statistic) < 0.03


def test_draws_with_several_streams_are_those_with_each_of_them():
    z, r = _rows(5, 3)
    posterior = _learned(NIG, z, r)
    together = posterior.sample_many([np.random.default_rng(n) for n in range(7)], 8)
    alone = [posterior.sample(np.random.default_rng(n), 8) for n in range(7)]
    assert np.array_equal(together, np.stack(alone))


def test_the_same_stream_draws_the_same_weights():
    z, r = _rows(5, 3)
    posterior = _learned(NIG, z, r)
    first, second, other = (
        posterior.sample(np.random.Generator(np.random.Philox(key)), 8) for key in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_tiny_noise_shape_draws_finite_weights():
    config = PosteriorConfig(noise_shape=1e-3)
    draws = GaussianPosterior.prior(3, config).sample(np.random.default_rng(0), 10_000)
    assert np.isfinite(draws).all()


def test_reading_changes_nothing():
    z, r = _rows(70, 3)
    posterior = _learned(NIG, z, r)
    before = posterior.to_tensors()
    posterior.sample(np.random.default_rng(0), 16)
    posterior.mean_std(z)
    posterior.statistics()
    posterior.copy().update(z[0], 1.0)
    after = posterior.to_tensors()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("reward", [1, True, np.float32(1.0), np.int64(1), np.array(1.0)])
def test_rewards_of_any_numeric_type_are_learned_alike(reward):
    expected, posterior = GaussianPosterior.prior(2, NIG), GaussianPosterior.prior(2, NIG)
    expected.update([1.0, 0.5], 1.0)
    posterior.update([1.0, 0.5], reward)
    assert np.array_equal(posterior.mean, expected.mean)
    assert posterior.b == expected.b


def test_a_strided_row_is_learned_bit_for_bit_like_a_contiguous_one():
    rows = np.random.default_rng(0).normal(size=(40, 5))
    one, other = GaussianPosterior.prior(40, NIG), GaussianPosterior.prior(40, NIG)
    for column in range(5):
        one.update(rows[:, column], 1.0)
        other.update(rows[:, column].copy(), 1.0)
    assert np.array_equal(one.root, other.root)
    assert np.array_equal(one.mean, other.mean)


BAD_NUMBERS = [math.nan, math.inf, -math.inf, 1e60, 1e200, -1e200]


@pytest.mark.parametrize("bad", BAD_NUMBERS)
@pytest.mark.parametrize(
    "learn",
    [
        lambda posterior, bad: posterior.update([1.0, bad], 1.0),
        lambda posterior, bad: posterior.update([bad, -bad], 1.0),
        lambda posterior, bad: posterior.update([1.0, 1.0], bad),
        lambda posterior, bad: posterior.update_batch([[1.0, 1.0], [bad, 1.0]], [1.0, 1.0]),
        lambda posterior, bad: posterior.update_batch([[1.0, 1.0], [1.0, 1.0]], [1.0, bad]),
        lambda posterior, bad: posterior.correct([1.0, bad], 1.0, 2.0),
        lambda posterior, bad: posterior.correct([1.0, 1.0], bad, 2.0),
        lambda posterior, bad: posterior.correct([1.0, 1.0], 1.0, bad),
    ],
)
def test_numbers_that_are_not_finite_leave_no_trace(learn, bad):
    posterior = GaussianPosterior.prior(2, NIG)
    posterior.update([1.0, 2.0], 1.0)
    before = posterior.to_tensors()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="finite"):
            learn(posterior, bad)
    after = posterior.to_tensors()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_an_integer_beyond_float64_leaves_no_trace():
    posterior = GaussianPosterior.prior(1, NIG)
    with pytest.raises(ValueError, match="finite"):
        posterior.update([1.0], 10**400)
    assert posterior.num_rows == 0


def test_wrong_shapes_leave_no_trace():
    posterior = GaussianPosterior.prior(2, NIG)
    with pytest.raises(ValueError, match="shape"):
        posterior.update([1.0, 2.0, 3.0], 1.0)
    with pytest.raises(ValueError, match="shape"):
        posterior.update([[1.0, 2.0]], 1.0)
    with pytest.raises(ValueError, match="shape"):
        posterior.update_batch([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="shape"):
        posterior.update_batch([[1.0, 2.0]], [1.0, 1.0])
    with pytest.raises(ValueError, match="shape"):
        posterior.mean_std([1.0, 2.0])
    with pytest.raises(ValueError, match="refresh_every"):
        GaussianPosterior.prior(2, NIG, refresh_every=0)
    assert posterior.num_rows == 0


@pytest.mark.parametrize("noise", ["nig", "fixed"])
@pytest.mark.parametrize("prior_var", [1e-20, 1e20])
@pytest.mark.parametrize("noise_var", [1e-20, 1e20])
def test_the_largest_allowed_numbers_keep_everything_finite(noise, prior_var, noise_var):
    config = PosteriorConfig(noise=noise, prior_var=prior_var, noise_var=noise_var)
    posterior = GaussianPosterior.prior(3, config, refresh_every=40)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for exponent in (49, -49, 0, 20, 49):
            for _ in range(20):
                posterior.update(rng.normal(size=3) * 10.0**exponent, rng.normal() * 1e49)
        posterior.update_batch(rng.normal(size=(2, 3)) * 1e49, [1e49, -1e49])
        posterior.correct([1e49, 0.0, 0.0], 1e49, -1e49)
        tensors = posterior.to_tensors()
        mean, std = posterior.mean_std(rng.normal(size=(4, 3)) * 1e49)
        draws = posterior.sample(rng, 100)
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert np.isfinite(draws).all()
