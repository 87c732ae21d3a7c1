"""Panels that draw only what can win have the law of those that draw everything."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bandexa_core.posterior.exceedances import SparsePanel

MEMBERS, PANELS, LEAST_P = 64, 200, 1e-3
SCENES = {
    "equal": lambda rng, num: (np.zeros(num), np.ones(num)),
    "spread": lambda rng, num: (rng.normal(size=num), rng.uniform(0.5, 2.0, num)),
    "few are unknown": lambda rng, num: (
        0.5 * rng.normal(size=num),
        np.where(rng.random(num) < 0.1, 3.0, 0.3),
    ),
}
NOISES = {"known": 0.7, "learned": (64.0, 40.0), "nearly known": (5000.0, 3000.0)}


def _panel(rng, mean_K, spread_K, noise, num=MEMBERS) -> SparsePanel:
    found = SparsePanel.drawn(rng, mean_K, spread_K, num, noise, 0.5)
    assert found is not None
    return found


def _everything(rng, mean_K, spread_K, noise, num) -> np.ndarray:
    """Values of `num` members, all drawn, (num, K)."""
    s2 = noise
    if isinstance(noise, tuple):
        s2 = stats.invgamma.rvs(noise[0], scale=noise[1], size=(num, 1), random_state=rng)
    values: np.ndarray = mean_K + 0.5 * np.sqrt(s2) * spread_K * rng.standard_normal(
        (num, len(mean_K))
    )
    return values


@pytest.mark.few(3)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("scene", SCENES)
def test_winners_and_values_have_the_law_of_all_that_are_drawn(scene, noise):
    rng = np.random.default_rng(len(scene))
    mean_K, spread_K = SCENES[scene](rng, 40)
    panels = [_panel(rng, mean_K, spread_K, NOISES[noise]) for _ in range(PANELS)]
    found_K = np.bincount(np.concatenate([each.winners for each in panels]), minlength=40)
    values = _everything(rng, mean_K, spread_K, NOISES[noise], PANELS * MEMBERS)
    expected_K = np.bincount(values.argmax(axis=1), minlength=40)
    common = found_K + expected_K >= 16
    table = np.array([[*each[common], each[~common].sum()] for each in (found_K, expected_K)])
    table = table[:, table.sum(axis=0) > 0]
    assert stats.chi2_contingency(table).pvalue > LEAST_P
    drawn = np.concatenate([each.members() for each in panels])
    for candidate in (0, 1, int(expected_K.argmax())):
        law = values[:, candidate]
        assert stats.ks_2samp(drawn[:, candidate], law).pvalue > LEAST_P
    tops = values.max(axis=1)
    assert stats.ks_2samp(drawn.max(axis=1), tops).pvalue > LEAST_P


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("scene", SCENES)
def test_the_winner_of_every_member_is_the_best_of_all_its_values(scene, noise):
    rng = np.random.default_rng(3)
    for num in (3, 50, 3000):
        mean_K, spread_K = SCENES[scene](rng, num)
        panel = _panel(rng, mean_K, spread_K, NOISES[noise])
        values_MK = panel.members()
        assert np.array_equal(values_MK.argmax(axis=1), panel.winners)
        assert np.array_equal(values_MK, panel.members())
        for member, values_K in enumerate(values_MK):
            top_K = panel.top(member)
            is_drawn = np.isfinite(top_K)
            assert np.array_equal(top_K[is_drawn], values_K[is_drawn])
            assert np.all(values_K[~is_drawn] < values_K.max())
            assert top_K.argmax() == panel.winners[member]


def test_values_of_one_member_are_independent_of_each_other_and_of_other_members():
    rng = np.random.default_rng(5)
    mean_K, spread_K = np.zeros(6), np.ones(6)
    values = np.array([_panel(rng, mean_K, spread_K, 1.0, num=2).members() for _ in range(4000)])
    flat = values.reshape(4000, 12)
    correlations = np.corrcoef(flat.T)[np.triu_indices(12, 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(4000)


@pytest.mark.parametrize(
    ("spread", "noise", "scale"),
    [(1.0, (2.0, 1.0), 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0)],
    ids=["members that differ", "no spread", "no draws"],
)
def test_what_one_threshold_does_not_fit_takes_no_number(spread, noise, scale):
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    assert SparsePanel.drawn(rng, np.zeros(9), np.full(9, spread), 64, noise, scale) is None
    assert rng.random() == other.random()
