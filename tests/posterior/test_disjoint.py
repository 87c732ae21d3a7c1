"""One posterior per action slot: exactly the dense one over per-action blocks."""

import math
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy import stats

from bandexa_core.posterior import (
    DisjointPosterior,
    GaussianPosterior,
    PosteriorConfig,
    Statistics,
)
from bandexa_core.posterior.state import LARGE_DIM

FIXED = PosteriorConfig(noise="fixed", prior_var=2.0, noise_var=0.3)
NIG = PosteriorConfig(noise="nig", prior_var=2.0, noise_var=0.3)


def _learned(config: PosteriorConfig, dim: int, slots: list[int], seed: int = 0):
    rng = np.random.default_rng(seed)
    posterior = DisjointPosterior.prior(dim, config)
    for slot in slots:
        posterior.update(slot, rng.normal(size=dim), rng.normal())
    return posterior


def test_slots_learn_alone_in_one_dimension():
    """prior_var 2, noise_var 0.3; slot 4 sees z = 1, r = 1: Sigma = 1 / (0.15 + 1).

    Mean 1 / 1.15, std sqrt(0.3 / 1.15); slot 0 stays at mean 0, std sqrt(2).
    """
    posterior = DisjointPosterior.prior(1, FIXED)
    posterior.update(4, [1.0], 1.0)
    mean, std = posterior.mean_std([1.0], [0, 4])
    np.testing.assert_allclose(mean, [0.0, 1 / 1.15], rtol=1e-15)
    np.testing.assert_allclose(std, [math.sqrt(2), math.sqrt(0.3 / 1.15)], rtol=1e-14)


def test_it_equals_the_dense_posterior_over_action_blocks():
    rng = np.random.default_rng(0)
    dim, num_slots = 5, 4
    disjoint = DisjointPosterior.prior(dim, FIXED)
    dense = GaussianPosterior.prior(dim * num_slots, FIXED)

    def block(slot, z):
        return np.kron(np.eye(num_slots)[slot], z)

    for step in range(120):
        slot, z, r = int(rng.integers(3)), rng.normal(size=dim), rng.normal()
        disjoint.update(slot, z, r)
        dense.update(block(slot, z), r)
        if step % 10 == 0:
            disjoint.correct(slot, z, r, 2.0)
            dense.correct(block(slot, z), r, 2.0)
    for z in (rng.normal(size=dim), np.array([0.0, 2.0, 0.0, 0.0, -1.0]), np.zeros(dim)):
        mean, std = disjoint.mean_std(z, range(num_slots))
        dense_mean, dense_std = dense.mean_std([block(slot, z) for slot in range(num_slots)])
        np.testing.assert_allclose(mean, dense_mean, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(std, dense_std, rtol=1e-10)
    assert disjoint.num_rows == dense.num_rows == 120


def test_a_slot_equals_a_posterior_that_saw_its_rows_alone():
    rng = np.random.default_rng(0)
    disjoint, alone = DisjointPosterior.prior(3, NIG), GaussianPosterior.prior(3, NIG)
    for step in range(50):
        z, r = rng.normal(size=3), rng.normal()
        disjoint.update(step % 2, z, r)
        if step % 2:
            alone.update(z, r)
    mean, std = disjoint.mean_std(z, [1, 7])
    expected_mean, expected_std = alone.mean_std([z])
    assert mean[0] == pytest.approx(expected_mean[0], rel=1e-14)
    assert std[0] == pytest.approx(expected_std[0], rel=1e-14)
    _, prior_std = GaussianPosterior.prior(3, NIG).mean_std([z])
    assert (mean[1], std[1]) == (0.0, pytest.approx(prior_std[0], rel=1e-14))


@pytest.mark.parametrize("config", [FIXED, NIG])
def test_rebuilding_from_sums_equals_learning_row_by_row(config):
    rng = np.random.default_rng(0)
    learned = DisjointPosterior.prior(4, config)
    sums = {slot: Statistics(4) for slot in range(4)}
    for step in range(90):
        z, r = rng.normal(size=4), rng.normal()
        learned.update(step % 3, z, r)
        sums[step % 3].add([z], [r])
    rebuilt = DisjointPosterior.from_statistics(sums, config)
    assert rebuilt.slots == learned.slots == (0, 1, 2)
    z = rng.normal(size=4)
    for one, other in zip(
        learned.mean_std(z, range(4)), rebuilt.mean_std(z, range(4)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)
    assert rebuilt.num_rows == 90


def test_rebuilding_from_no_sums_needs_the_dimension():
    assert DisjointPosterior.from_statistics({}, NIG, dim=3).dim == 3
    with pytest.raises(ValueError, match="dimension"):
        DisjointPosterior.from_statistics({}, NIG)
    with pytest.raises(ValueError, match="dimension"):
        DisjointPosterior.from_statistics({0: Statistics(2), 1: Statistics(3)}, NIG)


@pytest.mark.parametrize("config", [FIXED, NIG])
def test_sampled_scores_follow_the_law_of_drawn_weights(config):
    """Two-sample Kolmogorov-Smirnov per slot; slot 9 is untouched."""
    posterior = _learned(config, 4, [0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2])
    z = np.array([0.5, -1.0, 2.0, 0.1])
    num = 20_000
    scores = posterior.sample_scores(np.random.default_rng(5), z, [2, 9, 0, 1], num)
    assert scores.shape == (num, 4)
    for column, slot in enumerate([2, 9, 0, 1]):
        weights = posterior.slot(slot) or GaussianPosterior.prior(4, config)
        drawn = weights.sample(np.random.default_rng(100 + slot), num) @ z
        assert stats.ks_2samp(scores[:, column], drawn).pvalue > 0.01


def test_sampled_scores_of_slots_are_independent():
    """Neither signs nor sizes go together: each slot has its own s2.

    Spearman's coefficient of independent columns has standard error 1/sqrt(M).
    """
    posterior = DisjointPosterior.prior(2, PosteriorConfig(noise_shape=1.0))
    num = 20_000
    scores = posterior.sample_scores(np.random.default_rng(6), [1.0, 2.0], [0, 1], num)
    bound = 5 / math.sqrt(num)
    assert abs(stats.spearmanr(scores).statistic) < bound
    assert abs(stats.spearmanr(np.abs(scores)).statistic) < bound


def test_each_draw_has_its_own_noise_variance():
    """Scores of an untouched slot over draws are Student-t with 2 a0 degrees of freedom."""
    posterior = DisjointPosterior.prior(1, PosteriorConfig(prior_var=2.0, noise_var=0.5))
    scores = posterior.sample_scores(np.random.default_rng(7), [3.0], [0], 20_000)[:, 0]
    assert stats.kstest(scores, stats.t(2.0, 0.0, 3.0 * math.sqrt(2.0)).cdf).pvalue > 0.01


def test_the_same_stream_draws_the_same_scores():
    posterior = _learned(NIG, 3, [0, 1, 2, 2])
    first, second = (
        posterior.sample_scores(np.random.default_rng(8), [1.0, 0.0, 1.0], [0, 1, 2, 3], 64)
        for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_untouched_slots_take_no_memory():
    posterior = DisjointPosterior.prior(785, NIG)
    z = np.ones(785)
    tracemalloc.start()
    posterior.sample_scores(np.random.default_rng(0), z, range(1000), 4)
    posterior.mean_std(z, range(1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 785 * 785 * 8
    assert not posterior.slots
    assert posterior.slot(3) is None
    posterior.update(3, z, 1.0)
    assert posterior.slots == (3,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_numbers_that_are_not_finite_leave_no_trace(bad):
    posterior = _learned(NIG, 2, [0, 0])
    before = posterior.to_tensors()
    for slot in (0, 5):
        with pytest.raises(ValueError, match="finite"):
            posterior.update(slot, [1.0, bad], 1.0)
        with pytest.raises(ValueError, match="finite"):
            posterior.update(slot, [1.0, 1.0], bad)
    with pytest.raises(ValueError, match="finite"):
        posterior.correct(0, [1.0, 1.0], 1.0, bad)
    after = posterior.to_tensors()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_calls_that_make_no_sense_are_refused():
    posterior = _learned(NIG, 2, [0])
    with pytest.raises(ValueError, match="slot"):
        posterior.update(-1, [1.0, 1.0], 1.0)
    with pytest.raises(ValueError, match="slot 1 has learned no row"):
        posterior.correct(1, [1.0, 1.0], 1.0, 2.0)
    with pytest.raises(ValueError, match="distinct"):
        posterior.sample_scores(np.random.default_rng(0), [1.0, 1.0], [0, 0], 4)
    with pytest.raises(ValueError, match="slot"):
        posterior.mean_std([1.0, 1.0], [-1])
    with pytest.raises(ValueError, match="shape"):
        posterior.mean_std([1.0], [0])
    with pytest.raises(ValueError, match="dim"):
        DisjointPosterior.prior(0, NIG)
    assert posterior.slots == (0,)


@pytest.mark.parametrize("config", [FIXED, NIG])
def test_a_loaded_posterior_continues_bit_for_bit(config):
    """Slots stand at different counts: some fold, some refresh, some are born after the load."""
    rng = np.random.default_rng(9)
    rows = [(int(rng.integers(6)), rng.normal(size=8), rng.normal()) for _ in range(500)]
    through = DisjointPosterior.prior(8, config, refresh_every=50)
    for slot, z, r in rows[:300]:
        through.update(min(slot, 3), z, r)
    loaded = DisjointPosterior.from_tensors(load(save(through.to_tensors())), config)
    copy = through.copy()
    for posterior in (through, loaded, copy):
        for slot, z, r in rows[300:]:
            posterior.update(slot, z, r)
            posterior.correct(slot, z, r, r + 1.0)
    expected = through.to_tensors()
    for posterior in (loaded, copy):
        tensors = posterior.to_tensors()
        assert tensors.keys() == expected.keys()
        assert all(np.array_equal(tensors[name], expected[name]) for name in expected)
    assert "5/root" in expected


def test_an_untouched_posterior_survives_a_round_trip():
    loaded = DisjointPosterior.from_tensors(DisjointPosterior.prior(7, NIG).to_tensors(), NIG)
    assert (loaded.dim, loaded.slots, loaded.num_rows) == (7, (), 0)


def test_damaged_tensors_are_refused():
    tensors = _learned(NIG, 2, [0]).to_tensors()
    with pytest.raises(ValueError, match="root"):
        DisjointPosterior.from_tensors({k: v for k, v in tensors.items() if k != "0/root"}, NIG)
    with pytest.raises(ValueError, match="dim"):
        DisjointPosterior.from_tensors({k: v for k, v in tensors.items() if k != "dim"}, NIG)
    with pytest.raises(ValueError, match="dimension"):
        DisjointPosterior.from_tensors({**tensors, "dim": np.array(3.0)}, NIG)
    with pytest.raises(ValueError, match="unknown"):
        DisjointPosterior.from_tensors({**tensors, "x/root": np.zeros(1)}, NIG)


def test_refreshing_changes_scores_by_rounding_alone():
    posterior = _learned(NIG, 3, [0, 1, 0, 1, 0, 1])
    before = posterior.mean_std([1.0, 2.0, 3.0], [0, 1, 2])
    posterior.refresh()
    after = posterior.mean_std([1.0, 2.0, 3.0], [0, 1, 2])
    np.testing.assert_allclose(after[0], before[0], rtol=1e-12)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-12)


def test_slots_of_very_many_weights_move_at_once():
    """A decision queries all of them, a reward updates one."""
    dim = LARGE_DIM + 1
    rng = np.random.default_rng(0)
    z, r = rng.normal(size=(5, dim)), rng.normal(size=5)
    disjoint = DisjointPosterior.prior(dim, PosteriorConfig())
    alone = GaussianPosterior.prior(dim, PosteriorConfig())
    for row, value in zip(z, r, strict=True):
        disjoint.update(3, row, value)
        alone.update(row, value)
    assert "gains" in alone.to_tensors()
    tensors = disjoint.to_tensors()
    assert not [name for name in tensors if name.endswith(("/gains", "/moves", "/shift"))]
    np.testing.assert_allclose(tensors["3/root"], alone.root, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(tensors["3/mean"], alone.mean, rtol=1e-9, atol=1e-12)
    loaded = DisjointPosterior.from_tensors(tensors, PosteriorConfig())
    for posterior in (disjoint, loaded, disjoint.copy()):
        posterior.update(3, z[0], 1.0)
        assert np.array_equal(posterior.to_tensors()["3/root"], disjoint.to_tensors()["3/root"])
