"""Reads bandits and logs: any number of readers in any process, each used by one thread at a time.

Every call is its own short transaction: a long one would block WAL checkpoints.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bandexa_core.ids import BanditUid, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow, LearnRow, LogRow
from bandexa_core.model import changed_spec
from bandexa_core.replay import Evicted
from bandexa_core.spec import BanditSpec
from service.store.errors import LogTrimmed, StoreDamaged
from service.store.protocol import BEGINNING
from service.store.records import BanditRecord, StoredAnswer, Trim
from service.store.sqlite.codec import (
    GENESIS_HASH,
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    KIND_LEARN,
    hash_of_row,
    unpack_change,
    unpack_chosen,
)
from service.store.sqlite.connection import connect_reader
from service.store.sqlite.evicted import evicted_rows, trim_of
from service.store.sqlite.schema import current_epoch
from service.store.sqlite.tail import LogTail

LOG_ROWS = """
SELECT l.position, l.kind, l.time, l.decision_id, l.item, l.origin, l.before, l.after, l.payload,
       d.context, d.chosen, l.hash
FROM log AS l LEFT JOIN decisions AS d ON d.decision_id = l.decision_id
WHERE l.bandit = ? AND l.position > ? AND l.position <= ? ORDER BY l.position LIMIT ?
"""
CHANGES = """
SELECT l.position, l.kind, l.time, l.payload, l.hash, before.hash FROM log AS l
LEFT JOIN log AS before ON before.bandit = l.bandit AND before.position = l.position - 1
WHERE l.bandit = ? AND l.kind = ? AND l.kind <> 1 AND l.position > ? AND l.position <= ?
ORDER BY l.position
"""


class StoreReader:
    """See `LogReader`.

    Args:
        path: The database.
        tail: The newest rows in memory, in the process that writes them.
    """

    def __init__(self, path: Path, tail: LogTail | None = None) -> None:
        self._tail = tail
        self._connection = connect_reader(path)
        self._reached: dict[int, tuple[LogPosition, bytes]] = {}  # where `follow` ended, by bandit

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._connection.close()

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def epoch(self) -> int:
        """See `LogReader.epoch`."""
        return current_epoch(self._connection)

    def bandits(self) -> list[BanditRecord]:
        """See `LogReader.bandits`."""
        rows = self._connection.execute(
            "SELECT bandit, uid, name, spec, created FROM bandits WHERE deleted IS NULL"
            " ORDER BY name"
        )
        return [
            BanditRecord(key, BanditUid(uid), name, BanditSpec.from_json(json.loads(spec)), created)
            for key, uid, name, spec, created in rows
        ]

    def deleted(self) -> list[BanditUid]:
        """See `LogReader.deleted`."""
        rows = self._connection.execute("SELECT uid FROM bandits WHERE deleted IS NOT NULL")
        return [BanditUid(uid) for (uid,) in rows]

    def head(self, bandit: int) -> LogPosition:
        """See `LogReader.head`."""
        found = self._connection.execute(
            "SELECT max(position) FROM log WHERE bandit = ?", (bandit,)
        ).fetchone()
        return LogPosition(found[0] or 0)

    def answer(self, decision_id: DecisionId) -> StoredAnswer | None:
        """See `LogReader.answer`."""
        return stored_answer(self._connection, decision_id)

    def hash_at(self, bandit: int, position: LogPosition) -> bytes | None:
        """See `LogReader.hash_at`."""
        trim = self.trim(bandit)
        if position <= trim.position:
            return trim.hash if position == trim.position else None
        found = self._connection.execute(
            "SELECT hash FROM log WHERE bandit = ? AND position = ?", (bandit, position)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def follow(
        self, record: BanditRecord, after: LogPosition, up_to: LogPosition, chunk: int = 512
    ) -> Iterator[list[LogRow]]:
        """See `LogReader.follow`."""
        newest = None if self._tail is None else self._tail.read(record.key, after, up_to)
        if newest is not None:
            yield newest
            return
        reached = self._reached.get(record.key)
        if reached is not None and reached[0] == after:
            previous: bytes | None = reached[1]
        else:
            previous = self.hash_at(record.key, after)
        while after < up_to:
            rows = self._connection.execute(LOG_ROWS, (record.key, after, up_to, chunk)).fetchall()
            whole = bool(rows) and rows[-1][0] - after == len(rows)
            if not whole and self.trim(record.key).position > after:
                raise LogTrimmed(f"{record.name}: the log after row {after} was removed meanwhile")
            if not rows:
                return
            decoded = []
            for row in rows:
                position, kind, time, *learned, payload, _, _, found = row
                expected = found
                if previous is not None:  # otherwise the hash before this row is not known
                    expected = hash_of_row(previous, position, kind, time, learned, payload)
                if position != after + 1 or expected != found:
                    raise StoreDamaged(
                        f"{record.name}: log row {after + 1} is not what was written"
                    )
                decoded.append(decode_row(record, row))
                after, previous = LogPosition(position), bytes(found)
                self._reached[record.key] = after, previous
            yield decoded

    def forgetting_at(
        self, record: BanditRecord, start: Forgetting, after: LogPosition, up_to: LogPosition
    ) -> Forgetting:
        """See `LogReader.forgetting_at`."""
        spec, state = self.spec_at(record, after), start
        rows = self._connection.execute(
            "SELECT position, time, CASE kind WHEN ? THEN payload END FROM log"
            " WHERE bandit = ? AND position > ? AND position <= ? ORDER BY position",
            (KIND_CONFIG, record.key, after, up_to),
        )
        for position, time, config in rows:
            state = state.after(spec.forgetting, position, time)
            if config is not None:
                changed = changed_spec(spec, json.loads(config))
                if changed.forgetting != spec.forgetting:
                    state = state.restarted()
                spec = changed
        return state

    def count_learned(self, bandit: int, after: LogPosition, up_to: LogPosition) -> int:
        """See `LogReader.count_learned`."""
        gone = self.trim(bandit).learned if after == 0 else 0
        found = self._connection.execute(
            "SELECT count(*) FROM log WHERE bandit = ? AND position > ? AND position <= ?"
            " AND kind = ? AND before IS NULL",
            (bandit, after, up_to, KIND_LEARN),
        ).fetchone()
        return gone + int(found[0])

    def trim(self, bandit: int) -> Trim:
        """See `LogReader.trim`."""
        return trim_of(self._connection, bandit)

    def evicted(
        self, record: BanditRecord, through: LogPosition, position: LogPosition, most: int
    ) -> Evicted | None:
        """See `LogReader.evicted`."""
        with self._moment():
            if self.trim(record.key).position > through:
                raise LogTrimmed(f"{record.name}: the log begins after row {through}")
            return evicted_rows(self._connection, record, through, position, most)

    def first_learned(self, bandit: int, number: int) -> LogPosition:
        """See `LogReader.first_learned`."""
        found = self._connection.execute(
            "SELECT position FROM log WHERE bandit = ? AND kind = ? AND before IS NULL"
            " ORDER BY position LIMIT 1 OFFSET ?",
            (bandit, KIND_LEARN, number - 1),
        ).fetchone()
        return LogPosition(found[0])

    def last_before(self, bandit: int, time: float) -> LogPosition:
        """See `LogReader.last_before`."""
        found = self._connection.execute(
            "SELECT position FROM log WHERE bandit = ? AND time >= ? ORDER BY position LIMIT 1",
            (bandit, time),
        ).fetchone()
        return LogPosition(self.head(bandit) if found is None else found[0] - 1)

    def decision_time(self, number: int) -> float | None:
        """See `LogReader.decision_time`."""
        found = self._connection.execute(
            "SELECT time FROM decisions ORDER BY rowid LIMIT 1 OFFSET ?", (number,)
        ).fetchone()
        return None if found is None else float(found[0])

    def used_bytes(self) -> int:
        """See `LogReader.used_bytes`."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @contextmanager
    def _moment(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def catalogue_at(
        self,
        record: BanditRecord,
        position: LogPosition,
        start: Catalogue | None = None,
        after: LogPosition = BEGINNING,
    ) -> Catalogue:
        """See `LogReader.catalogue_at`."""
        catalogue = Catalogue.empty(record.spec.action_dim) if start is None else start
        for payload in self._payloads(record.key, KIND_CATALOGUE, after, position):
            catalogue, _ = catalogue.changed(unpack_change(payload, record.spec.action_dim))
        return catalogue

    def spec_at(self, record: BanditRecord, position: LogPosition) -> BanditSpec:
        """See `LogReader.spec_at`."""
        spec = record.spec
        for payload in self._payloads(record.key, KIND_CONFIG, BEGINNING, position):
            spec = changed_spec(spec, json.loads(payload))
        return spec

    def imports(self, bandit: int) -> list[SnapshotVersion]:
        """See `LogReader.imports`: rows up to the log's beginning do not count.

        No stored snapshot is older than that.
        """
        rows = self._connection.execute(
            "SELECT payload FROM log WHERE bandit = ? AND kind = ? AND kind <> 1 AND position > ?"
            " ORDER BY position",
            (bandit, KIND_IMPORT, self.trim(bandit).position),
        )
        return [SnapshotVersion(json.loads(payload)["version"]) for (payload,) in rows]

    def last_import(self, bandit: int, up_to: LogPosition) -> LogPosition:
        """See `LogReader.last_import`."""
        found = self._connection.execute(
            "SELECT max(position) FROM log WHERE bandit = ? AND kind = ? AND kind <> 1"
            " AND position <= ?",
            (bandit, KIND_IMPORT, up_to),
        ).fetchone()
        return LogPosition(found[0] or 0)

    def _payloads(
        self, bandit: int, kind: int, after: LogPosition, up_to: LogPosition
    ) -> list[bytes]:
        payloads = []
        for row in self._connection.execute(CHANGES, (bandit, kind, after, up_to)):
            at, kind, time, payload, found, previous = row
            if at == 1:
                previous = GENESIS_HASH
            if previous is not None and hash_of_row(previous, at, kind, time, (), payload) != found:
                raise StoreDamaged(f"log row {at} is not what was written")
            payloads.append(bytes(payload))
        return payloads


def stored_answer(db: sqlite3.Connection, decision_id: DecisionId) -> StoredAnswer | None:
    """Return what answered a decision's select, None without such a decision."""
    found = db.execute(
        "SELECT body_hash, chosen, snapshot, position, propensity FROM decisions"
        " WHERE decision_id = ?",
        (decision_id,),
    ).fetchone()
    if found is None:
        return None
    body_hash, chosen, snapshot, position, propensity = found
    return StoredAnswer(
        body_hash,
        unpack_chosen(decision_id, chosen),
        SnapshotVersion(snapshot),
        LogPosition(position),
        propensity,
    )


def decode_row(record: BanditRecord, row: tuple[Any, ...]) -> LogRow:
    """Decode a row of `LOG_ROWS`.

    Raises:
        StoreDamaged: Its decision is missing, or a checksum differs.
    """
    spec = record.spec
    position, kind, time, decision_id, item, origin, before, after, payload = row[:9]
    if kind == KIND_LEARN:
        context, chosen = row[9:11]
        if context is None:
            raise StoreDamaged(f"{record.name}: decision {decision_id} is missing")
        picked = unpack_chosen(decision_id, chosen, context)[item]
        array = np.frombuffer(context, spec.context.dtype).reshape(spec.context.shape)
        return LearnRow(
            LogPosition(position), time, DecisionId(decision_id), LogPosition(origin),
            before, after, array, picked.features, picked.slot,
        )  # fmt: skip
    if kind == KIND_CATALOGUE:
        return CatalogueRow(LogPosition(position), time, unpack_change(payload, spec.action_dim))
    if kind == KIND_CONFIG:
        return ConfigRow(LogPosition(position), time, json.loads(payload))
    assert kind == KIND_IMPORT, f"log row of unknown kind {kind}"
    version = SnapshotVersion(json.loads(payload)["version"])
    return ImportRow(LogPosition(position), time, version)
