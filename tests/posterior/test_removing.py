"""Rows that are taken out again leave a posterior as if it had never learned them."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.posterior import DisjointPosterior, GaussianPosterior, PosteriorConfig

NIG = PosteriorConfig(prior_var=1.0, noise_var=1.0, noise_shape=1.0)
FIXED = PosteriorConfig(noise="fixed", prior_var=2.0, noise_var=0.3)
NUM, DIM = 60, 5
WRONG = np.arange(NUM) % 7 == 3


def rows(seed: int = 0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(NUM, DIM))
    z[:, -1] = 1.0
    values = rng.normal(size=NUM)
    values[WRONG] = 1000.0
    return z, values


def assert_alike(one: GaussianPosterior, other: GaussianPosterior) -> None:
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(one.root @ one.root.T, other.root @ other.root.T, rtol=1e-9)
    assert one.num_rows == pytest.approx(other.num_rows, rel=1e-12)
    assert (one.a, one.b) == pytest.approx((other.a, other.b), rel=1e-8)


@pytest.mark.parametrize("config", [NIG, FIXED])
def test_rows_that_are_removed_were_never_learned(config):
    z, values = rows()
    whole, right = (GaussianPosterior.prior(DIM, config) for _ in range(2))
    for row, value, wrong in zip(z, values, WRONG, strict=True):
        whole.update(row, value)
        if not wrong:
            right.update(row, value)
    whole.remove(z[WRONG], values[WRONG], np.ones(WRONG.sum()))
    assert_alike(whole, right)


def test_a_removed_row_has_the_weight_that_forgetting_left():
    z, values = rows()
    whole, right = (GaussianPosterior.prior(DIM, NIG) for _ in range(2))
    for number, (row, value, wrong) in enumerate(zip(z, values, WRONG, strict=True)):
        for posterior in (whole, right):
            if number in (20, 40):
                posterior.forget(0.5)
            if posterior is whole or not wrong:
                posterior.update(row, value)
    weights = np.where(np.arange(NUM) < 20, 0.25, np.where(np.arange(NUM) < 40, 0.5, 1.0))
    whole.remove(z[WRONG], values[WRONG], weights[WRONG])
    assert_alike(whole, right)


def test_without_any_row_the_prior_is_left():
    z, values = rows()
    posterior = GaussianPosterior.prior(DIM, NIG)
    posterior.update_batch(z, values)
    posterior.remove(z, values, np.ones(NUM))
    assert posterior.num_rows == 0.0
    assert not posterior.mean.any()
    assert_alike(posterior, GaussianPosterior.prior(DIM, NIG))


def test_rows_of_one_slot_are_removed_and_the_pool_follows():
    z, values = rows()
    whole, right = (DisjointPosterior.prior(DIM, NIG) for _ in range(2))
    for number, (row, value, wrong) in enumerate(zip(z, values, WRONG, strict=True)):
        whole.update(number % 2, row, value)
        if not wrong:
            right.update(number % 2, row, value)
    for slot in (0, 1):
        mine = WRONG & (np.arange(NUM) % 2 == slot)
        whole.remove(slot, z[mine], values[mine], np.ones(mine.sum()))
    whole.refresh()
    right.refresh()
    for found, expected in zip(
        whole.mean_std(z[0], [0, 1]), right.mean_std(z[0], [0, 1]), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert whole.num_rows == right.num_rows
    with pytest.raises(ValueError, match="slot 7"):
        whole.remove(7, z[:1], values[:1], np.ones(1))


def test_a_learned_frame_begins_again_from_the_rows_that_are_left():
    """A wrong value among the first would stay in what the prior expects of unknown actions."""
    learned = PosteriorConfig(learns_center=True, learns_unit=True)
    z, values = rows()
    posterior = GaussianPosterior.prior(DIM, learned)
    for row, value in zip(z, values, strict=True):
        posterior.update(row, value)
    assert posterior.frame.center > 50.0
    posterior.remove(z[WRONG], values[WRONG], np.ones(WRONG.sum()))
    posterior.begin_frame_again(center=True)
    assert posterior.frame.center == pytest.approx(values[~WRONG].mean(), abs=1e-9)
    assert posterior.frame.unit == pytest.approx(values[~WRONG].std(), rel=1e-6)
