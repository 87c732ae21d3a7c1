"""Every reward and every learned value: each learned once, and equal to what was reported.

Chunks are short transactions; within one, the logs are followed to their ends first, so that values
and log rows belong to one moment although a server writes meanwhile.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bandexa_core.spec import BanditSpec
from service.store.errors import StoreDamaged
from service.store.records import BanditRecord
from service.store.sqlite.codec import unpack_chosen
from service.tools.verify.findings import Check, Report, Say
from service.tools.verify.log_audit import LogAudit

CHUNK = 500
_COUNTED = ("applied", "aggregated")
_KEPT = (*_COUNTED, "ignored", "late")

_OUTCOMES = """
SELECT o.decision_id, o.item, o.origin, o.value, d.bandit, d.chosen, d.position,
       d.activated OR EXISTS (SELECT 1 FROM activations AS a WHERE a.decision_id = o.decision_id),
       w.closed, l.decision_id, l.item, l.before, l.after
FROM outcomes AS o
LEFT JOIN decisions AS d ON d.decision_id = o.decision_id
LEFT JOIN windows AS w ON w.decision_id = o.decision_id
LEFT JOIN log AS l ON l.bandit = d.bandit AND l.position = o.origin
WHERE (o.decision_id, o.item) > (?, ?) ORDER BY o.decision_id, o.item LIMIT ?
"""
_REWARDS_BETWEEN = """
SELECT decision_id, item, reward FROM rewards
WHERE decision_id BETWEEN ? AND ? AND status IN ('applied', 'aggregated')
ORDER BY decision_id, rowid
"""
_REWARDS = """
SELECT r.rowid, r.decision_id, r.item, r.status, d.bandit, o.origin,
       CASE WHEN o.origin IS NULL THEN d.activated
         OR EXISTS (SELECT 1 FROM activations AS a WHERE a.decision_id = r.decision_id) END
FROM rewards AS r
LEFT JOIN decisions AS d ON d.decision_id = r.decision_id
LEFT JOIN outcomes AS o ON o.decision_id = r.decision_id AND o.item = r.item
WHERE r.rowid > ? ORDER BY r.rowid LIMIT ?
"""


class Ledger:
    """Checks the rows of all bandits."""

    def __init__(
        self, db: sqlite3.Connection, records: list[BanditRecord], report: Report, say: Say
    ) -> None:
        self._db = db
        self._say = say
        self._everything = report.check(None, "rows")
        self._logs: dict[int, LogAudit] = {}
        self._values: dict[int, Check] = {}
        self._num_values: Counter[int] = Counter()
        self._num_rewards: Counter[int] = Counter()
        for record in records:
            self._logs[record.key] = LogAudit(db, record, report.check(record.name, "log"))
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
        """One state of the database, with all logs followed to their ends."""
        self._db.execute("BEGIN")
        try:
            for log in self._logs.values():
                log.catch_up()
            yield
        finally:
            self._db.execute("COMMIT")

    # -- values -------------------------------------------------------------------------------

    def _check_outcomes(self) -> None:
        last, done = ("", -1), 0
        while True:
            with self._moment():
                rows = self._db.execute(_OUTCOMES, (*last, CHUNK)).fetchall()
                counted: dict[tuple[str, int], list[float]] = defaultdict(list)
                if rows:
                    between = (rows[0][0], rows[-1][0])
                    for decision_id, item, reward in self._db.execute(_REWARDS_BETWEEN, between):
                        counted[decision_id, item].append(reward)
                for row in rows:
                    self._outcome(row, counted.get((row[0], row[1]), []))
            if len(rows) < CHUNK:
                return
            last, done = (rows[-1][0], rows[-1][1]), done + len(rows)
            self._say(f"{done} values")

    def _outcome(self, row: tuple[Any, ...], counted: list[float]) -> None:
        decision_id, item, origin, value, key, chosen, position, active, closed = row[:9]
        what = f"decision {decision_id}, pick {item}"
        check = self._check(key, what)
        if check is None:
            return
        self._num_values[key] += 1
        log = self._logs[key]
        first_of, first_item, first_before, first = row[9:]
        said = log.value(origin, first)
        if origin > log.begins and (
            (first_of, first_item) != (decision_id, item) or first_before is not None
        ):
            check.problem(f"outcomes: {what}: log row {origin} is not the first to learn it")
        elif said is not None and said != value:
            check.problem(f"outcomes: {what}: value {value}, the log says {said}")
        if not _has_pick(decision_id, chosen, item):
            check.problem(f"outcomes: {what}: the decision has no such pick")
        if position >= origin:
            check.problem(f"outcomes: {what}: learned in row {origin}, before it was decided")
        if not active:
            check.problem(f"outcomes: {what}: learned although it was never activated")
        self._compare(check, what, value, counted, log.record.spec, closed=closed is not None)

    def _compare(
        self, check: Check, what: str, value: float, counted: list[float], spec: BanditSpec, *,
        closed: bool,
    ) -> None:  # fmt: skip
        rewards = spec.rewards
        if not counted:
            if not closed or rewards.default_reward != value:
                check.problem(f"rewards: {what}: {value} was learned, no reward says so")
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
            rows = self._db.execute(_REWARDS, (last, CHUNK)).fetchall()
            for row in rows:
                self._reward(row)
            if len(rows) < CHUNK:
                return
            last = rows[-1][0]
            self._say(f"{last} rewards")

    def _reward(self, row: tuple[Any, ...]) -> None:
        _, decision_id, item, status, key, origin, active = row
        what = f"decision {decision_id}, pick {item}"
        check = self._check(key, what)
        if check is None:
            return
        self._num_rewards[key] += 1
        if status not in _KEPT:
            check.problem(f"rewards: {what}: unknown status {status!r}")
        elif status in _COUNTED and origin is None and (active or status == "applied"):
            check.problem(f"rewards: {what}: {status}, but nothing was learned from it")

    def _check(self, key: int | None, what: str) -> Check | None:
        """Return where to note what is wrong with a row; None where it is of no live bandit."""
        if key is None:
            self._everything.problem(f"{what}: there is no such decision")
            return None
        return self._values.get(key)  # else deleted, or created meanwhile


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
