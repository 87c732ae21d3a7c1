"""Checks every reward and every learned value: learned once, and equal to what was reported.

Each chunk is a short transaction. It first reads the logs to their ends, so that values and log
rows belong to one moment although a server writes meanwhile.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from bandexa_core.spec import BanditSpec
from service.store.errors import StoreDamaged
from service.store.records import BanditRecord
from service.store.sqlite.audit import AuditReader, OutcomeFound, RewardFound
from service.store.sqlite.codec import unpack_chosen
from service.tools.verify.findings import Check, Report, Say
from service.tools.verify.log_audit import LogAudit

CHUNK = 500
_COUNTED = ("applied", "aggregated")
_STATUSES = (*_COUNTED, "ignored", "late")


class Ledger:
    """Checks the rows of all bandits."""

    def __init__(
        self, reader: AuditReader, records: list[BanditRecord], report: Report, say: Say
    ) -> None:
        self._reader = reader
        self._say = say
        self._everything = report.check(None, "rows")
        self._logs: dict[int, LogAudit] = {}
        self._values: dict[int, Check] = {}
        self._num_values: Counter[int] = Counter()
        self._num_rewards: Counter[int] = Counter()
        for record in records:
            self._logs[record.key] = LogAudit(reader, record, report.check(record.name, "log"))
            self._values[record.key] = report.check(record.name, "values")

    def audit(self) -> None:
        """Check everything."""
        for log in self._logs.values():
            while log.advance():
                self._say(f"{log.record.name}: log row {log.position}")
        self._check_outcomes()
        self._check_rewards()
        for key, check in self._values.items():
            values, rewards = self._num_values[key], self._num_rewards[key]
            check.compared = f"{values} values learned once, from {rewards} rewards"
        self._everything.compared = "every value and reward has its decision"

    @contextmanager
    def _moment(self) -> Iterator[None]:
        """Read one state of the database, with all logs checked to their ends first."""
        with self._reader.moment():
            for log in self._logs.values():
                log.catch_up()
            yield

    # -- values -------------------------------------------------------------------------------

    def _check_outcomes(self) -> None:
        last, done = ("", -1), 0
        while True:
            with self._moment():
                rows = self._reader.outcomes(last, CHUNK)
                counted: dict[tuple[str, int], list[float]] = defaultdict(list)
                if rows:
                    first, final = rows[0].decision_id, rows[-1].decision_id
                    for decision_id, item, reward in self._reader.counted_rewards(first, final):
                        counted[decision_id, item].append(reward)
                for row in rows:
                    self._outcome(row, counted.get((row.decision_id, row.item), []))
            if len(rows) < CHUNK:
                return
            last, done = (rows[-1].decision_id, rows[-1].item), done + len(rows)
            self._say(f"{done} values")

    def _outcome(self, row: OutcomeFound, counted: list[float]) -> None:
        origin, value = row.origin, row.value
        what = f"decision {row.decision_id}, pick {row.item}"
        check = self._check(row.bandit, what)
        if check is None or row.bandit is None:
            return
        self._num_values[row.bandit] += 1
        log = self._logs[row.bandit]
        logged = log.value(origin, row.first_value)
        if origin > log.begins and (
            (row.first_decision, row.first_item) != (row.decision_id, row.item)
            or row.first_before is not None
        ):
            check.problem(f"outcomes: {what}: log row {origin} is not the first to learn it")
        elif logged is not None and logged != value:
            check.problem(f"outcomes: {what}: value {value}, the log says {logged}")
        if not _has_pick(row.decision_id, row.chosen, row.item):
            check.problem(f"outcomes: {what}: the decision has no such pick")
        if row.decided_at >= origin:
            check.problem(f"outcomes: {what}: learned in row {origin}, before it was decided")
        if not row.active:
            check.problem(f"outcomes: {what}: learned although it was never activated")
        closed = row.closed is not None
        self._compare(check, what, value, counted, log.record.spec, closed=closed)

    def _compare(
        self, check: Check, what: str, value: float, counted: list[float], spec: BanditSpec, *,
        closed: bool,
    ) -> None:  # fmt: skip
        rewards = spec.rewards
        if not counted:
            if not closed or rewards.default_reward != value:
                check.problem(f"rewards: {what}: {value} was learned, but no reward reported it")
            return
        if rewards.aggregate == "first" and len(counted) > 1:
            check.problem(f"rewards: {what}: {len(counted)} rewards count, of which one may")
        expected = _fold(counted, rewards.aggregate)
        if expected != value:
            check.problem(f"rewards: {what}: they make {expected}, the value learned is {value}")

    # -- rewards ------------------------------------------------------------------------------

    def _check_rewards(self) -> None:
        last = 0
        while True:
            rows = self._reader.rewards(last, CHUNK)
            for row in rows:
                self._reward(row)
            if len(rows) < CHUNK:
                return
            last = rows[-1].row
            self._say(f"{last} rewards")

    def _reward(self, row: RewardFound) -> None:
        _, decision_id, item, status, key, origin, active = row
        what = f"decision {decision_id}, pick {item}"
        check = self._check(key, what)
        if check is None or key is None:
            return
        self._num_rewards[key] += 1
        if status not in _STATUSES:
            check.problem(f"rewards: {what}: unknown status {status!r}")
        elif status in _COUNTED and origin is None and (active or status == "applied"):
            check.problem(f"rewards: {what}: {status}, but nothing was learned from it")

    def _check(self, key: int | None, what: str) -> Check | None:
        """Return the check for a row of a bandit; None where the bandit is not checked."""
        if key is None:
            self._everything.problem(f"{what}: there is no such decision")
            return None
        return self._values.get(key)  # None: the bandit is deleted, or was created meanwhile


def _fold(rewards: list[float], aggregate: str) -> float:
    if aggregate == "first":
        return rewards[0]
    if aggregate == "last":
        return rewards[-1]
    total = math.fsum(rewards)
    return total if aggregate == "sum" else total / len(rewards)


def _has_pick(decision_id: str, chosen: bytes, item: int) -> bool:
    try:
        return 0 <= item < len(unpack_chosen(decision_id, chosen))
    except StoreDamaged:
        return False
