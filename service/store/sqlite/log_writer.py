"""Appends to the logs of all bandits: no gaps in positions, each hash covers the row before.

Runs on the writer thread, inside its transaction. The newest row of each log is cached, and read
again after a rollback (`forget`).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from bandexa_core.ids import DecisionId, LogPosition
from service.store.sqlite.codec import GENESIS_HASH, KIND_LEARN, chain_hash
from service.store.sqlite.tail import LogTail


@dataclass(frozen=True, slots=True)
class LogHead:
    """The newest row of a bandit's log."""

    position: LogPosition
    hash: bytes


class LogWriter:
    """Writes log rows.

    Attributes:
        tail: Gets each row that is appended.
    """

    def __init__(self, connection: sqlite3.Connection, tail: LogTail) -> None:
        self._db = connection
        self.tail = tail
        self._heads: dict[int, LogHead] = {}

    def forget(self, bandit: int | None = None) -> None:
        """Drop the cached newest row of one log or of all."""
        if bandit is None:
            self._heads.clear()
            self.tail.roll_back()
        else:
            self._heads.pop(bandit, None)

    def head(self, bandit: int) -> LogHead:
        """Return the newest row; position 0 for an empty log."""
        head = self._heads.get(bandit)
        if head is None:
            found = self._db.execute(
                "SELECT position, hash FROM log WHERE bandit = ? ORDER BY position DESC LIMIT 1",
                (bandit,),
            ).fetchone()
            position, row_hash = found or (0, GENESIS_HASH)
            head = self._heads[bandit] = LogHead(LogPosition(position), bytes(row_hash))
        return head

    def next(self, bandit: int) -> LogPosition:
        """Return the position of the next row."""
        return LogPosition(self.head(bandit).position + 1)

    def learned(
        self, bandit: int, now: float, decision_id: DecisionId, item: int, origin: LogPosition,
        before: float | None, after: float,
    ) -> LogPosition:  # fmt: skip
        """Append a learn row: a decision's value became `after`."""
        position = self.next(bandit)
        values = (decision_id, item, origin, before, after)
        row_hash = chain_hash(self.head(bandit).hash, (position, KIND_LEARN, now, *values))
        self._insert(bandit, KIND_LEARN, now, values, None, row_hash)
        return position

    def changed(self, bandit: int, kind: int, now: float, payload: bytes) -> LogPosition:
        """Append a change of the catalogue or the configuration."""
        position = self.next(bandit)
        row_hash = chain_hash(self.head(bandit).hash, (position, kind, now, payload))
        self._insert(bandit, kind, now, (None,) * 5, payload, row_hash)
        return position

    def hash_without_payload(self, bandit: int, kind: int, now: float) -> bytes:
        """Return the hash of the next row while its payload is not known yet."""
        return chain_hash(self.head(bandit).hash, (self.next(bandit), kind, now))

    def named(self, bandit: int, kind: int, now: float, payload: bytes, row_hash: bytes) -> None:
        """Append a row whose hash `hash_without_payload` returned."""
        self._insert(bandit, kind, now, (None,) * 5, payload, row_hash)

    def _insert(
        self, bandit: int, kind: int, now: float, values: tuple[Any, ...], payload: bytes | None,
        row_hash: bytes,
    ) -> None:  # fmt: skip
        position = self.next(bandit)
        self._db.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (bandit, position, kind, now, *values, payload, row_hash),
        )
        self._heads[bandit] = LogHead(position, row_hash)
