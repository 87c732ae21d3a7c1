"""Appends to the logs of all bandits: no gaps in positions, each hash covers what is before it.

Runs on the writer thread, inside its transaction. Learn rows that a transaction appends to a log
one after the other form a group, up to `MAX_GROUP` of them; any other row is a group of its own.
Rows wait in memory until their group is complete, because its last row has the hash of all. The
ends of the logs are cached, and read again after a rollback (`forget`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bandexa_core.ids import DecisionKey, LogPosition
from bandexa_core.log.bounds import MEMORY
from bandexa_core.log.rows import Group, LearnRow, LogRow, VoidRow
from service.store.hashing import (
    AS_BLOCK,
    GENESIS_HASH,
    KIND_LEARN,
    KIND_VOID,
    MAX_GROUP,
    ROW_BY_ROW,
    group_hash,
    leaf_hash,
    learned_content,
    pack_log_metrics,
    rule_of,
    void_content,
)
from service.store.sql.codec import INSIDE
from service.store.sql.database import Database
from service.store.sql.tail import LogTail

_COLUMNS = 14
_NUMBERS = 10  # the columns from `position` to `high`
_ROW = f"({', '.join('?' * _COLUMNS)})"
_AT_ONCE = 32  # rows in one statement
_NEWEST = """
SELECT after FROM log WHERE bandit = ?1 AND position > ?2 AND kind = 1 AND before IS NULL
AND position NOT IN (SELECT origin FROM log WHERE bandit = ?1 AND kind = 5)
ORDER BY position
"""
_INSERT = {n: f"INSERT INTO log VALUES {', '.join([_ROW] * n)}" for n in range(1, _AT_ONCE + 1)}


class LogHead(NamedTuple):
    """The end of the newest group of a log: its position, 0 for an empty log, and the hash."""

    position: LogPosition
    hash: bytes


class _OpenGroup:
    """Learn rows that wait for the end of their group."""

    def __init__(self) -> None:
        self.rows: list[LearnRow] = []
        self.columns: list[tuple[Any, ...]] = []  # without `ends` and `hash`
        self.leaves: list[bytes] = []
        self.num_bytes = 0  # of contexts and features


class LogWriter:
    """Writes log rows.

    Attributes:
        tail: Gets each group that is appended.
    """

    def __init__(self, connection: Database, tail: LogTail) -> None:
        self._db = connection
        self.tail = tail
        self._heads: dict[int, LogHead] = {}
        self._open: dict[int, _OpenGroup] = {}
        self._complete: list[tuple[Any, ...]] = []

    def forget(self, bandit: int | None = None) -> None:
        """Drop what is cached of one log or of all."""
        if bandit is None:
            self._heads.clear()
            self._open.clear()
            self._complete.clear()
            self.tail.roll_back()
        else:
            self.flush()
            self._heads.pop(bandit, None)

    def next(self, bandit: int) -> LogPosition:
        """Return the position of the next row."""
        waiting = self._open.get(bandit)
        if waiting is not None:
            return LogPosition(waiting.rows[-1].position + 1)
        return LogPosition(self._head(bandit).position + 1)

    def _head(self, bandit: int) -> LogHead:
        head = self._heads.get(bandit)
        if head is None:
            found = self._db.execute(
                "SELECT position, hash FROM log WHERE bandit = ? ORDER BY position DESC LIMIT 1",
                (bandit,),
            ).fetchone()
            position, row_hash = found or (0, GENESIS_HASH)
            head = self._heads[bandit] = LogHead(LogPosition(position), bytes(row_hash))
        return head

    # -- learn rows ---------------------------------------------------------------------------

    def learned(self, bandit: int, key: DecisionKey, item: int, row: LearnRow) -> None:
        """Append a learn row; its position is `next(bandit)`."""
        group = self._open.get(bandit)
        if group is None:
            group = self._open[bandit] = _OpenGroup()
        hashed = (row.position, KIND_LEARN, row.time, *learned_content(key, item, row))
        group.rows.append(row)
        group.num_bytes += row.context.nbytes + row.action.nbytes
        payload = hashed[_NUMBERS] if len(hashed) > _NUMBERS else None
        group.columns.append((bandit, *hashed[:_NUMBERS], payload))
        group.leaves.append(leaf_hash(hashed))
        if len(group.rows) == MAX_GROUP:
            self._end(bandit)

    def flush(self) -> None:
        """End the groups and insert their rows: at the end of a transaction, or to read them."""
        for bandit in list(self._open):
            self._end(bandit)
        complete = self._complete
        if len(complete) == 1:
            self._db.execute(_INSERT[1], complete[0])
        else:
            for first in range(0, len(complete), _AT_ONCE):
                rows = complete[first : first + _AT_ONCE]
                self._db.execute(_INSERT[len(rows)], [value for row in rows for value in row])
        complete.clear()

    def _end(self, bandit: int) -> None:
        """End the open group of a log, if there is one."""
        group = self._open.pop(bandit, None)
        if group is None:
            return
        rule = rule_of(len(group.rows))
        previous = self._head(bandit).hash
        end_hash = group_hash(previous, rule, group.leaves)
        *inside, last = group.columns
        for columns, leaf in zip(inside, group.leaves, strict=False):
            self._complete.append((*columns, INSIDE, leaf))
        self._complete.append((*last, rule, end_hash))
        self._heads[bandit] = LogHead(group.rows[-1].position, end_hash)
        ended = Group(tuple(group.rows), rule == AS_BLOCK, end_hash)
        self.tail.add(bandit, ended, group.num_bytes, previous)

    def newest_values(self, bandit: int) -> list[float]:
        """Return the newest first values in a log, oldest first, before any row that waits.

        Those that are void are left out.
        """
        rows = self._db.execute(_NEWEST, (bandit, self._head(bandit).position - MEMORY))
        return [value for (value,) in rows.fetchall()]

    # -- other rows ---------------------------------------------------------------------------

    def voided(self, bandit: int, key: DecisionKey, item: int, row: VoidRow) -> None:
        """Append a row that voids a value; its position is `next(bandit)`."""
        hashed = (row.position, KIND_VOID, row.time, *void_content(key, item, row))
        payload = pack_log_metrics(None, row.metrics)
        self._append_alone(bandit, row, hashed, (*hashed[:_NUMBERS], payload))

    def changed(self, bandit: int, kind: int, row: LogRow, payload: bytes) -> None:
        """Append a row of another kind; its position is `next(bandit)`."""
        hashed = (row.position, kind, row.time, payload)
        self._append_alone(bandit, row, hashed, (*hashed[:3], *(None,) * 7, payload))

    def _append_alone(
        self, bandit: int, row: LogRow, hashed: tuple[Any, ...], columns: tuple[Any, ...]
    ) -> None:
        """Append a group of one row, given what its hash covers and its columns up to `payload`."""
        self._end(bandit)
        previous = self._head(bandit).hash
        end = group_hash(previous, ROW_BY_ROW, [leaf_hash(hashed)])
        self._complete.append((bandit, *columns, ROW_BY_ROW, end))
        self._heads[bandit] = LogHead(row.position, end)
        self.tail.add(bandit, Group((row,), hash=end), 0, previous)
