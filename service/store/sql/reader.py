"""Reads bandits and logs: any number of readers in any process, each used by one thread at a time.

Every call is its own short transaction: a long one would block WAL checkpoints.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.configurations import Configurations, changed_spec
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.metrics import Totals, Weights
from bandexa_core.log.rows import Group, LearnRow, VoidRow, without
from bandexa_core.randomness import bandit_uid
from bandexa_core.replay import Evicted
from bandexa_core.spec import BanditSpec
from service.store.errors import LogBranched, LogTrimmed, StoreDamaged
from service.store.hashing import AS_BLOCK, KIND_CONFIG, KIND_IMPORT, KIND_LEARN
from service.store.identity import DecisionIds, first_key
from service.store.reading import BEGINNING, NOTHING_EXAMINED
from service.store.records import BanditRecord, Blanked, Erasure, Relearning, StoredAnswer, Trim
from service.store.sql import old_rows
from service.store.sql.catalogues import catalogue_at, removable_changes
from service.store.sql.codec import (
    INSIDE,
    unpack_candidate_ids,
    unpack_chosen,
    unpack_propensities,
)
from service.store.sql.database import Database
from service.store.sql.erasing import blanked_times, open_erasures, open_relearning
from service.store.sql.evicted import evicted_rows, trim_of
from service.store.sql.log_rows import (
    LAST,
    LOG_ROWS,
    StoredRow,
    config_rows,
    decoded,
    void_rows,
    void_value,
    wrong_rows,
)
from service.store.sql.removable import has_removable_rows, old_decisions
from service.store.sql.tail import LogTail

HEAD = "SELECT max(position) FROM log WHERE bandit = ?"


class SqlReader(ABC):
    """See `LogReader`.

    Args:
        connection: Is used for nothing else, and closed with the reader.
        tail: The newest rows in memory, in the process that writes them.
    """

    def __init__(self, connection: Database, tail: LogTail | None = None) -> None:
        self._tail = tail
        self._connection = connection
        self._reached: dict[int, tuple[LogPosition, bytes]] = {}  # where `follow` ended, by bandit

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def epoch(self) -> int:
        """See `LogReader.epoch`."""

    def bandits(self) -> list[BanditRecord]:
        """See `LogReader.bandits`."""
        rows = self._connection.execute(
            "SELECT bandit, uid, name, spec, created FROM bandits WHERE deleted IS NULL"
            " ORDER BY name"
        )
        return [
            BanditRecord(key, BanditUid(uid), name, stored_spec(name, spec), created)
            for key, uid, name, spec, created in rows
        ]

    def next_uid(self, name: str) -> BanditUid:
        """See `LogReader.next_uid`."""
        return next_uid(self._connection, name)

    def deleted(self) -> list[BanditUid]:
        """See `LogReader.deleted`."""
        rows = self._connection.execute(
            "SELECT uid FROM bandits WHERE deleted IS NOT NULL ORDER BY bandit"
        )
        return [BanditUid(uid) for (uid,) in rows]

    def head(self, bandit: int) -> LogPosition:
        """See `LogReader.head`."""
        found = self._connection.execute(HEAD, (bandit,)).fetchone()
        return LogPosition(found[0] or 0)

    def answer(self, decision_id: DecisionId) -> StoredAnswer | None:
        """See `LogReader.answer`."""
        return stored_answer(self._connection, self.ids, decision_id)

    @property
    @abstractmethod
    def ids(self) -> DecisionIds:
        """The ids of the store's decisions."""

    def newest_key(self, bandit: int) -> DecisionKey:
        """See `LogReader.newest_key`."""
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
            "SELECT hash FROM log WHERE bandit = ? AND position = ? AND ends <> 0",
            (bandit, position),
        ).fetchone()
        return None if found is None else bytes(found[0])

    def follow(
        self,
        record: BanditRecord,
        after: LogPosition,
        up_to: LogPosition,
        chunk: int = 512,
        voids: LogPosition = BEGINNING,
        previous: bytes | None = None,
    ) -> Iterator[Group]:
        """See `LogReader.follow`."""
        void = {row.origin for row in self.void_rows(record.key, after, voids)} if voids else set()
        newest = None if self._tail is None else self._tail.read(record.key, after, up_to, previous)
        if newest is not None:
            for group in newest:
                yield without(group, void)
            return
        previous = self._hash_before(record, after, previous)
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
                    self._reached.pop(record.key, None)  # it may be of another branch
                    self._hash_before(record, after, previous)
                    raise _damaged(record, wrong[0])
                after, previous = read_to, row.hash
                self._reached[record.key] = after, previous
                rows_of_group = [decoded(record, each, self.ids) for each in waiting]
                waiting.clear()
                yield without(Group(tuple(rows_of_group), row.ends == AS_BLOCK, row.hash), void)

    def _hash_before(
        self, record: BanditRecord, after: LogPosition, known: bytes | None
    ) -> bytes | None:
        """Return the hash of the log up to a position; `known`: as a model has it.

        Raises:
            LogBranched: The log has another row there.
        """
        reached = self._reached.get(record.key)
        if reached is not None and reached[0] == after and known in (None, reached[1]):
            return reached[1]
        stored = self.hash_at(record.key, after)
        if after and known is not None and stored not in (None, known):
            raise LogBranched(
                f"{record.name}: log row {after} is another one than was followed: the database"
                " has lost rows"
            )
        return stored if known is None or not after else known

    def forgetting_at(
        self,
        record: BanditRecord,
        start: Forgetting,
        after: LogPosition,
        up_to: LogPosition,
        generation: int | None = None,
    ) -> Forgetting:
        """See `LogReader.forgetting_at`."""
        spec, state = self.spec_at(record, after, generation), start
        rows = self._connection.execute(
            "SELECT position, time, CASE kind WHEN ? THEN payload END FROM log"
            " WHERE bandit = ? AND position > ? AND position <= ? ORDER BY position",
            (KIND_CONFIG, record.key, after, up_to),
        )
        for position, time, config in rows:
            state = state.after(spec.forgetting, position, time)
            if config is not None and position > (generation or 0):
                changed = changed_spec(spec, json.loads(config))
                if changed.forgetting != spec.forgetting:
                    state = state.restarted()
                spec = changed
        return state

    def count_learned(self, bandit: int, after: LogPosition, up_to: LogPosition) -> int:
        """See `LogReader.count_learned`."""
        gone = self.trim(bandit).learned if after == 0 else 0
        (found,) = self._connection.execute(
            "SELECT count(*) FROM log WHERE bandit = ? AND position > ?"
            " AND position <= ? AND kind = ? AND before IS NULL",
            (bandit, after, up_to, KIND_LEARN),
        ).fetchone()
        (erased,) = self._connection.execute(
            "SELECT count(*) FROM erased WHERE bandit = ? AND origin > ? AND origin <= ?",
            (bandit, after, up_to),
        ).fetchone()
        (void,) = self._connection.execute(
            "SELECT count(*) FROM log WHERE bandit = ?1 AND kind = 5 AND origin > ?2"
            " AND position <= ?3 AND origin NOT IN (SELECT origin FROM erased WHERE bandit = ?1)",
            (bandit, max(after, self.trim(bandit).position), up_to),
        ).fetchone()
        return gone + int(found) - int(erased) - int(void)

    def num_imported(self, bandit: int) -> int:
        """See `LogReader.num_imported`."""
        found = self._connection.execute(
            "SELECT decisions FROM imports WHERE bandit = ?", (bandit,)
        ).fetchone()
        return int(found[0]) if found else 0

    def challengers(self, bandit: int) -> dict[str, str]:
        """See `LogReader.challengers`."""
        rows = self._connection.execute(
            "SELECT name, state FROM challengers WHERE bandit = ? ORDER BY name", (bandit,)
        )
        return dict(rows.fetchall())

    def metrics(self, bandit: int) -> dict[str, Totals]:
        """See `LogReader.metrics`."""
        rows = self._connection.execute(
            "SELECT name, count, total FROM metrics WHERE bandit = ? ORDER BY name", (bandit,)
        )
        return {name: Totals(count, total) for name, count, total in rows.fetchall()}

    def trim(self, bandit: int) -> Trim:
        """See `LogReader.trim`."""
        return trim_of(self._connection, bandit)

    def evicted(
        self,
        record: BanditRecord,
        through: LogPosition,
        position: LogPosition,
        most: int,
        weights: Weights | None = None,
    ) -> Evicted | None:
        """See `LogReader.evicted`."""
        with self._moment():
            if self.trim(record.key).position > through:
                raise LogTrimmed(f"{record.name}: the log begins after row {through}")
            return evicted_rows(self._connection, record, through, position, most, weights)

    def first_learned(self, bandit: int, number: int, up_to: LogPosition) -> LogPosition:
        """See `LogReader.first_learned`."""
        return old_rows.first_learned(self._connection, bandit, number, up_to)

    def last_before(self, bandit: int, time: float) -> LogPosition:
        """See `LogReader.last_before`."""
        with self._moment():
            return old_rows.last_before(self._connection, bandit, time)

    def with_old_rows(self, before: float, change_bytes: int) -> set[int]:
        """See `LogReader.with_old_rows`."""
        return old_rows.with_old_rows(self._connection, before, change_bytes)

    def decision_time(
        self,
        number: int,
        after: Mapping[int, DecisionKey] = NOTHING_EXAMINED,
        behind: float = -math.inf,
    ) -> float | None:
        """See `LogReader.decision_time`."""
        return old_rows.decision_time(self._connection, number, after, behind)

    def may_drop(self, record: BanditRecord, before: DecisionKey, after: DecisionKey) -> bool:
        """See `LogReader.may_drop`."""
        known = self.configurations(record)
        return bool(old_decisions(self._connection, record, known, before, after, most=1))

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

    @abstractmethod
    def used_bytes(self) -> int:
        """See `LogReader.used_bytes`."""

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
        with self._moment():
            return catalogue_at(self._connection, record, position, start, after)

    def removable_changes(self, bandit: int) -> tuple[LogPosition, int]:
        """See `LogReader.removable_changes`."""
        with self._moment():
            return removable_changes(self._connection, bandit)

    def configurations(
        self, record: BanditRecord, up_to: LogPosition | None = None
    ) -> Configurations:
        """See `LogReader.configurations`."""
        last = LAST if up_to is None else up_to
        return Configurations(record.spec, config_rows(self._connection, record.key, last))

    def spec_at(
        self, record: BanditRecord, position: LogPosition, generation: int | None = None
    ) -> BanditSpec:
        """See `LogReader.spec_at`."""
        up_to = LogPosition(max(position, generation or 0))
        return self.configurations(record, up_to).spec(position, generation)

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

    def blanked(self, bandit: int | None = None) -> list[Blanked]:
        """See `LogReader.blanked`."""
        return blanked_times(self._connection, bandit)

    def void_rows(self, bandit: int, after: LogPosition, up_to: LogPosition) -> list[VoidRow]:
        """See `LogReader.void_rows`."""
        return void_rows(self._connection, bandit, after, up_to)

    def void_values(
        self, record: BanditRecord, voids: Sequence[VoidRow]
    ) -> Iterator[tuple[VoidRow, LearnRow]]:
        """See `LogReader.void_values`."""
        for row in voids:
            value = void_value(self._connection, record, row, self.ids)
            if value is not None:
                yield row, value

    def last_import(self, bandit: int, up_to: LogPosition) -> LogPosition:
        """See `LogReader.last_import`."""
        found = self._connection.execute(
            "SELECT max(position) FROM log WHERE bandit = ? AND kind = ? AND kind <> 1"
            " AND position <= ?",
            (bandit, KIND_IMPORT, up_to),
        ).fetchone()
        return LogPosition(found[0] or 0)


def next_uid(db: Database, name: str) -> BanditUid:
    """Return the uid of the next bandit of a name: it follows from how often there was one."""
    (num,) = db.execute("SELECT count(*) FROM bandits WHERE name = ?", (name,)).fetchone()
    return bandit_uid(name, num)


def stored_spec(name: str, text: str) -> BanditSpec:
    """Decode the configuration of a bandit."""
    try:
        return BanditSpec.from_json(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise StoreDamaged(f"{name}: its configuration is not what was written") from error


def _damaged(record: BanditRecord, position: int) -> StoreDamaged:
    return StoreDamaged(f"{record.name}: log row {position} is not what was written")


def stored_answer(db: Database, ids: DecisionIds, decision_id: DecisionId) -> StoredAnswer | None:
    """Return what answered a decision's select, None without such a decision."""
    column, value = ids.place(decision_id)
    found = db.execute(
        "SELECT body_hash, chosen, snapshot, position, propensity, propensities, arm, candidates"
        f" FROM decisions WHERE {column} = ?",
        (value,),
    ).fetchone()
    if found is None:
        return None
    body_hash, chosen, snapshot, position, propensity, propensities, arm, candidates = found
    return StoredAnswer(
        body_hash,
        unpack_chosen(decision_id, chosen),
        SnapshotVersion(snapshot),
        LogPosition(position),
        propensity,
        unpack_propensities(decision_id, propensities),
        arm,
        unpack_candidate_ids(decision_id, candidates),
    )
