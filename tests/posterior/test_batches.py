"""Rows learned together, in any order and number, give the posterior of single updates."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandexa_core.posterior import GaussianPosterior, PosteriorConfig

CONFIGS = [
    PosteriorConfig(noise="nig", prior_var=2.0, noise_var=0.3, noise_shape=1.5),
    PosteriorConfig(noise="fixed", prior_var=2.0, noise_var=0.3),
]


def _one_by_one(config: PosteriorConfig, z, r) -> GaussianPosterior:
    posterior = GaussianPosterior.prior(z.shape[1], config)
    for row, value in zip(z, r, strict=True):
        posterior.update(row, value)
    return posterior


def _assert_same(one: GaussianPosterior, other: GaussianPosterior, rtol: float) -> None:
    sigma, expected = one.root @ one.root.T, other.root @ other.root.T
    assert np.abs(sigma - expected).max() <= rtol * np.abs(expected).max()
    scale = max(1.0, float(np.abs(other.mean).max()))
    assert np.abs(one.mean - other.mean).max() <= rtol * scale
    assert one.a == other.a
    assert one.b == pytest.approx(other.b, rel=rtol)
    assert one.num_rows == other.num_rows
    np.testing.assert_allclose(one.statistics().zz, other.statistics().zz, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(one.statistics().zr, other.statistics().zr, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("dim", "num"), [(3, 1), (3, 2), (20, 19), (20, 20), (90, 70), (20, 500)])
def test_a_batch_equals_its_rows_one_by_one(config, dim, num):
    rng = np.random.default_rng(0)
    z, r = rng.normal(size=(num, dim)), rng.normal(size=num)
    batch = GaussianPosterior.prior(dim, config)
    batch.update_batch(z, r)
    _assert_same(batch, _one_by_one(config, z, r), 1e-10)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 9),
    num=st.integers(1, 25),
    cuts=st.lists(st.integers(0, 25), max_size=4),
    size=st.sampled_from([0.01, 1.0, 30.0]),
    config=st.sampled_from(CONFIGS),
)
def test_neither_order_nor_grouping_of_rows_matters(seed, dim, num, cuts, size, config):
    rng = np.random.default_rng(seed)
    z, r = size * rng.normal(size=(num, dim)), rng.normal(size=num)
    order = rng.permutation(num)
    edges = [0, *sorted(min(cut, num) for cut in cuts), num]
    grouped = GaussianPosterior.prior(dim, config)
    for start, end in itertools.pairwise(edges):
        grouped.update_batch(z[order[start:end]], r[order[start:end]])
    _assert_same(grouped, _one_by_one(config, z, r), 1e-8)


@pytest.mark.parametrize("config", CONFIGS)
def test_an_empty_batch_changes_nothing(config):
    posterior = GaussianPosterior.prior(3, config)
    posterior.update([1.0, 2.0, 3.0], 1.0)
    before = posterior.to_tensors()
    posterior.update_batch(np.zeros((0, 3)), np.zeros(0))
    after = posterior.to_tensors()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("config", CONFIGS)
def test_huge_equal_rows_in_a_block_are_learned_like_single_ones(config):
    """I + F^T F of two equal rows with |f|^2 = 1e20 is singular in float64."""
    z = np.full((2, 5), 1e10)
    batch = GaussianPosterior.prior(5, config)
    batch.update_batch(z, [1e10, 1e10])
    _assert_same(batch, _one_by_one(config, z, [1e10, 1e10]), 1e-8)


def test_batches_count_towards_the_next_refresh():
    rng = np.random.default_rng(0)
    posterior = GaussianPosterior.prior(10, CONFIGS[0], refresh_every=20)
    for expected in (7, 14, 0, 7):
        posterior.update_batch(rng.normal(size=(7, 10)), rng.normal(size=7))
        assert posterior.updates_since_refresh == expected


def test_a_batch_of_as_many_rows_as_weights_is_a_refresh():
    rng = np.random.default_rng(0)
    posterior = GaussianPosterior.prior(10, CONFIGS[0])
    posterior.update(np.ones(10), 1.0)
    posterior.update_batch(rng.normal(size=(10, 10)), rng.normal(size=10))
    assert posterior.updates_since_refresh == 0
    assert not np.tril(posterior.root, -1).any()
