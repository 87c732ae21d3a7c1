"""Reads the tables row by row for `bandexa verify`, as they are, without trusting them.

Used by one thread. Each call is a short transaction, or part of the one that `moment` holds open,
so that rows of several tables belong together although a server writes meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from service.store.records import Trim
from service.store.sqlite.connection import connect, connect_reader
from service.store.sqlite.disk_faults import describe
from service.store.sqlite.evicted import trim_of
from service.store.sqlite.integrity import problems

_LOG_ROWS = """
SELECT l.position, l.kind, l.time, l.decision_id, l.item, l.origin, l.before, l.after, l.payload,
       l.hash, d.bandit, o.origin, d.chosen, d.context
FROM log AS l
LEFT JOIN decisions AS d ON l.kind = 1 AND d.decision_id = l.decision_id
LEFT JOIN outcomes AS o ON l.kind = 1 AND o.decision_id = l.decision_id AND o.item = l.item
WHERE l.bandit = ? AND l.position > ? ORDER BY l.position LIMIT ?
"""
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
_COUNTED_REWARDS = """
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


class LogRowFound(NamedTuple):
    """A row of a log, with the matching rows of other tables (None where they are missing).

    Attributes:
        hash: The stored hash of the log up to this row.
        decision_bandit: The key of the bandit of its decision.
        outcome_origin: The position of the first learn row according to `outcomes`.
        chosen, context: Those of its decision, as they are stored.
    """

    position: int
    kind: int
    time: float
    decision_id: str
    item: int
    origin: int
    before: float | None
    after: float
    payload: bytes | None
    hash: bytes
    decision_bandit: int | None
    outcome_origin: int | None
    chosen: bytes | None
    context: bytes | None


class OutcomeFound(NamedTuple):
    """A learned value, with its decision and its first learn row (None where they are missing).

    Attributes:
        origin, value: The position of the first learn row and the newest value in `outcomes`.
        bandit, chosen, decided_at, active: Those of the decision; `decided_at` is its position.
        closed: When its reward window closed, None while it is open or without one.
        first_decision, first_item, first_before, first_value: Those of the log row at `origin`.
    """

    decision_id: str
    item: int
    origin: int
    value: float
    bandit: int | None
    chosen: bytes
    decided_at: int
    active: bool
    closed: float | None
    first_decision: str | None
    first_item: int | None
    first_before: float | None
    first_value: float | None


class RewardFound(NamedTuple):
    """A reported reward. `origin`: the position of its first learn row, None without one."""

    row: int
    decision_id: str
    item: int
    status: str
    bandit: int | None
    origin: int | None
    active: bool | None


def integrity_problems(path: Path, most: int) -> list[str]:
    """Return what `PRAGMA integrity_check` reports, about `most` lines; none for a sound database.

    A file that cannot be read is reported as a problem.
    """
    try:
        with closing(connect(path, read_only=True)) as db:
            return problems(db, most)
    except sqlite3.Error as error:
        return [describe(error)]


class AuditReader:
    """A read-only view of the tables."""

    def __init__(self, path: Path) -> None:
        self._db = connect_reader(path)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> AuditReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Read one state of the database until the exit."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    # -- the log ------------------------------------------------------------------------------

    def log_rows(self, bandit: int, after: int, most: int) -> list[LogRowFound]:
        """Return the next rows of a log after a position."""
        rows = self._db.execute(_LOG_ROWS, (bandit, after, most)).fetchall()
        return [LogRowFound(*row) for row in rows]

    def trim(self, bandit: int) -> Trim:
        """Return where the log of a bandit begins."""
        return trim_of(self._db, bandit)

    def first_value(self, bandit: int, origin: int, decision_id: str, item: int) -> float | None:
        """Return the value that the log row at `origin` learned first; None without that row."""
        found = self._db.execute(
            "SELECT after FROM log WHERE bandit = ? AND position = ? AND decision_id = ?"
            " AND item = ? AND before IS NULL",
            (bandit, origin, decision_id, item),
        ).fetchone()
        return None if found is None else found[0]

    # -- values and rewards -------------------------------------------------------------------

    def outcomes(self, after: tuple[str, int], most: int) -> list[OutcomeFound]:
        """Return the next learned values after a (decision id, item)."""
        rows = self._db.execute(_OUTCOMES, (*after, most)).fetchall()
        return [OutcomeFound(*row) for row in rows]

    def counted_rewards(self, first: str, last: str) -> list[tuple[str, int, float]]:
        """Return (decision id, item, reward) of the rewards that count, by decision id and time."""
        return self._db.execute(_COUNTED_REWARDS, (first, last)).fetchall()

    def rewards(self, after: int, most: int) -> list[RewardFound]:
        """Return the next reported rewards after a row."""
        rows = self._db.execute(_REWARDS, (after, most)).fetchall()
        return [RewardFound(*row) for row in rows]

    def newest_contexts(self, bandit: int, most: int) -> list[bytes]:
        """Return the contexts of the newest decisions of a bandit, as they are stored."""
        rows = self._db.execute(
            "SELECT context FROM decisions WHERE bandit = ? ORDER BY rowid DESC LIMIT ?",
            (bandit, most),
        )
        return [bytes(blob) for (blob,) in rows]
