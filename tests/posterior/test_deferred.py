"""Deferred moves give the same posterior as immediate ones."""

import numpy as np
import pytest

from bandexa_core.posterior import GaussianPosterior, PosteriorConfig, Statistics
from bandexa_core.posterior.state import (
    DEFERRED,
    LARGE_DIM,
    PENDING,
    DeferredState,
    State,
    nonzero_rows,
)

DIM = LARGE_DIM + 1
SIZE = 70  # of both kinds of state; the bound is a matter of speed


@pytest.fixture(name="rng")
def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _both(rng: np.random.Generator, num: int) -> tuple[State, DeferredState]:
    """Return both kinds of state after the same rows."""
    root, mean = rng.normal(size=(SIZE, SIZE)) / 10, rng.normal(size=SIZE)
    plain, deferred = State(root, mean), DeferredState(root, mean)
    for z, r in zip(rng.normal(size=(num, SIZE)), rng.normal(size=num), strict=True):
        assert plain.learn(z, r) == pytest.approx(deferred.learn(z, r), rel=1e-9)
    return plain, deferred


@pytest.mark.parametrize("num", [0, 1, 2, DEFERRED - 1, DEFERRED, DEFERRED + 1, 100])
class TestAgainstMovesMadeAtOnce:
    def test_root_and_mean(self, rng, num):
        plain, deferred = _both(rng, num)
        np.testing.assert_allclose(deferred.root, plain.root, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(deferred.mean, plain.mean, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("zeros", [0.0, 0.8])
    def test_looks(self, rng, num, zeros):
        plain, deferred = _both(rng, num)
        z = rng.normal(size=SIZE) * (rng.random(SIZE) >= zeros)
        f, value = plain.project(z)
        np.testing.assert_allclose(f, z @ plain.root, rtol=1e-9, atol=1e-12)
        assert value == pytest.approx(float(z @ plain.mean), rel=1e-9)
        for state in (plain, deferred):
            for rows in (None, nonzero_rows(z)):
                found, its_value = state.project(z, rows)
                np.testing.assert_allclose(found, f, rtol=1e-9, atol=1e-12)
                assert its_value == pytest.approx(value, rel=1e-9)

    def test_spans_and_draws(self, rng, num):
        plain, deferred = _both(rng, num)
        z, eps = rng.normal(size=(5, SIZE)), rng.normal(size=(3, 4, SIZE))
        np.testing.assert_allclose(deferred.spans(z), z @ plain.root, rtol=1e-9, atol=1e-12)
        many = deferred.expanded(eps) @ deferred.stored_root.T + deferred.mean
        np.testing.assert_allclose(many, eps @ plain.root.T + plain.mean, rtol=1e-9, atol=1e-12)
        for state in (plain, deferred):
            state.eps_D[:] = eps[0, 0]
            np.testing.assert_allclose(state.drawn(), many[0, 0], rtol=1e-9, atol=1e-12)

    def test_settling_changes_nothing_but_where_it_is_kept(self, rng, num):
        _, deferred = _both(rng, num)
        root, mean = deferred.root.copy(), deferred.mean.copy()
        settled_root, settled_mean = deferred.settled()
        np.testing.assert_allclose(settled_root, root, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(settled_mean, mean, rtol=1e-9, atol=1e-12)
        assert not deferred.pending


def test_looking_and_drawing_change_nothing(rng):
    posterior = GaussianPosterior.prior(DIM, PosteriorConfig())
    for z in rng.normal(size=(DEFERRED + 3, DIM)):
        posterior.update(z, 1.0)
    before = posterior.to_tensors()
    assert set(PENDING) <= set(before)
    z = rng.normal(size=(4, DIM))
    posterior.mean_std(z)
    posterior.std_of(z[0])
    posterior.stds_of(z)
    posterior.project(z[0])
    posterior.sample(rng, 1)
    posterior.sample(rng, 8)
    posterior.statistics()
    assert posterior.mean.shape == posterior.root[0].shape == (DIM,)
    after = posterior.to_tensors()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("noise", ["nig", "fixed"])
def test_they_end_where_one_factorisation_of_the_sums_does(rng, noise):
    """Rows, corrections, batches below and above D rows, and a reload while moves wait."""
    config = PosteriorConfig(noise=noise, prior_var=2.0, noise_var=0.3)
    posterior = GaussianPosterior.prior(DIM, config)
    z, r = rng.normal(size=(2 * DIM + 60, DIM)), rng.normal(size=2 * DIM + 60)
    for index in range(40):
        posterior.update(z[index], r[index])
        if index == 21:
            posterior.correct(z[5], r[5], 2.0)
            r[5] = 2.0
    posterior = GaussianPosterior.from_tensors(posterior.to_tensors(), config)
    posterior.update_batch(z[40:50], r[40:50])
    posterior.update(z[50], r[50])
    posterior.update_batch(z[51 : 52 + DIM], r[51 : 52 + DIM])
    for index in range(52 + DIM, len(z)):
        posterior.update(z[index], r[index])
    sums = Statistics(DIM)
    sums.add(z, r)
    whole = GaussianPosterior.from_statistics(sums, config)
    sigma = posterior.root @ posterior.root.T
    np.testing.assert_allclose(sigma, whole.root @ whole.root.T, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(posterior.mean, whole.mean, rtol=1e-7, atol=1e-9)
    assert (posterior.a, posterior.b) == pytest.approx((whole.a, whole.b), rel=1e-9)
    x = rng.normal(size=(3, DIM))
    for one, other in zip(posterior.stds_of(x), x, strict=True):
        assert one == pytest.approx(posterior.std_of(other), rel=1e-12)
        assert one == pytest.approx(whole.std_of(other), rel=1e-7)


def test_a_build_that_knows_no_waiting_moves_finds_no_mean(rng):
    posterior = GaussianPosterior.prior(DIM, PosteriorConfig())
    posterior.update(rng.normal(size=DIM), 1.0)
    assert not {"mean", "root"} & set(posterior.to_tensors())


def test_what_was_written_without_waiting_moves_is_read(rng):
    posterior = GaussianPosterior.prior(DIM, PosteriorConfig())
    for z in rng.normal(size=(DEFERRED, DIM)):
        posterior.update(z, 1.0)
    tensors = posterior.to_tensors()
    assert not set(PENDING) & set(tensors)
    loaded = GaussianPosterior.from_tensors(tensors, PosteriorConfig())
    assert np.array_equal(loaded.root, posterior.root)


@pytest.mark.parametrize("name", PENDING)
def test_waiting_moves_that_do_not_fit_are_refused(rng, name):
    posterior = GaussianPosterior.prior(DIM, PosteriorConfig())
    for z in rng.normal(size=(3, DIM)):
        posterior.update(z, 1.0)
    tensors = posterior.to_tensors()
    missing = {key: tensor for key, tensor in tensors.items() if key != name}
    with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
        GaussianPosterior.from_tensors(missing, PosteriorConfig())
    damaged = tensors | {name: tensors[name][..., :-1]}
    with pytest.raises(ValueError, match="wrong shapes"):
        GaussianPosterior.from_tensors(damaged, PosteriorConfig())
    damaged = tensors | {name: np.full_like(tensors[name], np.nan)}
    with pytest.raises(ValueError, match=f"tensor '{name}' contains"):
        GaussianPosterior.from_tensors(damaged, PosteriorConfig())


def test_more_moves_than_can_wait_are_refused(rng):
    many = {
        "gains": rng.normal(size=(DEFERRED, SIZE)),
        "moves": rng.normal(size=(DEFERRED, SIZE)),
        "shift": rng.normal(size=SIZE),
    }
    with pytest.raises(ValueError, match=f"1 to {DEFERRED - 1} moves"):
        DeferredState(np.eye(SIZE), np.zeros(SIZE), many)


def test_few_weights_have_no_waiting_moves(rng):
    tensors = GaussianPosterior.prior(3, PosteriorConfig()).to_tensors()
    pending = {"gains": np.ones((1, 3)), "moves": np.ones((1, 3)), "shift": np.ones(3)}
    tensors |= {"unmoved_mean": tensors.pop("mean"), "unmoved_root": tensors.pop("root")}
    with pytest.raises(ValueError, match="no moves of these 3 weights can wait"):
        GaussianPosterior.from_tensors(tensors | pending, PosteriorConfig())
