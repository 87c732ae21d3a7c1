"""A chosen action is joined once its first reward counts, whenever its value is learned."""

from __future__ import annotations

import pytest

from bandexa_core.ids import BanditUid, DecisionId
from bandexa_core.log import contract
from bandexa_core.log.contract import DecisionState, Reported
from bandexa_core.spec import RewardSpec
from service.serving.rewards import _delay_s, _num_rewarded
from service.store.identity import key_at
from service.store.protocol import Reportable, Step
from service.store.records import BanditRecord
from tests.store.conftest import make_spec


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


@pytest.mark.parametrize("offset_s", [0.0, 3600.0, -3600.0])
def test_a_delay_does_not_follow_a_wall_clock_that_was_set(offset_s):
    made_at, state = 1.7e9, DecisionState.of(1, activated=True)
    bandit = BanditRecord(1, BanditUid("b"), "b", make_spec(), made_at)
    decision = Reportable(key_at(1, made_at), DecisionId("d"), bandit, (), state)
    change = contract.report(state, Reported(0, 1.0, None), RewardSpec(), 9)[1]
    assert change is not None
    step = Step(decision, change, made_at + offset_s + 40.0)
    assert _delay_s(step, offset_s) == pytest.approx(40.0)
