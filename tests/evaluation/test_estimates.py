"""Point estimates by hand and against enumeration, and what the diagnostics of weights say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bandexa_core.evaluation import (
    WeightSums,
    doubly_robust,
    ips,
    lasting,
    needed,
    rows_of_falling,
    snips,
    switch,
)


def test_estimates_by_hand() -> None:
    """Weights 2, 0, 1, 1 and rewards 1, 1, 0, 1: ips 3/4, snips 3/4; with q = 1/2, dm = 1/2:
    1/2 + (2/2 + 0 - 1/2 + 1/2) / 4 = 3/4."""
    weights, rewards = np.array([2.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0, 1.0])
    half = np.full(4, 0.5)
    assert ips(weights, rewards).value == 0.75
    assert snips(weights, rewards).value == 0.75
    assert doubly_robust(weights, rewards, half, half).value == 0.75
    assert switch(weights, rewards, half, half, tau=1.0).value == 0.5
    assert switch(weights, rewards, half, half, tau=math.inf).value == 0.75
    assert ips(weights, rewards).error == pytest.approx(np.std([2.0, 0.0, 0.0, 1.0]) / 2.0)


def test_all_but_switch_are_unbiased_over_every_log_of_two_rows() -> None:
    """Enumeration: K = 2 actions with means .2 and .7, p = (.8, .2), pi = (.3, .7)."""
    p, pi, means = np.array([0.8, 0.2]), np.array([0.3, 0.7]), np.array([0.2, 0.7])
    model = np.array([0.5, 0.4])
    found = {"ips": 0.0, "robust": 0.0}
    for actions in np.ndindex(2, 2):
        for rewards in np.ndindex(2, 2):
            a, r = np.array(actions), np.array(rewards, float)
            chance = np.prod(p[a]) * np.prod(np.where(r == 1.0, means[a], 1.0 - means[a]))
            w = pi[a] / p[a]
            found["ips"] += chance * ips(w, r).value
            direct = np.full(2, pi @ model)
            found["robust"] += chance * doubly_robust(w, r, model[a], direct).value
    assert found["ips"] == pytest.approx(pi @ means)
    assert found["robust"] == pytest.approx(pi @ means)


def test_switch_leaves_out_rare_huge_weights_where_the_model_is_good() -> None:
    rng = np.random.default_rng(0)
    rare = rng.random(4000) < 0.001
    weights = np.where(rare, 500.0, 0.5)
    rewards = (rng.random(4000) < 0.3).astype(float)
    q = np.full(4000, 0.3)
    plain = doubly_robust(weights, rewards, q, q)
    chosen = switch(weights, rewards, q, q, span=0.01)
    assert chosen.tau < 500.0
    assert chosen.error < 0.1 * plain.error
    assert abs(chosen.value - 0.3) < 0.02


def test_the_effective_sample_size_of_equal_weights_is_their_number() -> None:
    assert WeightSums().add(np.ones(50)).effective == pytest.approx(50.0)
    one = WeightSums().add(np.array([0.0, 0.0, 8.0]))
    assert (one.effective, one.largest, one.positive) == (1.0, 8.0, 1)


def test_wrong_propensities_are_found() -> None:
    rng = np.random.default_rng(1)
    right = np.where(rng.random(5000) < 0.1, 10.0, 0.0)
    assert WeightSums().add(right).average_one
    assert not WeightSums().add(right * 1.5).average_one
    assert not WeightSums().add(np.zeros(100)).average_one  # the action is nowhere in the log


def test_sums_of_weights_do_not_depend_on_the_parts() -> None:
    weights = np.random.default_rng(2).exponential(size=300)
    whole = WeightSums().add(weights)
    parts = WeightSums().add(weights[:7]).add(weights[7:7]).add(weights[7:])
    assert parts.effective == pytest.approx(whole.effective)
    assert parts.mean_error == pytest.approx(whole.mean_error)


def test_what_a_difference_needs() -> None:
    """10 v / (q d^2): v = .2, q = .1, d = .05 are 8,000 rows, and 4,000 rows need a fifth."""
    assert needed(0.2, 0.05, 8000, 0.1).rows == 8000
    assert needed(0.2, 0.05, 4000, 0.1).share == pytest.approx(0.2)
    assert needed(0.2, 0.05, 100, 0.0).rows is None


@pytest.mark.parametrize(("first", "num"), [(0, 800), (0, 5000), (700, 900), (30_000, 4000)])
def test_a_falling_floor_is_worth_its_harmonic_mean(first: int, num: int) -> None:
    """The rows one by one: q_m = min(1, sqrt(1000 / m)), and num / sum(1 / q_m)."""
    rows = np.arange(first + 1, first + num + 1)
    shares = np.minimum(1.0, np.sqrt(1000.0 / rows))
    assert lasting(first, num, 1000) == pytest.approx(num / (1.0 / shares).sum(), rel=1e-3)


def test_how_many_rows_a_falling_floor_takes() -> None:
    """n q lasting(n) = 10 v / d^2. Before it falls, that is the rule itself."""
    assert rows_of_falling(40.0, 0.05, 0, 1000) == needed(0.01, 0.05, 1, 0.05).rows == 800
    found = rows_of_falling(800.0, 0.005 / 20, 0, 1000)
    assert found is not None
    assert found * 0.005 / 20 * lasting(0, found, 1000) == pytest.approx(800.0)
    assert found > 1000 * 3_200_000, "a steady floor takes 3.2 million"
    assert rows_of_falling(800.0, 0.0, 0, 1000) is None
    assert rows_of_falling(1e120, 0.01, 0, 1000) is None, "more rows than any log has"
    assert needed(0.2, 1e-200, 100, 0.1).rows is None
