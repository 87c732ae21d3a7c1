"""Checks every decision's ledger row: learned once, and equal to what was reported.

Each chunk is a short transaction. It first reads the logs to their ends, so that values and log
rows belong to one moment although a server writes meanwhile.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import msgpack

from bandexa_core.ids import DecisionKey
from bandexa_core.log.contract import COMBINED, COUNTED, ItemState, Outcome, metrics_of
from bandexa_core.log.rows import Metrics
from bandexa_core.spec import RewardSpec
from service.store.errors import StoreDamaged
from service.store.findings import Check, Report, Say
from service.store.hashing import unpack_log_metrics
from service.store.identity import bandit_of
from service.store.records import BanditRecord
from service.store.sql.codec import (
    StoredItem,
    outcome,
    unpack_chosen,
    unpack_items,
    unpack_propensities,
)
from service.store.sql.verification.log import LogAudit
from service.store.sql.verification.tables import (
    AmendmentFound,
    LedgerFound,
    RewardFound,
    Tables,
)

CHUNK = 500
_STATUSES = (*COUNTED, "ignored", "late", "void", "replaced")


class LedgerAudit:
    """Checks the rows of all bandits."""

    def __init__(
        self, tables: Tables, records: list[BanditRecord], report: Report, say: Say
    ) -> None:
        self._tables = tables
        self._say = say
        self._everything = report.check(None, "rows")
        self._logs: dict[int, LogAudit] = {}
        self._values: dict[int, Check] = {}
        self._num_values: Counter[int] = Counter()
        self._num_rewards: Counter[int] = Counter()
        for record in records:
            self._logs[record.key] = LogAudit(tables, record, report.check(record.name, "log"))
            self._values[record.key] = report.check(record.name, "values")

    def audit(self) -> None:
        """Check everything."""
        for log in self._logs.values():
            while log.advance():
                self._say(f"{log.record.name}: log row {log.position}")
        self._check_rows()
        for key, check in self._values.items():
            values, rewards = self._num_values[key], self._num_rewards[key]
            check.compared = f"{values} values learned once, from {rewards} rewards"
        self._everything.compared = "every value and reward has its decision"

    @contextmanager
    def _moment(self) -> Iterator[None]:
        """Read one state of the database, with all logs checked to their ends first."""
        with self._tables.moment():
            for log in self._logs.values():
                log.catch_up()
            yield

    def _check_rows(self) -> None:
        last, done, more = 0, 0, True
        while more:
            with self._moment():
                rows = self._tables.ledger(last, CHUNK)
                more = len(rows) == CHUNK
                end = rows[-1].key if more else None
                rewards: dict[int, list[RewardFound]] = defaultdict(list)
                for reward in self._tables.rewards(last, end):
                    rewards[reward.key].append(reward)
                amendments: dict[int, list[AmendmentFound]] = defaultdict(list)
                for amendment in self._tables.amendments(last, end):
                    amendments[amendment.key].append(amendment)
                for row in rows:
                    self._row(row, rewards.pop(row.key, []), amendments.pop(row.key, []))
                for key, reported in rewards.items():
                    self._unknown(key, len(reported))
            if more:
                last, done = rows[-1].key, done + len(rows)
                self._say(f"{done} decisions")

    def _unknown(self, key: int, num: int) -> None:
        if bandit_of(DecisionKey(key)) in self._values:
            self._everything.problem(f"{num} rewards at key {key} have no ledger row")

    # -- one decision -------------------------------------------------------------------------

    def _row(
        self,
        row: LedgerFound,
        rewards: Sequence[RewardFound],
        amendments: Sequence[AmendmentFound],
    ) -> None:
        check = self._values.get(row.bandit)
        if check is None:  # the bandit is deleted, or was created meanwhile
            return
        if row.decision_id is None:
            self._everything.problem(f"the ledger row at key {row.key} has no decision")
            return
        self._num_rewards[row.bandit] += len(rewards)
        what = f"decision {row.decision_id}"
        self._counts(check, what, row, rewards, amendments)
        try:
            items = unpack_items(row.items)
            num_chosen = len(unpack_chosen(row.decision_id, row.chosen or b""))
            unpack_propensities(row.decision_id, row.propensities)
        except StoreDamaged as error:
            check.problem(f"ledger: {what}: {error}")
            return
        if len(items) != num_chosen:
            check.problem(f"ledger: {what}: {len(items)} items for {num_chosen} chosen actions")
        counted: dict[int, list[Outcome]] = defaultdict(list)
        for reward in rewards:
            if reward.status not in _STATUSES:
                check.problem(f"rewards: {what}: unknown status {reward.status!r}")
            elif not 0 <= reward.item < len(items):
                check.problem(f"rewards: {what}: of pick {reward.item}, which it has not")
            elif reward.status in COUNTED:
                counted[reward.item].append(_reported(reward))
        self._amendments(check, what, row, items, amendments)
        for index, item in enumerate(items):
            if _is_sound(item):
                self._item(check, row, index, item, counted[index])
            else:
                check.problem(f"ledger: {what}, pick {index}: it is not what was written")

    def _amendments(
        self, check: Check, what: str, row: LedgerFound, items: Sequence[StoredItem],
        amendments: Sequence[AmendmentFound],
    ) -> None:  # fmt: skip
        """Check that what administrators did led to what is stored, and is in the log."""
        last = {each.item: each for each in amendments}
        for index, item in enumerate(items):
            newest = last.get(index)
            if item.state.void != (newest is not None and newest.after is None):
                check.problem(f"ledger: {what}, pick {index}: void, or not, without an amendment")
        begins = self._logs[row.bandit].begins
        for each in amendments:
            if each.after is not None or each.position is None or each.position <= begins:
                continue
            found = self._tables.void_row(row.bandit, each.position)
            if found is None or (found[0], found[1], found[3]) != (row.key, each.item, each.before):
                check.problem(f"amendments: {what}: log row {each.position} does not void it")

    def _counts(
        self,
        check: Check,
        what: str,
        row: LedgerFound,
        rewards: Sequence[RewardFound],
        amendments: Sequence[AmendmentFound],
    ) -> None:
        """Check what the row counts, and what happened to the decision as a whole."""
        if len(rewards) != row.num_rewards:
            check.problem(
                f"rewards: {what}: {len(rewards)} are stored, the ledger counts {row.num_rewards}"
            )
        elif [reward.seq for reward in rewards] != list(range(1, len(rewards) + 1)):
            check.problem(f"rewards: {what}: their numbers are not 1 to {len(rewards)}")
        steps = row.num_rewards + (row.activated is not None) + (row.closed is not None)
        steps += row.matured is not None
        steps += len({each.number for each in amendments if each.after is None})
        if row.version != steps:
            check.problem(f"ledger: {what}: version {row.version} after {steps} steps")
        if row.active and row.activated is not None:
            check.problem(f"ledger: {what}: activated, although it was active from the start")
        rules = self._logs[row.bandit].configurations.rules(row.decided_at or 0)
        if row.closed is not None and rules.reward_window_s is None and not row.imported:
            check.problem(f"ledger: {what}: its window was closed, and its bandit has none")
        if row.matured is not None and not rules.waits:
            check.problem(f"ledger: {what}: mature, and its bandit learns rewards as they come")

    def _item(
        self, check: Check, row: LedgerFound, index: int, item: StoredItem, counted: list[Outcome]
    ) -> None:
        what = f"decision {row.decision_id}, pick {index}"
        rules = self._logs[row.bandit].configurations.rules(row.decided_at or 0)
        final = row.closed is not None or row.matured is not None
        metrics = [each for each in counted if isinstance(each, tuple)]
        if metrics or item.state.metrics:
            _compare_metrics(check, what, item.state, metrics, len(counted), rules.aggregate)
        else:
            singles = [each for each in counted if not isinstance(each, tuple)]
            self._compare(check, what, item.state, singles, rules, final=final)
        active = row.active or row.activated is not None
        if item.state.value is None:
            if counted and active and (final or not rules.waits):
                check.problem(f"rewards: {what}: they count, but nothing was learned from them")
            if (item.origin or item.latest) and not item.state.void:
                check.problem(f"ledger: {what}: learned in row {item.origin}, without a value")
            return
        self._num_values[row.bandit] += 1
        if not active:
            check.problem(f"ledger: {what}: learned although it was never activated")
        self._learned(check, what, row, index, item)

    def _learned(
        self, check: Check, what: str, row: LedgerFound, index: int, item: StoredItem
    ) -> None:
        """Compare a value with the log."""
        log, origin, value = self._logs[row.bandit], item.origin, item.state.value
        first = self._tables.first_row(row.bandit, origin)
        logged = log.value(origin, first.after)
        if origin > log.begins and first[:3] != (row.key, index, None):
            check.problem(f"ledger: {what}: log row {origin} is not the first to learn it")
        elif logged is not None and logged != value:
            check.problem(f"ledger: {what}: value {value}, the log says {logged}")
        elif not log.is_latest(origin, item.latest):
            check.problem(f"ledger: {what}: log row {item.latest} is not the latest to learn it")
        elif item.state.metrics and item.latest > log.begins:
            rules = log.configurations.rules(row.decided_at or 0)
            known = metrics_of(item.state, rules)
            try:
                found, _ = unpack_log_metrics(self._tables.metrics_at(row.bandit, item.latest))
            except (ValueError, TypeError, msgpack.UnpackException):
                found = None
            if found != known:
                check.problem(f"ledger: {what}: its metrics are not those of log row {item.latest}")
        if (row.decided_at or 0) >= origin:
            check.problem(f"ledger: {what}: learned in row {origin}, before it was decided")

    def _compare(
        self, check: Check, what: str, state: ItemState, counted: list[float], rules: RewardSpec,
        *, final: bool,
    ) -> None:  # fmt: skip
        """Compare an item with the rewards that count."""
        value = state.value
        if rules.aggregate == "first" and len(counted) > 1:
            check.problem(f"rewards: {what}: {len(counted)} rewards count, of which one may")
        if counted:
            made = _fold(counted, rules.aggregate)
            if value is not None and made != value:
                check.problem(f"rewards: {what}: they make {made}, the value learned is {value}")
        elif value is not None and (not final or rules.default_reward != value):
            check.problem(f"rewards: {what}: {value} was learned, but no reward reported it")
        if state.num != len(counted):
            check.problem(
                f"ledger: {what}: {len(counted)} rewards count, the ledger counts {state.num}"
            )
        if not _sums_agree(state.partials, counted, rules.aggregate):
            check.problem(f"ledger: {what}: its partial sums are not those of its rewards")


def _reported(reward: RewardFound) -> Outcome:
    """Return what was reported; metrics that cannot be decoded are none."""
    try:
        return outcome(reward.reward, reward.metrics)
    except (ValueError, TypeError, msgpack.UnpackException):
        return ()


def _compare_metrics(
    check: Check, what: str, state: ItemState, counted: list[Metrics], num: int, aggregate: str
) -> None:
    """Compare an item with the metrics that count; the log has what they make.

    `num`: how many rewards count, single ones among them.
    """
    by_name: dict[str, list[float]] = defaultdict(list)
    for metrics in counted:
        for name, number in metrics:
            if aggregate != "first" or name not in by_name:
                by_name[name].append(number)
    known = {metric.name: metric for metric in state.metrics}
    if state.num != num or len(counted) != num:
        check.problem(
            f"ledger: {what}: {num} rewards count, {len(counted)} of them with metrics, the ledger"
            f" counts {state.num}"
        )
    if known.keys() != by_name.keys():
        check.problem(f"ledger: {what}: its metrics are not those of its rewards")
        return
    for name, numbers in by_name.items():
        metric = known[name]
        sums = _sums_agree(metric.partials, numbers, aggregate)
        if not sums or (aggregate in COMBINED and metric.num != len(numbers)):
            check.problem(f"ledger: {what}: {name} is not that of its rewards")


def _is_sound(item: StoredItem) -> bool:
    """Whether an item has the types of one; its bytes may be anything that can be decoded."""
    state: Any = item.state
    return (
        all(
            isinstance(each.num, int) and all(isinstance(part, float) for part in each.partials)
            for each in state.metrics
        )
        and all(
            isinstance(number, int) and number >= 0
            for number in (state.num, item.origin, item.latest)
        )
        and all(isinstance(partial, float) and math.isfinite(partial) for partial in state.partials)
        and all(
            number is None or (isinstance(number, float) and math.isfinite(number))
            for number in (state.value, item.low, item.high)
        )
    )


def _sums_agree(partials: Sequence[float], counted: Sequence[float], aggregate: str) -> bool:
    if aggregate in ("sum", "mean"):
        return bool(partials) == bool(counted) and math.fsum(partials) == math.fsum(counted)
    if aggregate == "median":
        return list(partials) == sorted(counted)
    wanted = [_fold(list(counted), aggregate)] if counted else []
    return list(partials) == wanted


_STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "median": median, "min": min, "max": max,
}  # fmt: skip


def _fold(rewards: list[float], aggregate: str) -> float:
    if aggregate == "first":
        return rewards[0]
    if aggregate == "last":
        return rewards[-1]
    if aggregate in _STATISTICS:
        return _STATISTICS[aggregate](rewards) + 0.0
    total = math.fsum(rewards)
    return total if aggregate == "sum" else total / len(rewards)
