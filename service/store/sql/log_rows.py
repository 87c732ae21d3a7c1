"""Rows of the log as SQLite stores them: read, checked against their hashes, decoded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from bandexa_core.ids import DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.rows import (
    CatalogueRow,
    ConfigRow,
    ErasedRow,
    ImportRow,
    LearnRow,
    LogRow,
    VoidRow,
)
from service.store.errors import StoreDamaged
from service.store.hashing import (
    GENESIS_HASH,
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    KIND_LEARN,
    KIND_VOID,
    group_hash,
    leaf_hash,
    row_content,
    unpack_change,
    unpack_log_metrics,
)
from service.store.identity import DecisionIds, unpack_own_id
from service.store.objects import action_row, context_row, recorded_context
from service.store.records import BanditRecord
from service.store.sql.codec import LEGACY, RULES, legacy_hash, unpack_chosen
from service.store.sql.database import Database

LOG_ROWS = """
SELECT l.position, l.kind, l.time, l.key, l.item, l.origin, l.before, l.after, l.low, l.high,
       l.payload, l.ends, l.hash, d.own_id, d.context, d.chosen
FROM log AS l LEFT JOIN decisions AS d ON d.key = l.key
WHERE l.bandit = ? AND l.position > ? AND l.position <= ? ORDER BY l.position LIMIT ?
"""
CHANGES = """
SELECT l.position, l.kind, l.time, l.payload, l.ends, l.hash, before.hash FROM log AS l
LEFT JOIN log AS before ON before.bandit = l.bandit AND before.position = l.position - 1
WHERE l.bandit = ? AND l.kind = ? AND l.kind <> 1 AND l.position > ? AND l.position <= ?
ORDER BY l.position
"""

LAST = LogPosition((1 << 63) - 1)
_VOIDS = """
SELECT position, time, origin, before, low, high, payload FROM log
WHERE bandit = ? AND kind = 5 AND kind <> 1 AND position > ? AND position <= ? ORDER BY position
"""
_VOID_VALUE = """
SELECT d.key, l.item, d.context, d.chosen, d.own_id FROM log AS l
JOIN decisions AS d ON d.key = l.key WHERE l.bandit = ? AND l.position = ? AND l.kind = 5
"""


class StoredRow(NamedTuple):
    """A row of `LOG_ROWS`: of the log, with its decision where it is a learn row."""

    position: LogPosition
    kind: int
    time: float
    key: int
    item: int
    origin: int
    before: float | None
    after: float
    low: float | None
    high: float | None
    payload: bytes | None
    ends: int
    hash: bytes
    own_id: str | bytes | None
    context: bytes | None
    chosen: bytes | None

    @property
    def is_erased(self) -> bool:
        """Whether it is a learn row whose decision was erased."""
        return self.kind == KIND_LEARN and self.context is not None and not self.context

    def content(self) -> tuple[Any, ...]:
        """Return what its hash covers."""
        return (*self[:3], *row_content(self.kind, self[3:10], self.payload))

    def legacy_content(self) -> tuple[Any, ...]:
        """Return what its hash covers if schema 4 wrote it."""
        if self.kind == KIND_IMPORT:  # its payload was not known yet
            return self.position, self.kind, self.time
        name = None if self.own_id is None else unpack_own_id(self.own_id)
        bounds = (bound for bound in (self.low, self.high) if bound is not None)
        learned = (name, *self[4:8], *bounds)  # schema 4 wrote no bounds
        return (
            self.position, self.kind, self.time, *row_content(self.kind, learned, self.payload),
        )  # fmt: skip


def wrong_rows(previous: bytes | None, group: Sequence[StoredRow]) -> list[int]:
    """Return the positions of the rows of a group whose hash differs.

    Args:
        previous: The hash of the log before the group; None: unknown, and the last row, which has
            the hash of the group, is not checked.
        group: The rows, the last one with the rule of the group.
    """
    last = group[-1]
    wrong = wrong_leaves(group[:-1]) if len(group) > 1 else []
    if last.ends not in RULES:
        wrong.append(last.position)
    elif previous is not None:
        if last.ends == LEGACY and last.is_erased:
            expected = last.hash  # it covers the caller's id, which was erased
        elif last.ends == LEGACY:
            expected = legacy_hash(previous, last.legacy_content())
        else:
            leaves = [bytes(row.hash) for row in group[:-1]]
            expected = group_hash(previous, last.ends, [*leaves, leaf_hash(last.content())])
        if expected != last.hash:
            wrong.append(last.position)
    return wrong


def wrong_leaves(rows: Sequence[StoredRow]) -> list[int]:
    """Return the positions of the rows inside a group whose hash differs."""
    return [row.position for row in rows if leaf_hash(row.content()) != row.hash]


def decoded(record: BanditRecord, row: StoredRow, ids: DecisionIds) -> LogRow:
    """Return a log row of a bandit, as everything outside of the store takes it.

    Raises:
        StoreDamaged: Its decision is missing, or a checksum differs.
    """
    spec, position, time = record.spec, row.position, row.time
    if row.is_erased:
        return ErasedRow(position, time)
    if row.kind == KIND_LEARN:
        key = DecisionKey(row.key)
        decision_id = ids.name(key, row.own_id)
        if row.context is None or row.chosen is None:
            raise StoreDamaged(f"{record.name}: the decision of log row {position} is missing")
        picked = unpack_chosen(decision_id, row.chosen, row.context)[row.item]
        context = context_row(spec.context, recorded_context(spec.context, row.context))
        action = action_row(spec.actions, picked.features)
        return LearnRow(
            position, time, decision_id, LogPosition(row.origin), row.before, row.after, context,
            action, picked.slot, row.low, row.high, *unpack_log_metrics(row.payload),
        )  # fmt: skip
    if row.kind == KIND_VOID:
        assert row.before is not None, "a value that became void was one"
        _, metrics = unpack_log_metrics(row.payload)
        origin = LogPosition(row.origin)
        return VoidRow(position, time, origin, row.before, row.low, row.high, metrics)
    payload = row.payload or b""
    if row.kind == KIND_CATALOGUE:
        return CatalogueRow(position, time, unpack_change(payload, spec.row_layout))
    if row.kind == KIND_CONFIG:
        return ConfigRow(position, time, json.loads(payload))
    assert row.kind == KIND_IMPORT, f"log row of unknown kind {row.kind}"
    return ImportRow(position, time, SnapshotVersion(json.loads(payload)["version"]))


def config_rows(db: Database, bandit: int, up_to: LogPosition = LAST) -> list[ConfigRow]:
    """Return the config rows of a bandit up to a position, oldest first.

    Raises:
        StoreDamaged: The hash of a row differs.
    """
    found = _changes(db, bandit, KIND_CONFIG, LogPosition(0), up_to)
    return [ConfigRow(at, time, json.loads(payload)) for at, time, payload in found]


def void_rows(db: Database, bandit: int, after: LogPosition, up_to: LogPosition) -> list[VoidRow]:
    """Return the rows in (after, up_to] that void values, in order."""
    found = db.execute(_VOIDS, (bandit, after, up_to)).fetchall()
    return [
        VoidRow(position, time, origin, before, low, high, unpack_log_metrics(payload)[1])
        for position, time, origin, before, low, high, payload in found
    ]


def void_value(
    db: Database, record: BanditRecord, void: VoidRow, ids: DecisionIds
) -> LearnRow | None:
    """Return a void value as its first learn row; None where its decision is gone, or erased.

    Raises:
        StoreDamaged: A checksum differs.
    """
    found = db.execute(_VOID_VALUE, (record.key, void.position)).fetchone()
    if found is None or not found[2]:
        return None
    key, item, context, chosen, own_id = found
    spec, name = record.spec, ids.name(DecisionKey(key), own_id)
    picked = unpack_chosen(name, chosen, context)[item]
    return LearnRow(
        void.origin, void.time, name, void.origin, None, void.before,
        context_row(spec.context, recorded_context(spec.context, context)),
        action_row(spec.actions, picked.features), picked.slot, void.low, void.high, void.metrics,
    )  # fmt: skip


def payloads(
    db: Database, bandit: int, kind: int, after: LogPosition, up_to: LogPosition
) -> list[bytes]:
    """Return the payloads of a bandit's rows of one kind in (after, up_to], oldest first.

    Raises:
        StoreDamaged: The hash of a row differs.
    """
    return [payload for _, _, payload in _changes(db, bandit, kind, after, up_to)]


def _changes(
    db: Database, bandit: int, kind: int, after: LogPosition, up_to: LogPosition
) -> list[tuple[LogPosition, float, bytes]]:
    """Return position, time and payload of a bandit's rows of one kind, oldest first.

    Raises:
        StoreDamaged: The hash of a row differs.
    """
    found = []
    for row in db.execute(CHANGES, (bandit, kind, after, up_to)):
        at, kind, time, payload, ends, digest, previous = row
        if at == 1:
            previous = GENESIS_HASH
        if previous is not None:
            content = (at, kind, time, payload)
            if ends == LEGACY:
                expected = legacy_hash(previous, content)
            else:
                expected = group_hash(previous, ends, [leaf_hash(content)])
            if expected != digest:
                raise StoreDamaged(f"log row {at} is not what was written")
        found.append((LogPosition(at), time, bytes(payload)))
    return found
