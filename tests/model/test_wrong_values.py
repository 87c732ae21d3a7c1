"""One wrong value leaves a bandit as good as it was; `benchmarks.wrong_values` has more of them."""

from __future__ import annotations

import pytest

from benchmarks.wrong_values import shares_of_best

LINEAR = {"policy": "linear_ts", "encoder": {"name": "per_action"}}


@pytest.mark.few(1)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_reward_or_a_context_value_far_beyond_all_others_costs_at_most_two_points(seed):
    found = shares_of_best("numbers", seed, ["reward", "context"], sections=LINEAR)
    assert found["none"][0] > 0.85
    assert found["reward"][0] > found["none"][0] - 0.02
    assert found["context"][0] > found["none"][0] - 0.02


@pytest.mark.slow
def test_it_ruins_a_bandit_that_is_to_learn_every_value_as_it_is():
    rules = {"rewards": {"clip_outliers": False}}
    found = shares_of_best("numbers", 1, ["reward"], sections=LINEAR | rules)
    assert found["reward"][0] < found["none"][0] - 0.2
