"""Reads bandits and logs: any number of readers in any process, each used by one thread at a time.

Every call is its own short transaction: a long one would block WAL checkpoints.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, folded
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.rows import (
    CatalogueRow,
    ConfigRow,
    ErasedRow,
    Group,
    ImportRow,
    LearnRow,
    LogRow,
)
from bandexa_core.model import changed_spec
from bandexa_core.randomness import bandit_uid
from bandexa_core.replay import Evicted
from bandexa_core.spec import BanditSpec
from service.store.errors import LogTrimmed, StoreDamaged
from service.store.hashing import (
    AS_BLOCK,
    GENESIS_HASH,
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    KIND_LEARN,
    MAX_GROUP,
    group_hash,
    leaf_hash,
    row_content,
    unpack_change,
)
from service.store.identity import (
    TIME_BITS,
    DecisionIds,
    first_key,
    key_at,
    place_of,
    time_of,
    unpack_own_id,
)
from service.store.protocol import BEGINNING, NOTHING_EXAMINED
from service.store.records import BanditRecord, Erasure, Relearning, StoredAnswer, Trim
from service.store.sqlite.codec import INSIDE, LEGACY, RULES, legacy_hash, unpack_chosen
from service.store.sqlite.connection import connect_reader
from service.store.sqlite.erasing import open_erasures, open_relearning
from service.store.sqlite.evicted import evicted_rows, trim_of
from service.store.sqlite.removable import has_removable_rows, old_decisions
from service.store.sqlite.schema import current_epoch
from service.store.sqlite.tables import decision_ids, stand_in
from service.store.sqlite.tail import LogTail

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
HEAD = "SELECT max(position) FROM log WHERE bandit = ?"
GROUP_ENDS = "ends <> 0"
NOT_ERASED = "position NOT IN (SELECT origin FROM erased WHERE bandit = log.bandit)"
# Some seeks per bandit, in one statement: ten thousand bandits take some 50 ms.
WITH_OLD_ROWS = f"""
SELECT json_group_array(bandit) FROM bandits AS b WHERE deleted IS NULL AND (
  (SELECT key FROM decisions WHERE key >= b.bandit << :bits AND key < (b.bandit + 1) << :bits
   ORDER BY key LIMIT 1) < (b.bandit << :bits) + :place
  OR (SELECT time FROM log AS l WHERE l.bandit = b.bandit AND kind = {KIND_LEARN}
      ORDER BY position LIMIT 1) < :before
  OR (SELECT sum(length(payload)) FROM log AS l
      WHERE l.bandit = b.bandit AND kind = {KIND_CATALOGUE} AND kind <> 1) > :bytes)
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
        stand_in(self._connection)
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
            BanditRecord(key, BanditUid(uid), name, _spec(name, spec), created)
            for key, uid, name, spec, created in rows
        ]

    def next_uid(self, name: str) -> BanditUid:
        """See `LogReader.next_uid`."""
        return next_uid(self._connection, name)

    def deleted(self) -> list[BanditUid]:
        """See `LogReader.deleted`."""
        rows = self._connection.execute("SELECT uid FROM bandits WHERE deleted IS NOT NULL")
        return [BanditUid(uid) for (uid,) in rows]

    def head(self, bandit: int) -> LogPosition:
        """See `LogReader.head`."""
        found = self._connection.execute(HEAD, (bandit,)).fetchone()
        return LogPosition(found[0] or 0)

    def answer(self, decision_id: DecisionId) -> StoredAnswer | None:
        """See `LogReader.answer`."""
        return stored_answer(self._connection, self.ids, decision_id)

    @cached_property
    def ids(self) -> DecisionIds:
        """The ids of the store's decisions."""
        return decision_ids(self._connection)

    def newest_key(self, bandit: int) -> DecisionKey:
        """Return the key of a bandit's newest decision; without one, the one before its first."""
        found = self._connection.execute(
            "SELECT max(key) FROM decisions WHERE key >= ? AND key < ?",
            (first_key(bandit), first_key(bandit + 1)),
        ).fetchone()
        return DecisionKey(found[0] or first_key(bandit))

    def hash_at(self, bandit: int, position: LogPosition) -> bytes | None:
        """See `LogReader.hash_at`."""
        trim = self.trim(bandit)
        if position <= trim.position:
            return trim.hash if position == trim.position else None
        found = self._connection.execute(
            f"SELECT hash FROM log WHERE bandit = ? AND position = ? AND {GROUP_ENDS}",
            (bandit, position),
        ).fetchone()
        return None if found is None else bytes(found[0])

    def follow(
        self, record: BanditRecord, after: LogPosition, up_to: LogPosition, chunk: int = 512
    ) -> Iterator[Group]:
        """See `LogReader.follow`."""
        newest = None if self._tail is None else self._tail.read(record.key, after, up_to)
        if newest is not None:
            yield from newest
            return
        reached = self._reached.get(record.key)
        if reached is not None and reached[0] == after:
            previous: bytes | None = reached[1]
        else:
            previous = self.hash_at(record.key, after)
        waiting: list[StoredRow] = []
        read_to = after
        while read_to < up_to:
            rows = self._connection.execute(
                LOG_ROWS, (record.key, read_to, up_to, chunk)
            ).fetchall()
            whole = bool(rows) and rows[-1][0] - read_to == len(rows)
            if not whole and self.trim(record.key).position > after:
                raise LogTrimmed(f"{record.name}: the log after row {after} was removed meanwhile")
            if not rows:
                return
            for row in map(StoredRow._make, rows):
                if row.position != read_to + 1:
                    raise _damaged(record, read_to + 1)
                waiting.append(row)
                read_to = row.position
                if row.ends == INSIDE:
                    continue
                if wrong := wrong_rows(previous, waiting):
                    raise _damaged(record, wrong[0])
                after, previous = read_to, row.hash
                self._reached[record.key] = after, previous
                decoded = [self._decode(record, each) for each in waiting]
                waiting.clear()
                yield Group(tuple(decoded), row.ends == AS_BLOCK)

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
            "SELECT (SELECT count(*) FROM log WHERE bandit = ?1 AND position > ?2"
            " AND position <= ?3 AND kind = ?4 AND before IS NULL)"
            " - (SELECT count(*) FROM erased WHERE bandit = ?1 AND origin > ?2 AND origin <= ?3)",
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
            f" AND {NOT_ERASED} ORDER BY position LIMIT 1 OFFSET ?",
            (bandit, KIND_LEARN, number - 1),
        ).fetchone()
        return LogPosition(found[0])

    def last_before(self, bandit: int, time: float) -> LogPosition:
        """See `LogReader.last_before`."""
        with self._moment():
            older, newer = self.trim(bandit).position, LogPosition(self.head(bandit) + 1)
            at = "SELECT time FROM log WHERE bandit = ? AND position = ?"
            while newer - older > 1:  # positions have no gaps, and service time only grows
                middle = LogPosition((older + newer) // 2)
                found = self._connection.execute(at, (bandit, middle)).fetchone()
                if found is not None and found[0] < time:
                    older = middle
                else:
                    newer = middle
            (end,) = self._connection.execute(
                "SELECT max(position) FROM log WHERE bandit = ? AND position < ?"
                f" AND position > ? AND {GROUP_ENDS}",
                (bandit, newer, newer - 2 * MAX_GROUP),
            ).fetchone()
        return LogPosition(end or 0)

    def with_old_rows(self, before: float, change_bytes: int) -> set[int]:
        """See `LogReader.with_old_rows`."""
        (found,) = self._connection.execute(
            WITH_OLD_ROWS,
            {
                "bits": TIME_BITS, "place": place_of(key_at(0, before)), "before": before,
                "bytes": change_bytes,
            },
        ).fetchone()  # fmt: skip
        return set(json.loads(found))

    def decision_time(
        self,
        number: int,
        after: Mapping[int, DecisionKey] = NOTHING_EXAMINED,
        behind: float = -math.inf,
    ) -> float | None:
        """See `LogReader.decision_time`."""
        bandits = self._connection.execute("SELECT bandit FROM bandits WHERE deleted IS NULL")
        starts = [
            (key, max(after.get(key, 0), key_at(key, behind) if behind >= 0 else 0))
            for (key,) in bandits.fetchall()
        ]
        times = heapq.merge(*(self._times(key, start) for key, start in starts))
        return next(itertools.islice(times, number, None), None)

    def _times(self, bandit: int, after: int) -> Iterator[float]:
        for (key,) in self._connection.execute(
            "SELECT key FROM decisions WHERE key > ? AND key < ? ORDER BY key",
            (max(after, first_key(bandit) - 1), first_key(bandit + 1)),
        ):
            yield time_of(key)

    def may_drop(self, record: BanditRecord, before: DecisionKey, after: DecisionKey) -> bool:
        """See `LogReader.may_drop`."""
        return bool(old_decisions(self._connection, record, before, after, most=1))

    def may_trim(self, bandit: int, up_to: LogPosition) -> bool:
        """See `LogReader.may_trim`."""
        return has_removable_rows(self._connection, bandit, up_to)

    def ends_learned(self, bandit: int, position: LogPosition) -> bool:
        """See `LogReader.ends_learned`."""
        found = self._connection.execute(
            "SELECT position, kind FROM log WHERE bandit = ? ORDER BY position DESC LIMIT 1",
            (bandit,),
        ).fetchone()
        return bool(found == (position, KIND_LEARN))

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
        dim = record.spec.action_dim
        with self._moment():
            if start is None:
                start, after = self._oldest_catalogue(record)
                if position < after:
                    raise LogTrimmed(f"{record.name}: the catalogue before row {after} was removed")
            payloads = self._payloads(record.key, KIND_CATALOGUE, after, position)
        return folded(start, [unpack_change(payload, dim) for payload in payloads])

    def _oldest_catalogue(self, record: BanditRecord) -> tuple[Catalogue, LogPosition]:
        """Return the oldest known actions, and their position."""
        empty = Catalogue.empty(record.spec.action_dim)
        found = self._connection.execute(
            "SELECT position, change, checksum FROM catalogues WHERE bandit = ?", (record.key,)
        ).fetchone()
        if found is None:
            return empty, BEGINNING
        position, change, checksum = found
        if crc32(change) != checksum:
            raise StoreDamaged(f"{record.name}: the catalogue at row {position} is damaged")
        return folded(empty, [unpack_change(change, empty.action_dim)]), LogPosition(position)

    def removable_changes(self, bandit: int) -> tuple[LogPosition, int]:
        """See `LogReader.removable_changes`."""
        with self._moment():
            needed = [int(self.trim(bandit).position)]
            decided = self._connection.execute(
                "SELECT position FROM decisions WHERE key >= ? AND key < ? ORDER BY key LIMIT 1",
                (first_key(bandit), first_key(bandit + 1)),
            ).fetchone()
            sampled = self._connection.execute(
                "SELECT min(origin) - 1 FROM evicted WHERE bandit = ?", (bandit,)
            ).fetchone()
            needed += [
                row[0] for row in (decided, sampled) if row is not None and row[0] is not None
            ]
            up_to = LogPosition(min(needed))
            (num_bytes,) = self._connection.execute(
                "SELECT coalesce(sum(length(payload)), 0) FROM log"
                " WHERE bandit = ? AND kind = ? AND kind <> 1 AND position <= ?",
                (bandit, KIND_CATALOGUE, up_to),
            ).fetchone()
        return up_to, int(num_bytes)

    def spec_at(self, record: BanditRecord, position: LogPosition) -> BanditSpec:
        """See `LogReader.spec_at`."""
        spec = record.spec
        for payload in self._payloads(record.key, KIND_CONFIG, BEGINNING, position):
            spec = changed_spec(spec, json.loads(payload))
        return spec

    def imports(self, bandit: int) -> dict[SnapshotVersion, LogPosition]:
        """See `LogReader.imports`: rows up to the log's beginning do not count.

        No stored snapshot is older than that.
        """
        rows = self._connection.execute(
            "SELECT payload, position FROM log"
            " WHERE bandit = ? AND kind = ? AND kind <> 1 AND position > ?"
            " ORDER BY position",
            (bandit, KIND_IMPORT, self.trim(bandit).position),
        )
        return {
            SnapshotVersion(json.loads(payload)["version"]): LogPosition(position)
            for payload, position in rows
        }

    def erasures(self) -> list[Erasure]:
        """See `LogReader.erasures`."""
        return open_erasures(self._connection)

    def relearning(self) -> list[Relearning]:
        """See `LogReader.relearning`."""
        return open_relearning(self._connection)

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
            at, kind, time, payload, ends, found, previous = row
            if at == 1:
                previous = GENESIS_HASH
            if previous is not None:
                content = (at, kind, time, payload)
                if ends == LEGACY:
                    expected = legacy_hash(previous, content)
                else:
                    expected = group_hash(previous, ends, [leaf_hash(content)])
                if expected != found:
                    raise StoreDamaged(f"log row {at} is not what was written")
            payloads.append(bytes(payload))
        return payloads

    def _decode(self, record: BanditRecord, row: StoredRow) -> LogRow:
        """Decode a log row.

        Raises:
            StoreDamaged: Its decision is missing, or a checksum differs.
        """
        spec, position, time = record.spec, row.position, row.time
        if row.is_erased:
            return ErasedRow(position, time)
        if row.kind == KIND_LEARN:
            key = DecisionKey(row.key)
            decision_id = self.ids.name(key, row.own_id)
            if row.context is None or row.chosen is None:
                raise StoreDamaged(f"{record.name}: the decision of log row {position} is missing")
            picked = unpack_chosen(decision_id, row.chosen, row.context)[row.item]
            array = np.frombuffer(row.context, spec.context.dtype).reshape(spec.context.shape)
            return LearnRow(
                position, time, decision_id, LogPosition(row.origin), row.before, row.after, array,
                picked.features, picked.slot, row.low, row.high,
            )  # fmt: skip
        payload = row.payload or b""
        if row.kind == KIND_CATALOGUE:
            return CatalogueRow(position, time, unpack_change(payload, spec.action_dim))
        if row.kind == KIND_CONFIG:
            return ConfigRow(position, time, json.loads(payload))
        assert row.kind == KIND_IMPORT, f"log row of unknown kind {row.kind}"
        return ImportRow(position, time, SnapshotVersion(json.loads(payload)["version"]))


def next_uid(db: sqlite3.Connection, name: str) -> BanditUid:
    """Return the uid of the next bandit of a name: it follows from how often there was one."""
    (num,) = db.execute("SELECT count(*) FROM bandits WHERE name = ?", (name,)).fetchone()
    return bandit_uid(name, num)


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
        return self.context is not None and not self.context

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


def _spec(name: str, text: str) -> BanditSpec:
    """Decode the configuration of a bandit."""
    try:
        return BanditSpec.from_json(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise StoreDamaged(f"{name}: its configuration is not what was written") from error


def _damaged(record: BanditRecord, position: int) -> StoreDamaged:
    return StoreDamaged(f"{record.name}: log row {position} is not what was written")


def stored_answer(
    db: sqlite3.Connection, ids: DecisionIds, decision_id: DecisionId
) -> StoredAnswer | None:
    """Return what answered a decision's select, None without such a decision."""
    column, value = ids.place(decision_id)
    found = db.execute(
        "SELECT body_hash, chosen, snapshot, position, propensity FROM decisions"
        f" WHERE {column} = ?",
        (value,),
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
