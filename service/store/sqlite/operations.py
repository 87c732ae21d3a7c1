"""The operations inside the writer's transaction, as far as they are SQLite's own."""

from __future__ import annotations

import sqlite3

from bandexa_core.errors import BandexaError
from service.store.clock import ServiceClock
from service.store.errors import Conflict
from service.store.identity import DecisionIds
from service.store.records import DecisionRecord, StoredAnswer
from service.store.sql.operations import Operations
from service.store.sql.reader import stored_answer
from service.store.sql.tail import LogTail

INCREMENTAL = 2  # the value of PRAGMA auto_vacuum
_COLUMNS = (
    "key, own_id, time, body_hash, context, chosen, candidates, snapshot, position, propensity,"
    " activated, explored, std, unit, propensities, imported, arm"
)
_ROW = f"({', '.join('?' * 17)})"
AT_ONCE = 32  # decisions in one statement
_INSERT = {
    num: f"INSERT INTO decisions ({_COLUMNS}) VALUES {', '.join([_ROW] * num)}"
    for num in range(1, AT_ONCE + 1)
}


class SqliteOperations(Operations):
    """See `Operations`."""

    place = "rowid"

    def __init__(
        self, db: sqlite3.Connection, clock: ServiceClock, tail: LogTail, ids: DecisionIds
    ) -> None:
        super().__init__(db, clock, tail, ids)
        self._sqlite = db

    def decisions(self, records: list[DecisionRecord]) -> list[StoredAnswer | BandexaError | None]:
        """See `Operations.decisions`.

        Several go into one statement: each statement gives up the interpreter lock and has to wait
        for it again, which costs more than inserting a row.
        """
        found: list[StoredAnswer | BandexaError | None] = []
        for first in range(0, len(records), AT_ONCE):
            found += self._insert(records[first : first + AT_ONCE])
        return found

    def _insert(self, records: list[DecisionRecord]) -> list[StoredAnswer | BandexaError | None]:
        if any(d.bandit not in self._bandits for d in records):
            if len(records) > 1:
                return [answer for d in records for answer in self._insert([d])]
            return [Conflict("the bandit was deleted while the request was on its way")]
        windows, maturing = self._waiting(records)
        row = [column for d in records for column in self._decision_row(d)]
        try:
            self._sqlite.execute(_INSERT[len(records)], row)
        except sqlite3.IntegrityError:  # an id is stored already: none of these was inserted
            if len(records) > 1:
                return [answer for d in records for answer in self._insert([d])]
            stored = stored_answer(self._sqlite, self._ids, records[0].decision_id)
            if stored is None:
                raise
            return [stored]
        self._windows.open(windows)
        self._windows.mature_at(maturing)
        self._import([d for d in records if d.imported is not None])
        return [None] * len(records)

    def shrink(self, pages: int) -> int:
        """Return some free pages at the end of the file to the disk; returns how many are left."""
        (mode,) = self._sqlite.execute("PRAGMA auto_vacuum").fetchone()
        if mode != INCREMENTAL:
            raise Conflict(
                "an earlier release made this database, and its file cannot shrink while it is"
                " served: stop the server and run `bandexa compact --data-dir DIR` once"
            )
        (left,) = self._sqlite.execute("PRAGMA freelist_count").fetchone()
        for _ in range(min(pages, left)):  # the driver takes one step of it: one page
            self._sqlite.execute("PRAGMA incremental_vacuum(1)")
        return max(0, int(left) - pages)
