"""Estimates and intervals against other packages, where these compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from estimators.bandits import cs, gaussian
from estimators.bandits import ips as vw_ips
from estimators.bandits import snips as vw_snips
from ville.ab import AsymptoticABTest
from ville.means import AsymptoticCS, EmpiricalBernsteinCS

from bandexa_core.evaluation import (
    Asymptotic,
    LiftSequence,
    MeanSequence,
    WeightedSequence,
    ips,
    snips,
)

T = 2000


def _rows(seed: int, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights that average 1 and are at most `most`, with rewards."""
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(T) < 1.0 / most, most, 0.0)
    return weights, (rng.random(T) < 0.3).astype(float)


@pytest.mark.parametrize(("seed", "most"), [(0, 1.0), (1, 2.0), (2, 20.0)])
def test_point_estimates_are_those_of_vw_estimators(seed: int, most: float) -> None:
    weights, rewards = _rows(seed, most)
    theirs = vw_ips.Estimator(), vw_snips.Estimator(), gaussian.Interval()
    for weight, reward in zip(weights, rewards, strict=True):
        for each in theirs:
            each.add_example(1.0, float(reward), float(weight))
    ours = ips(weights, rewards)
    assert ours.value == pytest.approx(theirs[0].get(), abs=1e-12)
    assert snips(weights, rewards).value == pytest.approx(theirs[1].get(), abs=1e-12)
    low, high = theirs[2].get(0.05)
    half = 1.959963984540054 * ours.error * np.sqrt(T / (T - 1))
    assert (ours.value - half, ours.value + half) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 3.0)])
@pytest.mark.parametrize("seed", range(3))
def test_the_mixture_is_the_confidence_sequence_of_vw_estimators(
    seed: int, low: float, high: float
) -> None:
    """Its guesses have no limit at 1: with these weights none reaches it."""
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random(T) < 0.7, rng.uniform(0.5, 1.5, T), 0.4)
    rewards = low + (high - low) * rng.beta(1, 3, T)
    theirs = cs.Interval(low, high)
    ours = WeightedSequence.new(low, high)
    for part in np.array_split(np.arange(T), 7):
        ours = ours.add(weights[part], rewards[part])
        for row in part:
            theirs.add_example(1.0, float(rewards[row]), float(weights[row]))
        assert ours.interval() == pytest.approx(theirs.get(0.05), abs=1e-9)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 4.0)])
def test_the_plug_in_bound_is_villes(low: float, high: float) -> None:
    rewards = low + (high - low) * np.random.default_rng(0).beta(2, 5, T)
    theirs = EmpiricalBernsteinCS((low, high), intersect=False).fit(rewards)
    ours = MeanSequence.new(low, high, method="plug_in")
    for part in np.array_split(np.arange(T), 5):
        ours = ours.add(rewards[part])
        at = part[-1]
        expected = theirs.lower_[at], theirs.upper_[at]
        assert ours.interval() == pytest.approx(expected, abs=1e-9)


def test_the_asymptotic_interval_is_villes() -> None:
    """Both narrowest where the other is: the packages choose rho differently."""
    values = np.random.default_rng(1).normal(5.0, 3.0, T)
    theirs = AsymptoticCS(t_opt=1000).fit(values)
    at = theirs.rho_ * Asymptotic(narrowest_at=1.0).rho_squared
    ours = Asymptotic(narrowest_at=at).add(values[:700]).add(values[700:])
    ends = ours.mean - ours.reach(), ours.mean + ours.reach()
    assert ends == pytest.approx(theirs.interval(), abs=1e-9)


def test_the_values_of_a_lift_are_villes() -> None:
    """The lift of half and half, with the means of the values under both intervals."""
    rng = np.random.default_rng(2)
    is_arm = rng.random(T) < 0.5
    rewards = (rng.random(T) < np.where(is_arm, 0.4, 0.3)).astype(float)
    theirs = AsymptoticABTest().fit(rewards, is_arm)
    ours = LiftSequence.new(0.5).add(rewards, is_arm, 0.5)
    first = (rewards[0] - 0.5) - rewards[0]  # our first centre is 1/2, theirs is 0
    first *= 2.0 if is_arm[0] else -2.0
    assert ours.lift == pytest.approx(theirs.estimate_[-1] + first / T, abs=1e-9)
