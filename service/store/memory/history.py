"""Reads stored decisions with their rewards, and training rounds: for people."""

from __future__ import annotations

import time
from itertools import islice

from msgspec.structs import replace

from bandexa_core.ids import DecisionId, DecisionKey, LogPosition
from bandexa_core.log.contract import metrics_of
from bandexa_core.log.rows import Metrics
from bandexa_core.spec import RewardSpec
from service.store.errors import Erased
from service.store.identity import first_key, place_of
from service.store.memory.contents import HeldBandit, HeldDecision, is_new_unit
from service.store.memory.log import LearnedRow
from service.store.memory.view import View
from service.store.records import (
    AuditEntry,
    BanditRecord,
    DecisionSummary,
    LearnedValue,
    LoggedDecision,
    LoggedPage,
    Moment,
    RoundRecord,
    StoredDecision,
    to_the_millisecond,
)

MAX_REWARDS = 1000  # of one decision
Before = dict[tuple[DecisionKey, int], tuple[float | None, Metrics | None]]


class MemoryHistory(View):
    """See `DecisionHistory`."""

    def bandit_of(self, decision_id: DecisionId) -> int | None:
        """See `DecisionHistory.bandit_of`."""
        with self._reading() as contents:
            held = contents.find(decision_id)
            return None if held is None else held.record.bandit

    def decision(self, bandit: BanditRecord, decision_id: DecisionId) -> StoredDecision | None:
        """See `DecisionHistory.decision`."""
        with self._reading() as contents:
            held = contents.find(decision_id)
            if held is None or held.record.bandit != bandit.key:
                return None
            if held.is_erased:
                raise Erased(decision_id)
            closes, windows = held.closed_at, contents.windows
            if closes is None and held.record.key in windows.closes:
                closes = windows.closes[held.record.key] + windows.offset
            return StoredDecision(
                replace(held.record, decision_id=decision_id), closes, held.closed_at,
                held.activated_at, tuple(held.rewards[:MAX_REWARDS]),
                _learned(contents.of(bandit.key), held), tuple(held.amendments),
                tuple(item for item, state in enumerate(held.state.items) if state.void),
                held.matured_at,
            )  # fmt: skip

    def newest(self, bandit: BanditRecord, before: int | None, limit: int) -> list[DecisionSummary]:
        """See `DecisionHistory.newest`."""
        with self._reading() as contents:
            newest_first = reversed(contents.of(bandit.key).in_order())
            found = [
                _summary(contents.name(held), held)
                for held in newest_first
                if before is None or place_of(held.record.key) < before
            ]
            return found[:limit]

    def valued(
        self,
        bandit: BanditRecord,
        since: float | None,
        until: float | None,
        after: DecisionKey,
        most: int,
    ) -> tuple[list[DecisionId], DecisionKey | None]:
        """See `DecisionHistory.valued`."""
        with self._reading() as contents:
            held = contents.of(bandit.key).in_order(after)
            reported = [each for each in held if each.state.version and not each.is_erased]
            page = reported[:most]
            found = [
                contents.name(each)
                for each in page
                if (since is None or each.record.time >= since)
                and (until is None or each.record.time < until)
            ]
        return found, page[-1].record.key if len(page) == most else None

    def rounds(self, bandit: BanditRecord, since: float, limit: int) -> list[RoundRecord]:
        """See `DecisionHistory.rounds`."""
        with self._reading() as contents:
            rounds = sorted(contents.of(bandit.key).rounds, key=lambda record: record.time)
        recent = [record for record in rounds if record.time >= since]
        return recent[max(0, len(recent) - limit) :]

    def audit(self, bandit: str, before: int | None, limit: int) -> list[AuditEntry]:
        """See `DecisionHistory.audit`."""
        with self._reading() as contents:
            mine = [each for each in reversed(contents.audit) if each.bandit == bandit]
        return [each for each in mine if before is None or each.row < before][:limit]

    def moment(self, bandit: BanditRecord) -> Moment:
        """See `DecisionHistory.moment`."""
        with self._reading() as contents:
            held = contents.of(bandit.key)
            newest = max(held.decisions, default=first_key(bandit.key))
            return Moment(LogPosition(held.log.head), newest, to_the_millisecond(time.time()))

    def logged(
        self, bandit: BanditRecord, moment: Moment, after: DecisionKey, most: int, most_bytes: int
    ) -> LoggedPage:
        """See `DecisionHistory.logged`."""
        with self._reading() as contents:
            held_bandit = contents.of(bandit.key)
            known = held_bandit.log.configurations(bandit.spec)
            moved: Before = {}
            for row in held_bandit.log.learn_rows(after=moment.position):
                before = row.row.before, row.row.metrics_before
                moved.setdefault((row.key, row.item), before)
            found, read, erased, last = [], 0, 0, after
            waiting = held_bandit.in_order(after)
            units = any(spec.sticky == "action" for spec in known.specs)
            for held in islice(waiting, most):
                if held.record.key > moment.newest or read > most_bytes:
                    break
                read += held.num_bytes()
                last = held.record.key
                if held.is_erased:
                    erased += 1
                else:
                    rules = known.rules(held.record.position)
                    logged = _logged(contents.name(held), held, moment, moved, rules)
                    is_new = not units or is_new_unit(contents, held)
                    found.append(logged._replace(is_new_unit=is_new))
            more = bool(waiting) and last < min(moment.newest, waiting[-1].record.key)
            return LoggedPage(tuple(found), last, erased, more)


def _logged(
    name: DecisionId,
    held: HeldDecision,
    moment: Moment,
    moved: Before,
    rules: RewardSpec,
) -> LoggedDecision:
    key = held.record.key
    rewards = tuple(reward for reward in held.rewards if reward.time <= moment.time)
    closed, activated_at = (
        at if at is not None and at <= moment.time else None
        for at in (held.closed_at, held.activated_at)
    )
    items = list(enumerate(held.state.items))
    values = [moved.get((key, n), (each.value, metrics_of(each, rules))) for n, each in items]
    void = tuple(item for item, each in items if each.void)
    record = replace(held.record, decision_id=name)
    return LoggedDecision(
        record, rewards[:MAX_REWARDS],
        tuple(None if n in void else value for n, (value, _) in enumerate(values)), void, closed,
        activated_at,
        tuple(
            None if n in void or value is None else metrics
            for n, (value, metrics) in enumerate(values)
        ),
    )  # fmt: skip


def _learned(bandit: HeldBandit, held: HeldDecision) -> tuple[LearnedValue, ...]:
    """Return the first and the latest learn row of each chosen action, where the log has them."""
    found = []
    for item, learned in enumerate(held.learned):
        for position in sorted({learned.origin, learned.latest}):
            logged = bandit.log.at(position)
            if isinstance(logged, LearnedRow):
                row = logged.row
                found.append(
                    LearnedValue(item, row.position, row.time, row.before, row.after, row.learned,
                        row.metrics)
                )  # fmt: skip
    return tuple(found)


def _summary(name: DecisionId, held: HeldDecision) -> DecisionSummary:
    record = held.record
    return DecisionSummary(
        place_of(record.key), name, record.time, tuple(picked.id for picked in record.chosen),
        record.propensity, record.explored, record.snapshot, record.position,
        held.state.items[0].value,
    )  # fmt: skip
