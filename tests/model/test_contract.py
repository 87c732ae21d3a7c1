"""The contract of rewards, compared with a model of it that uses plain lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec.structs import replace

from bandexa_core.log import contract
from bandexa_core.log.contract import Change, DecisionState, ItemState, Learned, Reported
from bandexa_core.spec import MAX_REWARD, RewardAggregate, RewardSpec

FLOATS = st.floats(-1e15, 1e15)
VALUES = st.one_of(st.sampled_from([0.0, -0.0, 0.1, 0.2, 1.0, -3.5, 1e15, -1e15, 1e20]), FLOATS)
MANY = 10_000
IDS = st.sampled_from([None, "r0", "r1", "r2"])
NEW = DecisionState(0, 0, True, False, (ItemState(), ItemState()))


def rules_of(aggregate: Any, default: float | None = None, maturity: Any = "report") -> RewardSpec:
    return RewardSpec(
        aggregate=aggregate, reward_window_s=60.0, default_reward=default, maturity=maturity
    )


AGGREGATES = get_args(RewardAggregate)
STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": median, "min": min, "max": max}


@dataclass
class Item:
    """One chosen action in the model."""

    counted: list[float] = field(default_factory=list)
    stored: list[tuple[str | None, float, str]] = field(default_factory=list)
    value: float | None = None


class Machine(RuleBasedStateMachine):
    """One decision with two chosen actions; every step is compared with the model."""

    @initialize(
        aggregate=st.sampled_from(AGGREGATES),
        default=st.sampled_from([None, 0.25]),
        activated=st.booleans(),
        maturity=st.sampled_from(["report", "close", None]),
    )
    def begin(
        self, aggregate: str, default: float | None, activated: bool, maturity: str | None
    ) -> None:
        self.spec, self.waits = rules_of(aggregate, default, maturity), maturity == "close"
        self.state = replace(NEW, activated=activated)
        self.items = [Item(), Item()]
        self.activated, self.closed, self.changes = activated, False, 0

    def take(self, change: Change | None) -> None:
        """Go on with what a store would hold."""
        if change is None:
            return
        for each in change.learned:
            assert each.before == self.items[each.item].value != each.after
            assert math.copysign(1, each.after) == 1 or each.after < 0, "no negative zero is logged"
            self.items[each.item].value = each.after
        self.changes += 1
        self.state = change.state
        assert self.state.version == self.changes

    def fold(self, values: list[float]) -> float:
        kind = self.spec.aggregate
        if kind in ("first", "last"):
            return values[0 if kind == "first" else -1]
        if kind in STATISTICS:
            return STATISTICS[kind](values)
        return math.fsum(values) / (1 if kind == "sum" else len(values))

    @rule(index=st.integers(0, 1), reward=VALUES, reward_id=IDS)
    def report(self, index: int, reward: float, reward_id: str | None) -> None:
        item, kind = self.items[index], self.spec.aggregate
        same = [each for each in item.stored if each[0] == reward_id]
        if reward_id is None:
            same = [each for each in same if each[1:] == (reward, "late")]
        reported = Reported(index, reward, reward_id, [value for _, value, _ in same])
        if reward_id is None and kind not in ("first", "last"):
            with pytest.raises(ValueError, match=r"^reward_id: needed"):
                contract.report(self.state, reported, self.spec, MANY)
            return
        expected, counts = self.expected(item, reward, reward_id, [value for _, value, _ in same])
        if counts and abs(self.fold([*item.counted, reward])) > MAX_REWARD:
            with pytest.raises(ValueError, match=r"^reward: the sum"):
                contract.report(self.state, reported, self.spec, MANY)
            return
        status, change = contract.report(self.state, reported, self.spec, MANY)
        assert status == expected
        assert (change is None) == (status == "duplicate")
        if change is not None:
            assert change.reward == status
            item.stored.append((reward_id, reward, status))
        if counts:
            item.counted.append(reward)
        self.take(change)
        assert self.state.num_rewards == sum(len(each.stored) for each in self.items)
        if counts and self.activated:
            assert item.value == (None if self.waits else self.fold(item.counted))

    def expected(
        self, item: Item, reward: float, reward_id: str | None, same: list[float]
    ) -> tuple[str, bool]:
        """Return the status, and whether the reward counts."""
        if reward in same:
            return "duplicate", False
        if reward_id is not None and same:
            return "ignored", False
        if self.closed:
            return "late", False
        if self.spec.aggregate in ("first", "last") and item.counted:
            if self.fold(item.counted) == reward:
                return "duplicate", False
            if self.spec.aggregate == "first":
                return "ignored", False
        joins = self.spec.aggregate not in ("first", "last") and item.counted
        if joins or not self.activated:
            return "aggregated", True
        return "pending" if self.waits else "applied", True

    @rule()
    def activate(self) -> None:
        status, change = contract.activate(self.state, self.spec)
        if self.activated or self.closed:
            assert (status, change) == ("duplicate" if self.activated else "late", None)
            return
        assert status == "applied"
        self.activated = True
        self.take(change)
        for item in self.items:
            known = item.counted and not self.waits
            assert item.value == (self.fold(item.counted) if known else None)

    @rule()
    def close(self) -> None:
        change = contract.close(self.state, self.spec)
        assert (change is None) == self.closed
        self.closed = True
        before = [item.value for item in self.items]
        self.take(change)
        for item, value in zip(self.items, before, strict=True):
            if value is None and self.activated:
                value = self.fold(item.counted) if item.counted else self.spec.default_reward
            assert item.value == value


TestContract = Machine.TestCase


@given(st.lists(FLOATS, min_size=1, max_size=60), st.randoms())
def test_a_sum_is_exact_in_any_order(values, random) -> None:
    shuffled = random.sample(values, len(values))
    found = []
    for order in (values, shuffled):
        partials: tuple[float, ...] = ()
        for value in order:
            partials = contract.grown(partials, value)
        found.append(math.fsum(partials))
    assert found == [math.fsum(values)] * 2


@given(st.lists(st.floats(-1e15, 1e15), max_size=400))
def test_one_more_reward_costs_the_same_however_many_came_before(values) -> None:
    partials: tuple[float, ...] = ()
    for value in values:
        partials = contract.grown(partials, value)
    assert len(partials) <= 24  # of 53 bits each they cover all exponents up to 1e15 * 400


def test_more_rewards_than_the_limit_are_refused_and_change_nothing() -> None:
    state, rules = NEW, rules_of("sum")
    for number in range(3):
        _, change = contract.report(state, Reported(0, 0.1, f"r{number}"), rules, most=3)
        assert change is not None
        state = change.state
    with pytest.raises(ValueError, match=r"^reward: the decision has 3 rewards"):
        contract.report(state, Reported(1, 0.1, "r3"), rules, most=3)
    assert contract.report(state, Reported(0, 0.1, "r0", [0.1]), rules, most=3)[0] == "duplicate"


def test_a_mean_may_hold_a_sum_beyond_the_largest_reward() -> None:
    state, rules = NEW, rules_of("mean")
    for number in range(4):
        _, change = contract.report(state, Reported(0, MAX_REWARD, f"r{number}"), rules, MANY)
        assert change is not None
        state = change.state
    assert state.items[0].value == MAX_REWARD
    with pytest.raises(ValueError, match="the sum would be larger"):
        contract.report(
            replace(state, items=(replace(state.items[0], num=0), ItemState())),
            Reported(0, MAX_REWARD, "r9"), rules_of("sum"), MANY,
        )  # fmt: skip


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_an_unknown_value_is_learned_once_when_the_window_closes(aggregate) -> None:
    change = contract.close(NEW, rules_of(aggregate, default=-0.0))
    assert change is not None
    assert change.learned == (Learned(0, None, 0.0), Learned(1, None, 0.0))
    assert contract.close(change.state, rules_of(aggregate, default=-0.0)) is None
