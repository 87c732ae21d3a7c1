"""With late clicks, an offer must not look good because its silences are not known yet."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandexa_core.log import contract
from bandexa_core.log.contract import DecisionState, Reported
from bandexa_core.log.delays import Delays
from bandexa_core.spec import BanditSpec, ContextSpec, RewardSpec
from bandexa_core.spec.changes import completed_spec
from benchmarks.in_process import InProcessClient
from tests.fixtures.matrices import slow

RATES = {"a": 0.3, "b": 0.1}
A_SECOND = 10  # decisions
WINDOW, DELAY = 200, 30.0  # decisions: 20 s and 3 s
NEW_AT, END = 1000, 2000


def shares_of_the_new_offer(rate: float, maturity: Any, seed: int) -> tuple[float, float]:
    """Return the share of decisions for an offer that comes halfway: in three windows, and after.

    Clicks come after an exponential delay, and the value without one is 0.
    """
    rng = np.random.default_rng(seed)
    rules = RewardSpec(reward_window_s=WINDOW / A_SECOND, default_reward=0.0, maturity=maturity)
    body = {
        "policy": "linear_ts", "encoder": {"name": "per_action"}, "context": {"shape": [1]},
        "training": {"mode": "lockstep"}, "seed": seed,
    }  # fmt: skip
    client = InProcessClient("offers", body, list(RATES), None, corrects=True)
    rates = RATES | {"c": rate}
    states: list[DecisionState] = []
    clicks: dict[int, list[int]] = {}
    due: dict[int, list[int]] = {}
    delays = Delays()
    chosen: list[str] = []

    def age() -> float | None:
        return delays.age_s if maturity == "auto" else maturity

    def step(number: int, change: contract.Change | None) -> None:
        if change is None:
            return
        states[number] = change.state
        for learned in change.learned:
            if client.reward(f"d{number}", learned.after).train_due:
                client.train("offers")

    for now in range(END):
        if now == NEW_AT:
            client.put_actions(["c"], np.zeros((1, 0), np.float32))
        for number in clicks.pop(now, []):
            step(number, contract.report(states[number], Reported(0, 1.0, None), rules, 9)[1])
            delays.add((now - number) / A_SECOND, now / A_SECOND)
        for number in due.pop(now, []):
            step(number, contract.mature(states[number], rules))
        if now >= WINDOW:
            step(now - WINDOW, contract.close(states[now - WINDOW], rules))
        action = client.select("offers", [1.0], decision_id=f"d{now}").action.id
        chosen.append(action)
        states.append(DecisionState.of(1, activated=True))
        age_s = age()
        if isinstance(age_s, float) and age_s < WINDOW / A_SECOND:
            due.setdefault(now + math.ceil(age_s * A_SECOND), []).append(now)
        if rng.random() < rates[action]:
            comes = now + 1 + int(rng.exponential(DELAY))
            if comes < now + WINDOW:
                clicks.setdefault(comes, []).append(now)
    new = np.array(chosen[NEW_AT:]) == "c"
    return float(new[: 3 * WINDOW].mean()), float(new[3 * WINDOW :].mean())


@pytest.mark.parametrize("seed", [1, *slow(2, 3)])
def test_a_new_offer_that_is_worse_gets_little(seed):
    early, later = shares_of_the_new_offer(0.05, "auto", seed)
    assert early < 0.1, "it is tried before anything is known of it"
    assert later < 0.1


@pytest.mark.parametrize("seed", [1, *slow(2, 3)])
def test_a_new_offer_that_is_better_has_half_of_the_decisions_within_three_windows(seed):
    assert shares_of_the_new_offer(0.6, "auto", seed)[0] > 0.5


@pytest.mark.slow
def test_nothing_is_learned_before_the_close_where_that_is_asked_for():
    """The new offer is then tried for a whole window before anything is known of it."""
    early, later = shares_of_the_new_offer(0.05, "close", 1)
    assert 0.05 < early < 0.2
    assert later < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *slow(2)])
def test_values_that_are_learned_as_they_are_reported_favour_what_is_new(seed):
    """All that is known of an offer in its first window are clicks."""
    early, _ = shares_of_the_new_offer(0.05, "report", seed)
    assert early > 0.3


def test_maturity_is_an_age_where_a_default_is_learned():
    assert RewardSpec().matured().maturity == "report"
    assert RewardSpec(reward_window_s=5.0).matured().maturity == "report"
    waits = RewardSpec(reward_window_s=5.0, default_reward=0.0)
    assert waits.matured().maturity == "auto"
    assert (
        RewardSpec(reward_window_s=5.0, default_reward=0.0, maturity="report").matured().maturity
        == "report"
    )


def test_edition_1_may_name_the_maturity_that_it_has():
    spec = BanditSpec(
        context=ContextSpec(shape=(2,)), edition=1, reward_range=(0.0, 1.0),
        rewards=RewardSpec(reward_window_s=60.0, default_reward=0.0),
    )  # fmt: skip
    known = completed_spec(spec, 1)
    assert known.rewards.maturity is None
    named = replace(spec, rewards=replace(spec.rewards, maturity="report"))
    assert completed_spec(named, 0, known) == known
    closing = replace(spec, rewards=replace(spec.rewards, maturity="close"))
    assert completed_spec(closing, 0, known).rewards != known.rewards


def test_a_change_that_leaves_the_maturity_out_leaves_it_as_it_is():
    def changed(before: RewardSpec, **rules: Any) -> Any:
        spec = BanditSpec(context=ContextSpec(shape=(2,)), rewards=before)
        known = completed_spec(spec, 1)
        return completed_spec(replace(spec, rewards=RewardSpec(**rules)), 0, known).rewards.maturity

    waits: dict[str, Any] = {"reward_window_s": 60.0, "default_reward": 0.0}
    for maturity in ("close", "report", 30.0):
        before = RewardSpec(**waits, maturity=maturity)
        assert changed(before, **waits) == maturity
        assert changed(before, **waits, aggregate="last") == maturity
        assert changed(before, **waits, maturity="auto") == "auto"
        assert changed(before) == "report", "there is no default any more"
    assert changed(RewardSpec(reward_window_s=60.0, maturity="close")) == "report"
    assert changed(RewardSpec(), **waits) == "auto", "a default came"
    with pytest.raises(ValueError, match=r"rewards\.maturity: must be at most reward_window_s, 9"):
        changed(RewardSpec(**waits, maturity=30.0), reward_window_s=9.0, default_reward=0.0)
