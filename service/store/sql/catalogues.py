"""The actions of a bandit as they were at a position, from its rows that change them."""

from __future__ import annotations

from zlib import crc32

from bandexa_core.ids import LogPosition
from bandexa_core.log.catalogue import Catalogue, folded
from service.store.errors import LogTrimmed, StoreDamaged
from service.store.hashing import KIND_CATALOGUE, unpack_change
from service.store.identity import first_key
from service.store.reading import BEGINNING
from service.store.records import BanditRecord
from service.store.sql.database import Database
from service.store.sql.evicted import trim_of
from service.store.sql.log_rows import payloads


def catalogue_at(
    db: Database,
    record: BanditRecord,
    position: LogPosition,
    start: Catalogue | None,
    after: LogPosition,
) -> Catalogue:
    """Return the actions at `position`; in a transaction.

    Args:
        db: A connection.
        record: The bandit.
        position: Where.
        start: The actions at `after`; None: from the oldest that are known.
        after: The position of `start`.

    Raises:
        LogTrimmed: The actions before that position were removed.
        StoreDamaged: A checksum or hash differs.
    """
    layout = record.spec.row_layout
    if start is None:
        start, after = _oldest(db, record)
        if position < after:
            raise LogTrimmed(f"{record.name}: the catalogue before row {after} was removed")
    changes = payloads(db, record.key, KIND_CATALOGUE, after, position)
    return folded(start, [unpack_change(change, layout) for change in changes])


def _oldest(db: Database, record: BanditRecord) -> tuple[Catalogue, LogPosition]:
    """Return the oldest known actions, and their position."""
    layout = record.spec.row_layout
    empty = Catalogue.empty(layout)
    found = db.execute(
        "SELECT position, change, checksum FROM catalogues WHERE bandit = ?", (record.key,)
    ).fetchone()
    if found is None:
        return empty, BEGINNING
    position, change, checksum = found
    if crc32(change) != checksum:
        raise StoreDamaged(f"{record.name}: the catalogue at row {position} is damaged")
    return folded(empty, [unpack_change(change, layout)]), LogPosition(position)


def removable_changes(db: Database, bandit: int) -> tuple[LogPosition, int]:
    """Return up to which row no decision or sample needs the changes, and their size in bytes.

    In a transaction.
    """
    needed = [int(trim_of(db, bandit).position)]
    decided = db.execute(
        "SELECT position FROM decisions WHERE key >= ? AND key < ? ORDER BY key LIMIT 1",
        (first_key(bandit), first_key(bandit + 1)),
    ).fetchone()
    sampled = db.execute(
        "SELECT min(origin) - 1 FROM evicted WHERE bandit = ?", (bandit,)
    ).fetchone()
    needed += [row[0] for row in (decided, sampled) if row is not None and row[0] is not None]
    up_to = LogPosition(min(needed))
    (num_bytes,) = db.execute(
        "SELECT coalesce(sum(length(payload)), 0) FROM log"
        " WHERE bandit = ? AND kind = ? AND kind <> 1 AND position <= ?",
        (bandit, KIND_CATALOGUE, up_to),
    ).fetchone()
    return up_to, int(num_bytes)
