"""The reward contract, compared with a model of it that uses plain lists.

A state machine decides, rewards, repeats, activates and lets time pass on a real store; whatever
order hypothesis finds, statuses, values and learn rows are those of the model.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bandexa_core.ids import DecisionId, DecisionKey, LogPosition
from bandexa_core.log.rows import LearnRow
from bandexa_core.spec import RewardSpec
from service.store.errors import InvalidRequest, StoreError, UnknownDecision
from service.store.sqlite.store import SqliteStore
from tests.store.conftest import StoreClient, creating, make_decision, make_report, make_spec
from tests.store.reporting import activations, close_windows, rewards

VALUES = st.sampled_from([0.0, 0.1, 0.2, 0.7, 1.0, -3.5, 1e16, -1e16])
REWARD_IDS = st.sampled_from([None, "r0", "r1", "r2", "r3", "r4"])
WINDOW_S, START = 100.0, 1000.0


@dataclass
class Known:
    """One decision in the model."""

    made: float
    active: bool
    counted: list[tuple[str | None, float]] = field(default_factory=list)
    stored: list[tuple[str | None, float, str]] = field(default_factory=list)
    value: float | None = None
    closed: bool = False


def folded(aggregate: str, values: list[float]) -> float:
    if aggregate == "first":
        return values[0]
    if aggregate == "last":
        return values[-1]
    return math.fsum(values) / (1 if aggregate == "sum" else len(values))


class Contract(RuleBasedStateMachine):
    """Rewards, activations and closing windows of one bandit."""

    @initialize(
        aggregate=st.sampled_from(["first", "last", "sum", "mean"]),
        window=st.sampled_from([None, WINDOW_S]),
        default=st.sampled_from([None, 0.25]),
    )
    def begin(self, aggregate: str, window: float | None, default: float | None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.now, self.aggregate, self.window = START, aggregate, window
        self.default = default if window is not None else None
        self.client = StoreClient(Path(self.folder.name) / "bandexa.db")
        self.store = self.opened()
        rewards = RewardSpec(
            aggregate=aggregate,  # type: ignore[arg-type]
            reward_window_s=window,
            default_reward=self.default,
        )
        spec = make_spec(rewards=rewards)
        self.bandit = self.call(creating(self.store), "b", spec)
        self.known: dict[str, Known] = {}
        self.learned: list[tuple[str, float | None, float]] = []
        self.tick()

    def opened(self) -> SqliteStore:
        return SqliteStore(self.client.path, "os", lambda answer: answer(), lambda: self.now)

    def call(self, append: Callable[..., None], *args: Any) -> Any:
        return self.client.call(append, *args)

    def tick(self) -> None:
        """Close the due windows in the store, and check what the model expects."""
        found = close_windows(self.call, self.store, self.now)
        expected = []
        for name, known in sorted(self.known.items(), key=lambda pair: pair[1].made):
            if self.window is None or known.closed or self.now < known.made + self.window:
                continue
            known.closed = True
            if self.default is not None and known.active and known.value is None:
                expected.append((name, self.default))
                self.learn(name, known, self.default)
        assert found == expected

    def learn(self, name: str, known: Known, value: float) -> None:
        self.learned.append((name, known.value, value))
        known.value = value

    @rule(active=st.booleans())
    def decide(self, active: bool) -> None:
        name = f"d{len(self.known)}"
        record = make_decision(self.bandit, name)._replace(time=self.now, activated=active)
        assert self.call(self.store.append_decision, record) is None
        self.known[name] = Known(self.now, active)

    @precondition(lambda self: self.known)
    @rule(pick=st.integers(0, 50), value=VALUES, reward_id=REWARD_IDS)
    def reward(self, pick: int, value: float, reward_id: str | None) -> None:
        name = f"d{pick % len(self.known)}"
        known = self.known[name]
        report = replace(make_report(name, value), reward_id=reward_id, time=self.now)
        if reward_id is None and self.aggregate in ("sum", "mean"):
            with pytest.raises(InvalidRequest, match="reward_id"):
                self.call(rewards(self.store), report)
            return
        expected = self.expected(name, known, value, reward_id)
        outcome = self.call(rewards(self.store), report)
        assert outcome.status == expected
        assert (outcome.row is None) == (known.value == self.before)
        if outcome.row is not None:
            assert (outcome.row.before, outcome.row.after) == (self.before, known.value)

    def expected(self, name: str, known: Known, value: float, reward_id: str | None) -> str:
        """Update the model and return the expected status."""
        self.before = known.value
        if reward_id is not None:
            same = [stored for stored in known.stored if stored[0] == reward_id]
            if any(stored[1] == value for stored in same):
                return "duplicate"
            if same:
                known.stored.append((reward_id, value, "ignored"))
                return "ignored"
        if known.closed:
            if (reward_id, value, "late") in known.stored:  # without an id: of those without one
                return "duplicate"
            known.stored.append((reward_id, value, "late"))
            return "late"
        values = [each for _, each in known.counted]
        if values and self.aggregate in ("first", "last"):
            if folded(self.aggregate, values) == value:
                return "duplicate"
            if self.aggregate == "first":
                known.stored.append((reward_id, value, "ignored"))
                return "ignored"
        known.counted.append((reward_id, value))
        status = "applied" if known.active else "aggregated"
        if values and self.aggregate in ("sum", "mean"):
            status = "aggregated"
        known.stored.append((reward_id, value, status))
        total = folded(self.aggregate, [*values, value])
        if known.active and total != known.value:
            self.learn(name, known, total)
        return status

    @precondition(lambda self: self.known)
    @rule(pick=st.integers(0, 50))
    def activate(self, pick: int) -> None:
        name = f"d{pick % len(self.known)}"
        known = self.known[name]
        found = self.call(activations(self.store), DecisionId(name), self.now)
        rows = [(row.before, row.after) for row in found.rows]
        if known.active or known.closed:
            assert (found.status, rows) == ("duplicate" if known.active else "late", [])
            return
        known.active = True
        assert found.status == "applied"
        if known.counted:
            self.learn(name, known, folded(self.aggregate, [v for _, v in known.counted]))
            assert rows == [(None, known.value)]
        else:
            assert rows == []

    @rule(seconds=st.sampled_from([1.0, 2.0, 2.5]), times=st.integers(1, 60))
    def time_passes(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.now += seconds
            self.tick()

    @rule(seconds=st.sampled_from([0.5, 40.0, 5000.0]))
    def the_service_is_away(self, seconds: float) -> None:
        self.tick()
        self.call(self.store.append_propensity, DecisionKey(1), 0.5)
        self.store.close()
        self.now += seconds
        self.store = self.opened()
        for known in self.known.values():
            if not known.closed:  # the time without a server does not count
                known.made += seconds
        assert close_windows(self.call, self.store, self.now) == []

    @rule()
    def nobody_is_unknown(self) -> None:
        with pytest.raises(UnknownDecision):
            self.call(activations(self.store), DecisionId("nobody"), self.now)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            with self.store.reader() as reader:
                head = reader.head(self.bandit.key)
                chunks = reader.follow(self.bandit, LogPosition(0), head)
                rows = [row for chunk in chunks for row in chunk.rows if isinstance(row, LearnRow)]
            assert len(rows) == head, "nothing else was logged"
            found = [(row.decision_id, row.before, row.after) for row in rows]
            assert found == self.learned
            first: dict[str, int] = {}
            for row in rows:
                assert row.origin == first.setdefault(row.decision_id, row.position)
        finally:
            self.store.close()
            self.folder.cleanup()


TestContract = Contract.TestCase
TestContract.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


def test_a_window_closes_later_by_the_time_that_the_service_was_closed(tmp_path):
    client, now = StoreClient(tmp_path / "bandexa.db"), [START]

    def opened() -> SqliteStore:
        return SqliteStore(client.path, "os", lambda answer: answer(), lambda: now[0])

    store = opened()
    rules = RewardSpec(reward_window_s=10.0, default_reward=0.5)
    bandit = client.call(creating(store), "b", make_spec(rewards=rules))
    close_windows(client.call, store, now[0])
    client.call(store.append_decision, make_decision(bandit, "d0")._replace(time=START))
    for second in range(1, 4):  # 7 seconds are left
        now[0] = START + second
        assert close_windows(client.call, store, now[0]) == []
    store.close()
    now[0] += 1000.0
    store = opened()
    closed = []
    for _ in range(9):
        if close_windows(client.call, store, now[0]):
            closed.append(now[0] - START - 1003.0)
        now[0] += 1.0
    store.close()
    assert closed == [7.0]


@pytest.mark.parametrize("order", list(itertools.permutations([1e16, 0.1, -1e16])))
def test_a_sum_does_not_depend_on_the_order_of_its_rewards(client, store, order):
    spec = make_spec(rewards=RewardSpec(aggregate="sum"))
    bandit = client.call(creating(store), "b", spec)
    client.call(store.append_decision, make_decision(bandit, "d0"))
    for number, value in enumerate(order):
        report = replace(make_report("d0", value), reward_id=f"r{number}")
        row = client.call(rewards(store), report).row
    assert row.after == 0.1


def test_an_outage_postpones_a_window_once_although_ticks_fail(tmp_path):
    client, now = StoreClient(tmp_path / "bandexa.db"), [START]
    store = SqliteStore(client.path, "os", lambda answer: answer(), lambda: now[0])
    rules = RewardSpec(reward_window_s=100.0)
    bandit = client.call(creating(store), "b", make_spec(rewards=rules))
    close_windows(client.call, store, now[0])
    client.call(store.append_decision, make_decision(bandit, "d0")._replace(time=START))
    now[0] += 50.0  # without a tick
    close_windows(client.call, store, now[0])
    with pytest.raises(StoreError):  # larger than a column can hold
        client.call(store.append_propensity, DecisionKey(1 << 70), 0.5)
    now[0] += 1.0
    close_windows(client.call, store, now[0])
    store.close()
    with closing(sqlite3.connect(client.path)) as connection:
        [(closes, offset)] = connection.execute(
            "SELECT closes, value FROM windows JOIN meta ON meta.key = 'service_time_offset'"
        ).fetchall()
    assert (closes, offset) == (START + 100.0, 50.0)
