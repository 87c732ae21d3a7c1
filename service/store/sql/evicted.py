"""Reads what retention left of a log: where it begins, and a sample of the removed rows.

Used by readers in any process and on the writer thread. The caller holds a transaction open, so
that all is read at one moment.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.byte_rows import stacked
from bandexa_core.ids import LogPosition
from bandexa_core.log.metrics import Weights
from bandexa_core.replay import Evicted, Rows
from bandexa_core.replay.evicted import ranks, sample_size
from service.store.errors import StoreDamaged
from service.store.hashing import unpack_log_metrics, unpack_metrics
from service.store.objects import action_row, context_row, recorded_context
from service.store.records import BanditRecord, ChosenAction, SampledValue, Trim
from service.store.sql.codec import unpack_chosen, unpack_items
from service.store.sql.database import Database
from service.store.sql.log_rows import void_rows

_END = LogPosition((1 << 63) - 1)
_FIRST_ROW = """
SELECT l.key, l.item, r.items, d.chosen, d.context, d.own_id, d.unit FROM log AS l
JOIN decisions AS d ON d.key = l.key JOIN ledger AS r ON r.key = l.key
WHERE l.bandit = ? AND l.position = ?
"""
_LATER = """
SELECT origin, before, low, high, payload FROM log
WHERE bandit = ? AND position > ? AND kind = 1 AND before IS NOT NULL ORDER BY position DESC
"""


def trim_of(db: Database, bandit: int) -> Trim:
    """Return where the log of a bandit begins."""
    found = db.execute(
        "SELECT position, hash, learned FROM trims WHERE bandit = ?", (bandit,)
    ).fetchone()
    if found is None:
        return Trim(LogPosition(0), b"", 0)
    return Trim(LogPosition(found[0]), bytes(found[1]), found[2])


def leave_sample(db: Database, bandit: int, position: int) -> None:
    """Remove a row that left the log from its sample, and from the count of such rows.

    A row that is in the log does not change: it will not enter the sample.
    """
    if position > trim_of(db, bandit).position:
        return
    for table in ("evicted", "sampled"):
        db.execute(f"DELETE FROM {table} WHERE bandit = ? AND origin = ?", (bandit, position))
    db.execute("UPDATE trims SET learned = learned - 1 WHERE bandit = ? AND learned > 0", (bandit,))


def evicted_rows(
    db: Database,
    record: BanditRecord,
    through: LogPosition,
    position: LogPosition,
    most: int,
    weights: Weights | None = None,
) -> Evicted | None:
    """Return a sample of all rows first learned up to `through`, with their values at `position`.

    Args:
        db: A connection with an open transaction.
        record: The bandit whose rows are sampled.
        through: The position of the last evicted row; at or after the log's beginning.
        position: The sample has the values as of this position of the log.
        most: The largest number of rows; an earlier, smaller sample may limit it further.
        weights: Those of the metrics that values are made of; None: as they were reported.

    Returns:
        None where no row was evicted, or no sample is wanted.

    Raises:
        StoreDamaged: A row's checksum differs.
    """
    trim = trim_of(db, record.key)
    assert through >= trim.position, "a replay holds no row that left the log"
    logged = db.execute(
        "SELECT position FROM log WHERE bandit = ?1 AND kind = 1 AND before IS NULL"
        " AND position > ?2 AND position <= ?3"
        " AND position NOT IN (SELECT origin FROM erased WHERE bandit = ?1)"
        " AND position NOT IN (SELECT origin FROM log WHERE bandit = ?1 AND kind = 5"
        " AND position <= ?4)",
        (record.key, trim.position, through, position),
    ).fetchall()
    spec = record.spec
    layout = spec.row_layout
    chosen = _sampled(db, record, trim, [row[0] for row in logged], sample_size(layout, most))
    if not len(chosen):
        return None
    rows = [_row(db, record, trim, int(origin)) for origin in chosen]
    later = {  # of each value the first one after the position
        LogPosition(origin): SampledValue(before, unpack_log_metrics(payload)[1], low, high)
        for origin, before, low, high, payload in db.execute(_LATER, (record.key, position))
    }
    # A value that became void after that has none in the ledger.
    voided = {
        row.origin: SampledValue(row.before, row.metrics, row.low, row.high)
        for row in void_rows(db, record.key, position, _END)
    }
    values = [
        later.get(LogPosition(int(origin)), voided.get(LogPosition(int(origin)), row[1]))
        for origin, row in zip(chosen, rows, strict=True)
    ]
    sample = Rows(
        positions=chosen,
        slots=np.array([row[0] for row in rows], np.int64),
        rewards=np.array([value.learned(weights) for value in values], np.float64),
        actions=stacked([action_row(spec.actions, row[2]) for row in rows]),
        contexts=stacked(
            [context_row(spec.context, recorded_context(spec.context, row[3])) for row in rows]
        ),
    )
    return Evicted(sample, trim.learned + len(logged))


def _sampled(
    db: Database, record: BanditRecord, trim: Trim, logged: list[int], size: int
) -> NDArray[np.int64]:
    """Return the positions of the sampled rows in order: those with the lowest ranks."""
    stored = db.execute(
        "SELECT origin, rank FROM evicted WHERE bandit = ?", (record.key,)
    ).fetchall()
    origins = np.array([*(row[0] for row in stored), *logged], np.int64)
    all_ranks = ranks(record.uid, origins)
    if len(stored) < trim.learned:  # of rows that left the log, only ranks up to these are known
        origins = origins[all_ranks <= max((row[1] for row in stored), default=-1)]
        all_ranks = ranks(record.uid, origins)
    return np.sort(origins[np.argsort(all_ranks)[:size]])


def checksum_of(origin: int, slot: int, action: bytes, context: bytes) -> int:
    """Return the checksum of a sampled row, over everything in it that never changes."""
    return crc32(context, crc32(action, crc32(f"{origin} {slot}".encode())))


def _row(
    db: Database, record: BanditRecord, trim: Trim, origin: int
) -> tuple[int, SampledValue, NDArray[Any], bytes]:
    """Return slot, newest value, action features and context of a row."""
    if origin <= trim.position:
        slot, value, action, context, checksum, metrics = db.execute(
            "SELECT slot, value, action, context, checksum, metrics FROM evicted"
            " WHERE bandit = ? AND origin = ?",
            (record.key, origin),
        ).fetchone()
        if checksum_of(origin, slot, action, context) != checksum:
            raise StoreDamaged(f"{record.name}: evicted row {origin} is not what was written")
        dtype = record.spec.row_layout.action_dtype
        newest = SampledValue(value, unpack_metrics(metrics))
        return slot, newest, np.frombuffer(action, dtype), context
    row = first_row(db, record, origin)
    return row.picked.slot, row.value, row.picked.features, row.context


class FirstRow(NamedTuple):
    """A row that learned a value first: its action, the newest value, its decision."""

    picked: ChosenAction
    value: SampledValue
    context: bytes
    key: int
    own_id: str | bytes | None
    unit: bytes | None


def first_row(db: Database, record: BanditRecord, position: int) -> FirstRow:
    """Return the learn row at `position`."""
    key, item, items, packed, context, own_id, unit = db.execute(
        _FIRST_ROW, (record.key, position)
    ).fetchone()
    known, metrics = unpack_items(items)[item], None
    if known.state.metrics:  # folded by the rules of the decision, as the log has them
        (payload,) = db.execute(
            "SELECT payload FROM log WHERE bandit = ? AND position = ?", (record.key, known.latest)
        ).fetchone()
        metrics, _ = unpack_log_metrics(payload)
    value = SampledValue(known.state.value, metrics, known.low, known.high)
    picked = unpack_chosen(f"at key {key}", packed, context)[item]
    return FirstRow(picked, value, context, key, own_id, unit)
