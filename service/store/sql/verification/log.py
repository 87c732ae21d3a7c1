"""Checks the log of one bandit row by row: positions, hash chain, and where each value came from.

It reads in chunks, each its own short transaction or inside the caller's. The log only grows, so
that what was read stays valid while a server writes.
"""

from __future__ import annotations

import json

from bandexa_core.ids import DecisionKey, LogPosition
from service.store.errors import StoreDamaged
from service.store.findings import Check
from service.store.hashing import (
    GENESIS_HASH,
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    KIND_LEARN,
    KIND_VOID,
)
from service.store.identity import bandit_of
from service.store.records import BanditRecord
from service.store.sql.codec import (
    INSIDE,
    RULES,
    StoredItem,
    unpack_chosen,
    unpack_items,
)
from service.store.sql.log_rows import StoredRow, wrong_leaves, wrong_rows
from service.store.sql.verification.tables import Tables

CHUNK = 1000
_KINDS = (KIND_LEARN, KIND_CATALOGUE, KIND_CONFIG, KIND_IMPORT)


class LogAudit:
    """Reads a log and checks every row.

    Attributes:
        position: The position of the last checked row.
        begins: Retention removed the learn rows up to this position.
        configurations: Those of the bandit up to there, and perhaps later ones.
    """

    def __init__(self, tables: Tables, record: BanditRecord, check: Check) -> None:
        self.record = record
        self.position = LogPosition(0)
        self.begins = LogPosition(0)
        self.configurations = tables.configurations(record)
        self._tables = tables
        self._check = check
        self._hash = GENESIS_HASH
        self._group: list[StoredRow] = []  # read so far
        self._is_whole = True  # no row of it is missing
        self._corrected: dict[int, tuple[LogPosition, float]] = {}  # by origin
        self._num_erased = 0
        self._num_void = 0

    def advance(self) -> bool:
        """Check the next rows; returns False at the end of the log."""
        rows = self._tables.log_rows(self.record.key, self.position, CHUNK)
        trim = self._tables.trim(self.record.key)
        self.begins = trim.position  # it may move at any time
        if trim.position > self.position:
            self.position, self._hash = trim.position, trim.hash
            self._group, self._is_whole = [], True
            return True
        for row in rows:
            self._row(row)
        if len(rows) < CHUNK and self._group:  # groups are written as a whole
            self._wrong(wrong_leaves(self._group))
            self._problem(f"{_span(self._group[0].position, self.position)} in a group without end")
            self._group, self._is_whole = [], False
        erased = f", {self._num_erased} erased" if self._num_erased else ""
        erased += f", {self._num_void} values void" if self._num_void else ""
        self._check.compared = f"{self.position} rows{erased}: positions, hash chain, decisions"
        return len(rows) == CHUNK

    def catch_up(self) -> None:
        """Check all remaining rows."""
        while self.advance():
            pass

    def value(self, origin: int, first: float | None) -> float | None:
        """Return the newest value of the decision whose first value was `first`, at `origin`.

        None where all rows with its value have left the log.
        """
        corrected = self._corrected.get(origin)
        return first if corrected is None else corrected[1]

    def is_latest(self, origin: int, position: int) -> bool:
        """Whether a row is the latest that learned a value; it may have left the log."""
        corrected = self._corrected.get(origin)
        if corrected is not None:
            return corrected[0] == position
        return position == origin if origin > self.begins else position <= self.begins

    def _row(self, row: StoredRow) -> None:
        position, kind = row.position, row.kind
        if position != self.position + 1:
            self._wrong(wrong_leaves(self._group))
            self._problem(f"{_span(self.position + 1, position - 1)} missing")
            self._group, self._is_whole = [], False
        self._group.append(row)
        self.position = LogPosition(position)
        if row.ends != INSIDE:
            self._end_group(row)
        if kind == KIND_LEARN and None in (row.item, row.origin, row.after):
            self._problem(f"row {position}: its value is missing")
        elif kind == KIND_LEARN:
            self._num_erased += row.is_erased
            self._learn_row(row)
            self._decision(f"row {position}", row)
        elif kind == KIND_VOID:
            self._num_void += 1
            self._void_row(row)
        elif kind not in _KINDS:
            self._problem(f"row {position}: of unknown kind {kind}")
        elif row.payload is None or (kind == KIND_IMPORT and not _names_version(row.payload)):
            self._problem(f"row {position}: its payload is missing")
        elif kind == KIND_CONFIG:
            self.configurations = self._tables.configurations(self.record)

    def _end_group(self, last: StoredRow) -> None:
        """Check the hashes of the rows read so far."""
        if last.ends not in RULES:
            self._problem(f"row {last.position}: its group has the unknown rule {last.ends}")
        else:
            self._wrong(wrong_rows(self._hash if self._is_whole else None, self._group))
        self._hash = bytes(last.hash)
        self._group, self._is_whole = [], True

    def _learn_row(self, row: StoredRow) -> None:
        position, origin = row.position, row.origin
        what = f"row {position} (decision {self._tables.name(row)}, pick {row.item})"
        if row.chosen is None:
            self._problem(f"{what}: its decision is missing")
        elif bandit_of(DecisionKey(row.key)) != self.record.key:
            self._problem(f"{what}: its decision is another bandit's")
        item = self._ledger_item(row)
        known_origin: int | None = None if item is None else item.origin
        if known_origin != origin and self._tables.voided_by(self.record.key, origin) is not None:
            known_origin = origin  # it was learned again after it became void
        else:
            self._bounds(what, row, item)
        if row.before is None:
            if origin != position:
                self._problem(f"{what}: a first value with origin {origin}")
            elif known_origin is None:
                self._problem(f"{what}: the ledger does not have it")
            elif known_origin != position:
                self._problem(f"{what}: learned a second time, first in row {known_origin}")
            return
        if known_origin != origin or not origin < position:
            self._problem(f"{what}: origin {origin}, the first row is {known_origin}")
        known = self._before(row)
        if known != row.before and (known is not None or origin > self.begins):
            self._problem(f"{what}: was {row.before}, the rows before it say {known}")
        self._corrected[origin] = self.position, row.after

    def _void_row(self, row: StoredRow) -> None:
        """Check that what became void is what the rows before it say."""
        what = f"row {row.position}"
        if None in (row.key, row.item, row.origin, row.before):
            self._problem(f"{what}: the value that it voids is missing")
        elif not row.origin < row.position:
            self._problem(f"{what}: voids row {row.origin}, which is later")
        else:
            known = self._before(row)
            if known != row.before and (known is not None or row.origin > self.begins):
                self._problem(f"{what}: voids {row.before}, the rows before it say {known}")

    def _bounds(self, what: str, row: StoredRow, item: StoredItem | None) -> None:
        """Check the bounds of a value: a correction has those of the first row."""
        if item is not None and (row.low, row.high) != (item.low, item.high):
            self._problem(
                f"{what}: bounds {row.low} and {row.high}, the ledger says {item.low} and"
                f" {item.high}"
            )

    def _ledger_item(self, row: StoredRow) -> StoredItem | None:
        """Return what the ledger says of a learn row's value."""
        packed = self._tables.ledger_items(row.key)
        try:
            items = () if packed is None else unpack_items(packed)
        except StoreDamaged:
            return None
        return items[row.item] if 0 <= row.item < len(items) else None

    def _decision(self, what: str, row: StoredRow) -> None:
        """Check the decision that a value was learned from by its checksums."""
        try:
            if row.chosen is not None:
                unpack_chosen(self._tables.name(row), row.chosen, row.context)
        except StoreDamaged as error:
            self._problem(f"{what}: {error}")

    def _before(self, row: StoredRow) -> float | None:
        known = self._corrected.get(row.origin)
        if known is not None:
            return known[1]
        first = self._tables.first_row(self.record.key, row.origin)
        return first.after if first[:3] == (row.key, row.item, None) else None

    def _wrong(self, positions: list[int]) -> None:
        for position in positions:
            self._problem(f"row {position}: its hash is not that of the log up to it")

    def _problem(self, text: str) -> None:
        self._check.problem(f"log: {text}")


def _span(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"


def _names_version(payload: bytes) -> bool:
    try:
        return isinstance(json.loads(payload)["version"], int)
    except (ValueError, KeyError, TypeError):
        return False
