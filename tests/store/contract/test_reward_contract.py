"""The reward contract, compared with a model of it that uses plain lists.

A state machine decides, rewards, repeats, activates and lets time pass; whatever
order hypothesis finds, statuses, values and learn rows are those of the model.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, DecisionKey
from bandexa_core.spec import RewardSpec
from service.store.errors import InvalidRequest, UnknownDecision
from tests.fixtures.matrices import examples
from tests.store.conftest import creating, make_decision, make_report, make_spec
from tests.store.contract.turns import MEMORY, SQLITE, Turns
from tests.store.logs import learn_rows
from tests.store.reporting import activations, close_windows, rewards

VALUES = st.sampled_from([0.0, 0.1, 0.2, 0.7, 1.0, -3.5, 1e16, -1e16])
REWARD_IDS = st.sampled_from([None, "r0", "r1", "r2", "r3", "r4"])
WINDOW_S = 100.0
AGE_S = 40.0


@dataclass
class Known:
    """One decision in the model."""

    made: float
    active: bool
    counted: list[tuple[str | None, float]] = field(default_factory=list)
    stored: list[tuple[str | None, float, str]] = field(default_factory=list)
    value: float | None = None
    closed: bool = False
    aged: bool = False
    matured: bool = False


def folded(aggregate: str, values: list[float]) -> float:
    if aggregate == "first":
        return values[0]
    if aggregate == "last":
        return values[-1]
    return math.fsum(values) / (1 if aggregate == "sum" else len(values))


class Contract(RuleBasedStateMachine):
    """Rewards, activations and closing windows of one bandit."""

    kind: ClassVar[str]

    @initialize(
        aggregate=st.sampled_from(["first", "last", "sum", "mean"]),
        window=st.sampled_from([None, WINDOW_S]),
        default=st.sampled_from([None, 0.25]),
        maturity=st.sampled_from(["report", "close", AGE_S]),
    )
    def begin(
        self, aggregate: str, window: float | None, default: float | None, maturity: Any
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.aggregate, self.window = aggregate, window
        self.default = default if window is not None else None
        maturity = "report" if window is None else maturity
        self.waits, self.age = maturity != "report", AGE_S if maturity == AGE_S else WINDOW_S
        self.client = Turns(self.kind, Path(self.folder.name))
        self.store = self.client.open()
        rewards = RewardSpec(
            aggregate=aggregate,  # type: ignore[arg-type]
            reward_window_s=window,
            default_reward=self.default,
            maturity=maturity,
        )
        spec = make_spec(rewards=rewards)
        self.bandit = self.call(creating(self.store), "b", spec)
        self.known: dict[str, Known] = {}
        self.learned: list[tuple[str, float | None, float]] = []
        self.tick()

    @property
    def now(self) -> float:
        return self.client.clock.now

    def call(self, append: Callable[..., None], *args: Any) -> Any:
        return self.client.call(append, *args)

    def tick(self) -> None:
        """Take what is due in the store, and check what the model expects."""
        found = close_windows(self.call, self.store, self.now)
        expected: list[tuple[str, float]] = []
        in_order = sorted(self.known.items(), key=lambda pair: pair[1].made)
        for name, known in in_order:
            if self.age < WINDOW_S and not known.aged and self.now >= known.made + self.age:
                known.aged, known.matured = True, known.active
                expected += self.learn_final(name, known)
        for name, known in in_order:
            if self.window is None or known.closed or self.now < known.made + self.window:
                continue
            known.closed = True
            expected += self.learn_final(name, known)
        assert found == expected

    def learn_final(self, name: str, known: Known) -> list[tuple[str, float]]:
        if not known.active or known.value is not None:
            return []
        values = [each for _, each in known.counted]
        value = folded(self.aggregate, values) if values else self.default
        if value is None:
            return []
        self.learn(name, known, value)
        return [(name, value)]

    def learn(self, name: str, known: Known, value: float) -> None:
        self.learned.append((name, known.value, value))
        known.value = value

    @rule(active=st.booleans())
    def decide(self, active: bool) -> None:
        name = f"d{len(self.known)}"
        record = replace(make_decision(self.bandit, name), time=self.now, activated=active)
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
        waits = self.waits and not known.matured
        if known.active and waits:
            status = "pending"
        if values and self.aggregate in ("sum", "mean"):
            status = "aggregated"
        known.stored.append((reward_id, value, status))
        total = folded(self.aggregate, [*values, value])
        if known.active and not waits and total != known.value:
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
        if known.counted and not self.waits:
            self.learn(name, known, folded(self.aggregate, [v for _, v in known.counted]))
            assert rows == [(None, known.value)]
        else:
            assert rows == []

    @rule(seconds=st.sampled_from([1.0, 2.0, 2.5]), times=st.integers(1, 60))
    def time_passes(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.client.clock.now += seconds
            self.tick()

    @precondition(lambda self: self.kind != MEMORY)  # that one ends with its process
    @rule(seconds=st.sampled_from([0.5, 40.0, 5000.0]))
    def the_service_is_away(self, seconds: float) -> None:
        self.tick()
        self.call(self.store.append_propensity, DecisionKey(1), 0.5)
        self.store.close()
        self.client.clock.now += seconds
        self.store = self.client.open()
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
                rows = learn_rows(reader, self.bandit)
            assert len(rows) == head, "nothing else was logged"
            found = [(row.decision_id, row.before, row.after) for row in rows]
            assert found == self.learned
            first: dict[str, int] = {}
            for row in rows:
                assert row.origin == first.setdefault(row.decision_id, row.position)
        finally:
            self.store.close()
            self.folder.cleanup()


class ContractOverSqlite(Contract):
    kind = SQLITE


class ContractOverMemory(Contract):
    kind = MEMORY


TestContractOverSqlite = ContractOverSqlite.TestCase
TestContractOverMemory = ContractOverMemory.TestCase
TestContractOverSqlite.settings = TestContractOverMemory.settings = settings(
    max_examples=examples(15, 40), stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
