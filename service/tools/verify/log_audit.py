"""The log of one bandit, row by row: positions, hash chain, and what each value followed from.

Reads in chunks, each its own short transaction or within the caller's. The log only grows, so that
what was read stays true while a server writes on.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from bandexa_core.ids import LogPosition
from service.store.errors import StoreDamaged
from service.store.records import BanditRecord
from service.store.sqlite.codec import (
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    KIND_LEARN,
    chain_hash,
    unpack_chosen,
)
from service.store.sqlite.evicted import trim_of
from service.store.sqlite.reader import GENESIS_HASH
from service.tools.verify.findings import Check

CHUNK = 1000
_KINDS = (KIND_LEARN, KIND_CATALOGUE, KIND_CONFIG, KIND_IMPORT)

_ROWS = """
SELECT l.position, l.kind, l.time, l.decision_id, l.item, l.origin, l.before, l.after, l.payload,
       l.hash, d.bandit, o.origin, d.chosen, d.context
FROM log AS l
LEFT JOIN decisions AS d ON l.kind = 1 AND d.decision_id = l.decision_id
LEFT JOIN outcomes AS o ON l.kind = 1 AND o.decision_id = l.decision_id AND o.item = l.item
WHERE l.bandit = ? AND l.position > ? ORDER BY l.position LIMIT ?
"""


class LogAudit:
    """Follows a log and checks every row of it.

    Attributes:
        position: Of the last row that was read.
        begins: Position up to which retention removed learn rows.
    """

    def __init__(self, db: sqlite3.Connection, record: BanditRecord, check: Check) -> None:
        self.record = record
        self.position = LogPosition(0)
        self.begins = LogPosition(0)
        self._db = db
        self._check = check
        self._hash = GENESIS_HASH
        self._corrected: dict[int, float] = {}

    def advance(self) -> bool:
        """Check the next rows; False: there were none left."""
        rows = self._db.execute(_ROWS, (self.record.key, self.position, CHUNK)).fetchall()
        trim = trim_of(self._db, self.record.key)
        if trim.position > self.position:  # what was before is gone, and may go while this is read
            self.position, self._hash, self.begins = trim.position, trim.hash, trim.position
            return True
        for row in rows:
            self._row(row)
        self._check.compared = f"{self.position} rows: positions, hash chain, decisions"
        return len(rows) == CHUNK

    def catch_up(self) -> None:
        """Check all rows there are."""
        while self.advance():
            pass

    def value(self, origin: int, first: float | None) -> float | None:
        """Return the newest value of what was first learned as `first` at `origin`.

        None where all rows that tell left the log.
        """
        return self._corrected.get(origin, first)

    def _row(self, row: tuple[Any, ...]) -> None:
        position, kind, time, decision_id, item, origin, before, after, payload, stored = row[:10]
        learned = (decision_id, item, origin, before, after)
        fields: tuple[Any, ...] = {
            KIND_LEARN: (position, kind, time, *learned),
            KIND_IMPORT: (position, kind, time),
        }.get(kind, (position, kind, time, payload))
        whole = position == self.position + 1
        if not whole:
            self._problem(f"{_span(self.position + 1, position - 1)} missing")
        elif chain_hash(self._hash, fields) != stored:
            self._problem(f"row {position}: its hash is not that of the log up to it")
        self.position = LogPosition(position)
        self._hash = bytes(stored)
        if kind == KIND_LEARN:
            self._learn_row(position, learned, row[10], row[11])
            self._decision(f"row {position}", decision_id, *row[12:])
        elif kind not in _KINDS:
            self._problem(f"row {position}: of unknown kind {kind}")
        elif payload is None or (kind == KIND_IMPORT and not _names_version(payload)):
            self._problem(f"row {position}: what changed is missing")

    def _learn_row(
        self, position: int, learned: tuple[Any, ...], owner: int | None, outcome: int | None
    ) -> None:
        decision_id, item, origin, before, after = learned
        what = f"row {position} (decision {decision_id}, pick {item})"
        if owner is None:
            self._problem(f"{what}: its decision is missing")
        elif owner != self.record.key:
            self._problem(f"{what}: its decision is another bandit's")
        if before is None:
            if origin != position:
                self._problem(f"{what}: a first value with origin {origin}")
            elif outcome is None:
                self._problem(f"{what}: no outcome is kept")
            elif outcome != position:
                self._problem(f"{what}: learned a second time, first in row {outcome}")
            return
        if outcome != origin or not origin < position:
            self._problem(f"{what}: origin {origin}, the first row is {outcome}")
        known = self._before(origin, decision_id, item)
        if known != before and (known is not None or origin > self.begins):
            self._problem(f"{what}: was {before}, the rows before it say {known}")
        self._corrected[origin] = after

    def _decision(self, what: str, name: str, chosen: bytes | None, context: bytes) -> None:
        """Check that what a value was learned from is what was decided."""
        try:
            if chosen is not None:
                unpack_chosen(name, chosen, context)
        except StoreDamaged as error:
            self._problem(f"{what}: {error}")

    def _before(self, origin: int, decision_id: str, item: int) -> float | None:
        known = self._corrected.get(origin)
        if known is not None:
            return known
        found = self._db.execute(
            "SELECT after FROM log WHERE bandit = ? AND position = ? AND decision_id = ?"
            " AND item = ? AND before IS NULL",
            (self.record.key, origin, decision_id, item),
        ).fetchone()
        return None if found is None else found[0]

    def _problem(self, text: str) -> None:
        self._check.problem(f"log: {text}")


def _span(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"


def _names_version(payload: bytes) -> bool:
    try:
        return isinstance(json.loads(payload)["version"], int)
    except (ValueError, KeyError, TypeError):
        return False
