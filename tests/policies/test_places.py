"""Top-k: the propensity of each place is the probability that its action stands there."""

from __future__ import annotations

import numpy as np
import pytest

from bandexa_core.policies import Candidates
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.ties import ranked
from bandexa_core.policies.uniform import Uniform
from tests.fixtures.matrices import slow


@pytest.mark.parametrize("num", [1, 2, 5, 8])
def test_a_ranking_is_that_of_a_stable_sort(num: int) -> None:
    """Few different scores, so that equal ones stand at the border of the best."""
    rng = np.random.default_rng(num)
    for levels in (1, 2, 4, 1000):
        scores = rng.integers(0, levels, (64, 8)).astype(float)
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :num]
        assert np.array_equal(ranked(scores, num), expected)


@pytest.mark.parametrize("encoder", ["two_tower", "per_action", *slow("concat", "mlp")])
def test_each_action_has_each_place_as_often_as_its_propensities_say(
    make, make_rows, learn_all, candidates_of, encoder: str
) -> None:
    """Of a pick with probability p, 1 / p is worth 1 in the mean, for each action and place."""
    policy, rows = make(encoder), make_rows(12)
    learn_all(policy, rows)
    candidates, exploration, num = candidates_of(4), Exploration(8, 0.2), 1500
    worth = np.zeros((4, 2))
    for seed in range(num):
        choice = policy.select(
            rows.contexts[0], candidates, np.random.default_rng(seed), num=2,
            exploration=exploration,
        )  # fmt: skip
        assert choice.propensities is not None
        assert choice.propensities[0] == choice.propensity
        for place, (action, propensity) in enumerate(
            zip(choice.chosen, choice.propensities, strict=True)
        ):
            assert 0.05 <= propensity <= 0.85 + 1e-12
            worth[action, place] += 1 / propensity / num
    # 1 / p is at most 20: a mean of 1500 has a standard deviation below 0.12.
    assert np.abs(worth - 1).max() < 0.35


@pytest.mark.parametrize("retrieve", [3, 6])
def test_with_retrieval_the_places_are_those_of_all_candidates(
    make, make_rows, learn_all, candidates_of, retrieve: int
) -> None:
    policy, rows = make("two_tower"), make_rows(12)
    learn_all(policy, rows)
    for seed in range(20):
        both = [
            policy.select(
                rows.contexts[0], candidates_of(8), np.random.default_rng(seed), num=3,
                retrieve=each, exploration=Exploration(16, 0.1),
            )
            for each in (None, retrieve)
        ]  # fmt: skip
        assert both[0].propensities == both[1].propensities


def test_a_greedy_ranking_is_certain_and_a_uniform_one_even(
    make, make_rows, learn_all, candidates_of
) -> None:
    rng, rows = np.random.default_rng(0), make_rows(12)
    context, candidates, policy = (
        rows.contexts[0],
        candidates_of(5),
        make("concat", policy="greedy"),
    )
    even = (0.2, 0.2, 0.2)
    assert policy.select(context, candidates, rng, num=3).propensities == even, "all tie"
    learn_all(policy, rows)
    assert policy.select(context, candidates, rng, num=3).propensities == (1.0, 1.0, 1.0)
    assert Uniform().select(context, candidates, rng, num=3).propensities == even
    assert Uniform().select(context, candidates, rng).propensities is None


@pytest.mark.parametrize("encoder", ["mlp", *slow("concat", "two_tower")])
def test_variants_share_their_places(make, make_rows, learn_all, candidates_of, encoder) -> None:
    policy, rows = make(encoder), make_rows(12)
    learn_all(policy, rows)
    features = candidates_of(2).features[[0, 1, 1]]
    candidates, num = Candidates(np.arange(3), features), 2000
    worth = np.zeros((3, 3))
    for seed in range(num):
        choice = policy.select(
            rows.contexts[0], candidates, np.random.default_rng(seed), num=3,
            exploration=Exploration(8, 0.3),
        )  # fmt: skip
        assert choice.propensities is not None
        assert choice.propensities[0] == choice.propensity
        for place, action in enumerate(choice.chosen):
            worth[action, place] += 1 / choice.propensities[place] / num
    # 1 / p is at most 10: a mean of 2000 has a standard deviation below 0.07.
    assert np.abs(worth - 1).max() < 0.3
