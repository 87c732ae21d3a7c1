"""Stores decisions, and the steps that reports about them lead to.

It does not know the contract of rewards. Every operation checks before it changes anything, so that
one that raises has changed nothing.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey
from bandexa_core.log import contract
from bandexa_core.log.bounds import UNBOUNDED
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.contract import (
    COUNTED,
    DecisionState,
    Outcome,
    StoredStatus,
    positive_zero,
)
from bandexa_core.log.metrics import Totals
from bandexa_core.log.rows import LearnRow, Metrics, VoidRow
from service.store.bounds import BoundsOfBandits
from service.store.delays import SOON, DelaysOfBandits
from service.store.errors import Conflict, Erased, StoreError, UnknownDecision
from service.store.identity import is_server_form, made_at, pack_own_id
from service.store.memory.contents import Contents, HeldBandit, HeldDecision, Learned
from service.store.memory.evicted import leave_sample
from service.store.memory.log import HeldVoid, LearnedRow
from service.store.objects import action_row, context_row
from service.store.protocol import FoundDecision, Logged, Reportable, Step
from service.store.records import (
    Amendment,
    BanditRecord,
    DecisionRecord,
    ReportedReward,
    SampledValue,
    StoredAnswer,
)

S = TypeVar("S", bound=np.generic)


class Decisions:
    """The operations on decisions; `clock`: service time, for windows and log rows."""

    def __init__(self, contents: Contents, clock: Callable[[], float]) -> None:
        self._contents = contents
        self._clock = clock
        self._bounds = BoundsOfBandits(lambda bandit: contents.of(bandit).log.newest_values())
        self._delays = DelaysOfBandits()

    def forget(self, bandit: int) -> None:
        """Drop what is held of a deleted bandit."""
        self._bounds.forget(bandit)
        self._delays.forget(bandit)

    def new_ages(self) -> dict[BanditUid, float]:
        """See `DelaysOfBandits.new_ages`."""
        live = self._contents.live
        return {live[key].uid: age for key, age in self._delays.new_ages().items()}

    def reconfigured(self, bandit: int) -> None:
        """Drop what is held of a bandit that follows from its configuration."""
        self._bounds.forget(bandit)

    def add(self, record: DecisionRecord) -> StoredAnswer | None:
        """Store a decision; returns the answer that is stored under its id, if any."""
        contents = self._contents
        bandit = contents.live.get(record.bandit)
        if bandit is None:
            raise Conflict("the bandit was deleted while the request was on its way")
        found = contents.find(record.decision_id)
        if found is not None:
            return found.answer()
        if contents.decision(record.key) is not None:
            raise StoreError(f"key {record.key} has another decision")
        given = record.decision_id
        own_id = None if is_server_form(given) else pack_own_id(given)
        num, learned = len(record.chosen), [Learned()] * len(record.chosen)
        if record.imported is not None:
            held = HeldDecision(_owned(record), own_id, DecisionState.imported(num), learned)
            held.closed_at = record.time
            contents.add_decision(held)
            contents.of(record.bandit).num_imported += 1
            return None
        state = DecisionState.of(num, activated=record.activated)
        contents.add_decision(HeldDecision(_owned(record), own_id, state, learned))
        rules, now = self._known(bandit).rules(record.position), self._clock()
        if rules.reward_window_s is not None:
            age = self._delays.age(bandit.key, rules)
            matures = None if age is None else now + age
            contents.windows.open(record.key, now + rules.reward_window_s, matures)
        return None

    def fill_propensity(self, key: DecisionKey, propensity: float) -> None:
        """Store a propensity where there is none yet."""
        held = self._contents.decision(key)
        if held is not None and held.record.propensity is None:
            held.record = replace(held.record, propensity=propensity)

    # -- looking up ---------------------------------------------------------------------------

    def find(self, decision_id: DecisionId) -> FoundDecision:
        """Return a decision with those of its rewards that can be repeated."""
        held = self._contents.find(decision_id)
        if held is None:
            raise UnknownDecision(decision_id)
        if held.is_erased:
            raise Erased(decision_id)
        rewards: dict[tuple[int, str], list[Outcome]] = defaultdict(list)
        for reported in held.rewards:
            if reported.reward_id is not None or reported.status == "late":
                rewards[reported.item, reported.reward_id or ""].append(reported.reward)
        return FoundDecision(self.reportable(held), rewards)

    def reportable(self, held: HeldDecision) -> Reportable:
        """Return a decision as reports need it."""
        record = held.record
        bandit = self._contents.live[record.bandit]
        name = self._contents.name(held)
        actions = tuple(picked.id for picked in record.chosen)
        known = self._known(bandit)
        changed = known.rules(record.position) if known.rules_changed else None
        return Reportable(record.key, name, bandit, actions, held.state, changed)

    def _known(self, bandit: BanditRecord) -> Configurations:
        return self._contents.of(bandit.key).log.configurations(bandit.spec)

    def repeats(
        self, key: DecisionKey, item: int, reward_id: str | None, reward: Outcome
    ) -> list[Outcome]:
        """Return the rewards under an id; without one, the late ones equal to `reward`."""
        held = self._contents.decision(key)
        same = (each for each in (held.rewards if held is not None else ()) if each.item == item)
        if reward_id is not None:
            return [each.reward for each in same if each.reward_id == reward_id]
        return [
            each.reward
            for each in same
            if each.reward_id is None and each.reward == reward and each.status == "late"
        ]

    # -- steps --------------------------------------------------------------------------------

    def step(self, step: Step) -> tuple[Logged, ...] | None:
        """Store a step; None where the decision is in another state."""
        decision, change = step.decision, step.change
        held = self._contents.decision(decision.key)
        if held is None:
            raise UnknownDecision(decision.id)
        if held.is_erased:
            raise Erased(decision.id)
        if held.state.version != decision.state.version:
            return None
        if not held.state.version and held.state != decision.state:
            return None
        before = held.state.items
        for item, _, after, _ in change.amended:
            status = "void" if after is None else "replaced"
            held.rewards = [
                dataclasses.replace(each, status=status)
                if each.item == item and each.status in COUNTED
                else each
                for each in held.rewards
            ]
        if change.reward is not None:
            assert step.reported is not None, "a step that stores a reward has one"
            reported = step.reported
            reward = positive_zero(reported.reward)
            held.rewards.append(
                ReportedReward(reported.item, step.time, reward, reported.reward_id, change.reward)
            )
            if not step.imported:
                self._note_delay(held, change.reward)
        if step.closes is not None:
            self._contents.windows.close(decision.key, step.closes)
        if step.matures is not None:
            self._contents.windows.matured(decision.key)
        if change.state.activated and not held.state.activated:
            held.activated_at = step.time
        if change.state.closed and not held.state.closed:
            held.closed_at = step.time
        if change.state.matured and not held.state.matured:
            held.matured_at = step.time
        held.state = change.state
        bandit = self._contents.of(held.record.bandit)
        rows = [self._learn(bandit, held, self._clock(), each) for each in change.learned]
        for item, old, new, metrics in change.amended:
            row = rows[0] if rows and new is not None else None
            if new is None and (value := before[item].value) is not None:
                row = self._void(bandit, held, item, value, metrics)
                rows.append(row)
            position = None if row is None else row.position
            held.amendments.append(Amendment(item, step.time, old, new, position))
        for name, count, total in step.metric_totals():
            known = bandit.metrics.get(name, Totals())
            bandit.metrics[name] = Totals(known.num_values + count, known.total + total)
        return tuple(rows)

    def _note_delay(self, held: HeldDecision, status: StoredStatus) -> None:
        """Count how late a reward came, where the age of mature decisions is learned from that."""
        record, now = held.record, self._clock()
        rules = self._known(self._contents.live[record.bandit]).rules(record.position)
        if rules.maturity == "auto" and status in SOON:
            self._delays.add(record.bandit, now - made_at(record.key, record.time), now)

    def _void(
        self,
        bandit: HeldBandit,
        held: HeldDecision,
        item: int,
        value: float,
        metrics: Metrics | None,
    ) -> Logged:
        """Log that the value of a chosen action became void."""
        key, position, now = held.record.key, bandit.log.next(), self._clock()
        learned = held.learned[item]
        row = VoidRow(position, now, learned.origin, value, *learned.bounds, metrics)
        bandit.log.voided(HeldVoid(row, key, item))
        self._contents.end_groups()  # of all logs: the next bounds are read from the values in them
        leave_sample(bandit, learned.origin)
        self._bounds.forget(held.record.bandit)
        return Logged(position, now, self._contents.name(held), value, None, None)

    def _learn(
        self,
        bandit: HeldBandit,
        held: HeldDecision,
        time: float,
        value: contract.Learned,
    ) -> Logged:
        """Log the value of a chosen action."""
        item, before, after, metrics = value.item, value.before, value.after, value.metrics
        record, position = held.record, bandit.log.next()
        spec = self._contents.live[record.bandit].spec
        origin, bounds = held.learned[item].origin, held.learned[item].bounds
        if before is None:
            origin, bounds = position, UNBOUNDED  # of metrics, whose values come in parts
            if metrics is None:
                live = self._contents.live[record.bandit]
                bounding = self._known(live).bounding(record.position)
                bounds = self._bounds.take(live.key, bounding, after)
        held.learned[item] = Learned(origin, position, bounds)
        picked, name = record.chosen[item], self._contents.name(held)
        row = LearnRow(
            position, time, name, origin, before, after, context_row(spec.context, record.context),
            action_row(spec.actions, picked.features), picked.slot, *bounds,
            metrics, value.metrics_before,
        )  # fmt: skip
        bandit.log.learned(LearnedRow(row, record.key, item))
        if origin in bandit.sample:
            newest = SampledValue(after, metrics, *bounds)
            bandit.sample[origin] = bandit.sample[origin]._replace(value=newest)
        return Logged(position, time, name, before, after, row.learned)


def _owned(record: DecisionRecord) -> DecisionRecord:
    """Return a decision with arrays of its own: the caller may write to the ones it gave."""
    chosen = tuple(replace(picked, features=_copy(picked.features)) for picked in record.chosen)
    features = None
    if record.candidates is not None and record.features is not None:
        features = _copy(record.features)
    return replace(record, context=_copy(record.context), chosen=chosen, features=features)


def _copy(array: NDArray[S]) -> NDArray[S]:
    copy = array.copy()
    copy.setflags(write=False)
    return copy
