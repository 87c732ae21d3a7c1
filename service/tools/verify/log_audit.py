"""Checks the log of one bandit row by row: positions, hash chain, and where each value came from.

It reads in chunks, each its own short transaction or inside the caller's. The log only grows, so
that what was read stays valid while a server writes.
"""

from __future__ import annotations

import json
from typing import Any

from bandexa_core.ids import LogPosition
from service.store.errors import StoreDamaged
from service.store.records import BanditRecord
from service.store.sqlite.audit import AuditReader, LogRowFound
from service.store.sqlite.codec import (
    GENESIS_HASH,
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    KIND_LEARN,
    chain_hash,
    unpack_chosen,
)
from service.tools.verify.findings import Check

CHUNK = 1000
_KINDS = (KIND_LEARN, KIND_CATALOGUE, KIND_CONFIG, KIND_IMPORT)


class LogAudit:
    """Reads a log and checks every row.

    Attributes:
        position: The position of the last checked row.
        begins: Retention removed the learn rows up to this position.
    """

    def __init__(self, reader: AuditReader, record: BanditRecord, check: Check) -> None:
        self.record = record
        self.position = LogPosition(0)
        self.begins = LogPosition(0)
        self._reader = reader
        self._check = check
        self._hash = GENESIS_HASH
        self._corrected: dict[int, float] = {}

    def advance(self) -> bool:
        """Check the next rows; returns False at the end of the log."""
        rows = self._reader.log_rows(self.record.key, self.position, CHUNK)
        trim = self._reader.trim(self.record.key)
        if trim.position > self.position:  # earlier rows were removed, perhaps only now
            self.position, self._hash, self.begins = trim.position, trim.hash, trim.position
            return True
        for row in rows:
            self._row(row)
        self._check.compared = f"{self.position} rows: positions, hash chain, decisions"
        return len(rows) == CHUNK

    def catch_up(self) -> None:
        """Check all remaining rows."""
        while self.advance():
            pass

    def value(self, origin: int, first: float | None) -> float | None:
        """Return the newest value of the decision whose first value was `first`, at `origin`.

        None where all rows with its value have left the log.
        """
        return self._corrected.get(origin, first)

    def _row(self, row: LogRowFound) -> None:
        position, kind = row.position, row.kind
        learned = (row.decision_id, row.item, row.origin, row.before, row.after)
        fields: tuple[Any, ...] = {
            KIND_LEARN: (position, kind, row.time, *learned),
            KIND_IMPORT: (position, kind, row.time),
        }.get(kind, (position, kind, row.time, row.payload))
        whole = position == self.position + 1
        if not whole:
            self._problem(f"{_span(self.position + 1, position - 1)} missing")
        elif chain_hash(self._hash, fields) != row.hash:
            self._problem(f"row {position}: its hash is not that of the log up to it")
        self.position = LogPosition(position)
        self._hash = bytes(row.hash)
        if kind == KIND_LEARN:
            self._learn_row(row)
            self._decision(f"row {position}", row)
        elif kind not in _KINDS:
            self._problem(f"row {position}: of unknown kind {kind}")
        elif row.payload is None or (kind == KIND_IMPORT and not _names_version(row.payload)):
            self._problem(f"row {position}: its payload is missing")

    def _learn_row(self, row: LogRowFound) -> None:
        position, origin, outcome = row.position, row.origin, row.outcome_origin
        what = f"row {position} (decision {row.decision_id}, pick {row.item})"
        if row.decision_bandit is None:
            self._problem(f"{what}: its decision is missing")
        elif row.decision_bandit != self.record.key:
            self._problem(f"{what}: its decision is another bandit's")
        if row.before is None:
            if origin != position:
                self._problem(f"{what}: a first value with origin {origin}")
            elif outcome is None:
                self._problem(f"{what}: no outcome is stored")
            elif outcome != position:
                self._problem(f"{what}: learned a second time, first in row {outcome}")
            return
        if outcome != origin or not origin < position:
            self._problem(f"{what}: origin {origin}, the first row is {outcome}")
        known = self._before(origin, row.decision_id, row.item)
        if known != row.before and (known is not None or origin > self.begins):
            self._problem(f"{what}: was {row.before}, the rows before it say {known}")
        self._corrected[origin] = row.after

    def _decision(self, what: str, row: LogRowFound) -> None:
        """Check the decision that a value was learned from by its checksums."""
        try:
            if row.chosen is not None:
                unpack_chosen(row.decision_id, row.chosen, row.context)
        except StoreDamaged as error:
            self._problem(f"{what}: {error}")

    def _before(self, origin: int, decision_id: str, item: int) -> float | None:
        known = self._corrected.get(origin)
        if known is not None:
            return known
        return self._reader.first_value(self.record.key, origin, decision_id, item)

    def _problem(self, text: str) -> None:
        self._check.problem(f"log: {text}")


def _span(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"


def _names_version(payload: bytes) -> bool:
    try:
        return isinstance(json.loads(payload)["version"], int)
    except (ValueError, KeyError, TypeError):
        return False
