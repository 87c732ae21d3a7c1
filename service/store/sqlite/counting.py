"""Reads decisions and learned values in small pieces, to be counted for the dashboard.

Used by one thread at a time. Every call is a short transaction that returns a few hundred rows: a
row that is fetched releases the interpreter lock, which a busy event loop notices, so a piece of
decisions comes as one row of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from bandexa_core.ids import ActionId, BanditUid
from service.store.errors import StoreDamaged
from service.store.sqlite.codec import chosen_ids
from service.store.sqlite.connection import connect_reader

# Only the time is needed to the last digit, which json_array would not preserve.
_DECISIONS = """
SELECT json_group_array(json_array(
  rowid, decision_id, bandit, printf('%!.17g', time), hex(chosen), propensity, explored, std))
FROM (
  SELECT *, sum(length(chosen)) OVER (ORDER BY rowid) - length(chosen) AS before FROM (
    SELECT rowid, decision_id, bandit, time, chosen, propensity, explored, std FROM decisions
    WHERE rowid > ? ORDER BY rowid LIMIT ?))
WHERE before < ?
"""
_LEARNED = """
SELECT l.position, l.time, l.before, l.after, d.time,
  (SELECT o.time FROM log AS o WHERE o.bandit = l.bandit AND o.position = l.origin)
FROM log AS l LEFT JOIN decisions AS d ON d.decision_id = l.decision_id
WHERE l.bandit = ? AND l.position > ? AND l.position <= ? AND l.kind = 1
ORDER BY l.position LIMIT ?
"""


class DecisionRow(NamedTuple):
    """A decision to be counted. `packed` holds the chosen actions, see `actions`."""

    row: int
    decision_id: str
    bandit: int
    time: float
    packed: bytes
    propensity: float | None
    explored: bool | None
    std: float | None

    def actions(self) -> tuple[ActionId, ...]:
        """Return the chosen actions, best first.

        Raises:
            StoreDamaged: Their checksum differs.
        """
        return chosen_ids(self.decision_id, self.packed)


class ValueRow(NamedTuple):
    """A learn row to be counted.

    Attributes:
        decided: When its decision was made; None where that was removed.
        first_learned: When its value was learned first; None where that row was removed.
    """

    position: int
    time: float
    before: float | None
    after: float
    decided: float | None
    first_learned: float | None


class CountingReader:
    """A read-only view of the rows that are counted."""

    def __init__(self, path: Path) -> None:
        self._db = connect_reader(path)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def bandits(self) -> dict[int, BanditUid]:
        """Return the uids of the bandits that are not deleted, by key."""
        return dict(self._db.execute("SELECT bandit, uid FROM bandits WHERE deleted IS NULL"))

    def heads(self, bandits: Iterable[int]) -> dict[int, int]:
        """Return the position of the newest row of each bandit's log, 0 for an empty one."""
        newest = "SELECT coalesce(max(position), 0) FROM log WHERE bandit = ?"
        return {key: self._db.execute(newest, (key,)).fetchone()[0] for key in bandits}

    def decisions(self, after: int, most: int, most_bytes: int) -> list[DecisionRow]:
        """Return the decisions after row `after`, in order.

        Args:
            after: The row that the last call ended with; 0 at first.
            most: How many decisions at most.
            most_bytes: The packed actions of one call exceed this by at most one decision.

        Raises:
            StoreDamaged: They cannot be decoded.
        """
        (found,) = self._db.execute(_DECISIONS, (after, most, most_bytes)).fetchone()
        try:
            return [
                DecisionRow(
                    row, decision_id, bandit, float(time), bytes.fromhex(packed), propensity,
                    None if explored is None else bool(explored), std,
                )
                for row, decision_id, bandit, time, packed, propensity, explored, std in sorted(
                    msgspec.json.decode(found)
                )
            ]  # fmt: skip
        except ValueError as error:
            raise StoreDamaged(f"decisions after row {after} cannot be read") from error

    def resume_after(self, row: int, decision_id: str, time: float) -> int:
        """Return the row after which to go on, having counted `row` as the last one.

        That row may be deleted, with its bandit or by retention; SQLite then reuses its number for
        a newer decision. So the answer is `row` where it still is that decision, and otherwise the
        last row up to it that was not decided later.
        """
        found = self._db.execute(
            "SELECT decision_id FROM decisions WHERE rowid = ?", (row,)
        ).fetchone()
        if found is not None and found[0] == decision_id:
            return row
        (last,) = self._db.execute(
            "SELECT coalesce(max(rowid), 0) FROM decisions WHERE rowid <= ? AND time <= ?",
            (row, time),
        ).fetchone()
        return int(last)

    def learned(self, bandit: int, after: int, up_to: int, most: int) -> list[ValueRow]:
        """Return at most so many learn rows in (after, up_to], in order."""
        rows = self._db.execute(_LEARNED, (bandit, after, up_to, most)).fetchall()
        return [ValueRow(*row) for row in rows]
