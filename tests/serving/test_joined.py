"""A chosen action is joined once its first reward counts, whenever its value is learned."""

from __future__ import annotations

import pytest

from bandexa_core.log import contract
from bandexa_core.log.contract import DecisionState, Reported
from bandexa_core.spec import RewardSpec
from service.serving.rewards import _num_rewarded


@pytest.mark.parametrize("maturity", ["report", "close"])
def test_rewards_join_when_they_are_reported_and_defaults_never(maturity):
    rules = RewardSpec(aggregate="last", reward_window_s=9.0, default_reward=0.0, maturity=maturity)
    counts = [0]
    state = DecisionState.of(3, activated=False)
    for step in (0, "activate", 1, 1, "close"):
        if isinstance(step, int):
            reported = Reported(step, 1.0 + len(counts), None)
            change = contract.report(state, reported, rules, 9)[1]
        elif step == "activate":
            change = contract.activate(state, rules)[1]
        else:
            change = contract.close(state, rules)
        assert change is not None
        state = change.state
        counts.append(_num_rewarded(state))
    assert counts == [0, 0, 1, 2, 2, 2], "the reward of the first action came before it counted"
    assert [item.value is None for item in state.items] == [False] * 3
