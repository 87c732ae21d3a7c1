"""The operations inside the writer's transaction.

Each operation checks before it writes: one that raises an error of the service has changed nothing,
so that the rest of its group is committed all the same.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bandexa_core.errors import BandexaError
from bandexa_core.ids import BanditUid, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow
from bandexa_core.randomness import bandit_uid
from bandexa_core.spec import BanditSpec
from service.store.errors import Conflict
from service.store.protocol import Activation, Closed, Dropped, RewardOutcome
from service.store.records import (
    BanditRecord,
    DecisionRecord,
    RewardReport,
    RoundRecord,
    StoredAnswer,
)
from service.store.sqlite.codec import (
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    pack_candidates,
    pack_change,
    pack_chosen,
    pack_json,
)
from service.store.sqlite.log_writer import LogWriter
from service.store.sqlite.outcomes import Outcomes
from service.store.sqlite.reader import stored_answer
from service.store.sqlite.tail import LogTail
from service.store.sqlite.trimming import Trimming
from service.store.sqlite.windows import Tick, WindowClock

Row = TypeVar("Row", CatalogueRow, ConfigRow, ImportRow)
PURGE_CHUNK = 2000
CLOSE_CHUNK = 500
MAX_ROUNDS = 10_000  # per bandit; older ones are removed
_ROW = f"({', '.join('?' * 13)})"
AT_ONCE = 32  # decisions in one statement
_INSERT = {
    num: f"INSERT INTO decisions VALUES {', '.join([_ROW] * num)}" for num in range(1, AT_ONCE + 1)
}
_INSERT_IF_NEW = f"{_INSERT[1]} ON CONFLICT DO NOTHING"


class Operations:
    """The statements of the store; used on the writer thread, inside its transaction.

    Args:
        connection: The writing connection.
        clock: Returns seconds since the epoch.
        tail: Gets the log rows of each transaction.
        max_rewards: The largest number of rewards of a decision.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Callable[[], float],
        tail: LogTail,
        max_rewards: int,
    ) -> None:
        self._db = connection
        self._clock = clock
        self._bandits: dict[int, BanditRecord] = {}
        self._log = LogWriter(connection, tail)
        self._outcomes = Outcomes(connection, self._log, self._bandits.get, max_rewards)
        self._windows = WindowClock(connection, self._outcomes)
        self._trimming = Trimming(connection)

    def forget_heads(self) -> None:
        """Drop the cached newest rows of all logs: a transaction was rolled back."""
        self._log.forget()

    def remember(self, record: BanditRecord) -> None:
        """Hold a live bandit in memory."""
        self._bandits[record.key] = record

    # -- decisions and rewards ----------------------------------------------------------------

    def decision(self, d: DecisionRecord) -> StoredAnswer | None:
        """Insert a decision, or return the answer that is stored under its id."""
        bandit = self._must_live(d.bandit)
        if self._db.execute(_INSERT_IF_NEW, _decision_row(d)).rowcount == 1:
            self._outcomes.open_window(d.decision_id, bandit, d.time)
            return None
        return stored_answer(self._db, d.decision_id)

    def decisions(self, records: list[DecisionRecord]) -> list[StoredAnswer | BandexaError | None]:
        """Insert decisions in few statements; returns what `decision` would for each.

        Each statement gives up the interpreter lock and has to wait for it again, which costs more
        than inserting a row.
        """
        found: list[StoredAnswer | BandexaError | None] = []
        for first in range(0, len(records), AT_ONCE):
            found += self._insert(records[first : first + AT_ONCE])
        return found

    def _insert(self, records: list[DecisionRecord]) -> list[StoredAnswer | BandexaError | None]:
        if len(records) > 1 and all(d.bandit in self._bandits for d in records):
            row = [column for d in records for column in _decision_row(d)]
            try:
                self._db.execute(_INSERT[len(records)], row)
            except sqlite3.IntegrityError:  # an id is stored already: none of these was inserted
                return [self._one(d) for d in records]
            for d in records:
                self._outcomes.open_window(d.decision_id, self._bandits[d.bandit], d.time)
            return [None] * len(records)
        return [self._one(d) for d in records]

    def _one(self, record: DecisionRecord) -> StoredAnswer | BandexaError | None:
        try:
            return self.decision(record)
        except BandexaError as error:
            return error

    def propensity(self, decision_id: DecisionId, propensity: float) -> None:
        """Fill in a propensity that was computed after the answer."""
        self._db.execute(
            "UPDATE decisions SET propensity = ? WHERE decision_id = ? AND propensity IS NULL",
            (propensity, decision_id),
        )

    def reward(self, report: RewardReport) -> RewardOutcome:
        """See `Outcomes.reward`."""
        return self._outcomes.reward(report)

    def activate(self, decision_id: DecisionId, now: float) -> Activation:
        """See `Outcomes.activate`."""
        return self._outcomes.activate(decision_id, now)

    def close_windows(self, tick: Tick) -> Closed:
        """Close the windows that are over, after postponing them by unwatched time."""
        now = self._clock()
        self._windows.tick(now, tick)
        return self._outcomes.close_due(now, CLOSE_CHUNK)

    def _must_live(self, key: int) -> BanditRecord:
        bandit = self._bandits.get(key)
        if bandit is None:
            raise Conflict("the bandit was deleted while the request was on its way")
        return bandit

    def undo_tick(self, tick: Tick) -> None:
        """Undo what `close_windows` holds in memory: its transaction was rolled back."""
        self._windows.undo(tick)

    def end(self) -> None:
        """Store what the next opening has to know; the last operation of this one."""
        self._windows.end()

    # -- the log ------------------------------------------------------------------------------

    def change(self, bandit: BanditRecord, change: CatalogueChange) -> CatalogueRow:
        """Log a change of the catalogue."""
        now = self._clock()
        position = self._payload(bandit, KIND_CATALOGUE, now, pack_change(change))
        return self._tailed(bandit, CatalogueRow(position, now, change))

    def config(self, bandit: BanditRecord, spec: BanditSpec) -> ConfigRow:
        """Log a change of the changeable configuration."""
        now = self._clock()
        whole = dataclasses.asdict(spec)
        part = {key: whole[key] for key in sorted(BanditSpec.CHANGEABLE)}
        position = self._payload(bandit, KIND_CONFIG, now, pack_json(part))
        return self._tailed(bandit, ConfigRow(position, now, part))

    def import_snapshot(
        self, bandit: BanditRecord, publish: Callable[[LogPosition, bytes], int]
    ) -> ImportRow:
        """Log an import; the snapshot is published at the row's position before the commit.

        The row's hash does not cover the version, which is known only after publishing.
        """
        self._must_live(bandit.key)
        now = self._clock()
        position = self._log.next(bandit.key)
        row_hash = self._log.hash_without_payload(bandit.key, KIND_IMPORT, now)
        version = SnapshotVersion(publish(position, row_hash))
        payload = pack_json({"version": version})
        self._log.named(bandit.key, KIND_IMPORT, now, payload, row_hash)
        return self._tailed(bandit, ImportRow(position, now, version))

    def _tailed(self, bandit: BanditRecord, row: Row) -> Row:
        self._log.tail.add(bandit.key, row)
        return row

    def _payload(self, bandit: BanditRecord, kind: int, now: float, payload: bytes) -> LogPosition:
        self._must_live(bandit.key)
        return self._log.changed(bandit.key, kind, now, payload)

    def round(self, bandit: BanditRecord, r: RoundRecord) -> None:
        """Store a training round; the oldest ones are removed."""
        if bandit.key not in self._bandits:
            return
        self._db.execute(
            "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                bandit.key, r.time, r.version, r.position, r.seconds, r.swap_s, r.loss_before,
                r.loss_after, r.error,
            ),
        )  # fmt: skip
        self._db.execute(
            "DELETE FROM rounds WHERE bandit = ? AND rowid <= (SELECT rowid FROM rounds"
            " WHERE bandit = ? ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
            (bandit.key, bandit.key, MAX_ROUNDS),
        )

    # -- retention ----------------------------------------------------------------------------

    def trim_log(self, bandit: BanditRecord, up_to: LogPosition, sample_size: int) -> bool:
        """See `Trimming.trim_log`."""
        return bandit.key in self._bandits and self._trimming.trim_log(bandit, up_to, sample_size)

    def drop_decisions(self, before: float, after_row: int) -> Dropped:
        """See `Trimming.drop_decisions`."""
        return self._trimming.drop_decisions(before, after_row)

    # -- bandits ------------------------------------------------------------------------------

    def create(
        self, name: str, spec: BanditSpec, publish: Callable[[BanditUid], None]
    ) -> BanditRecord:
        """Create a bandit; its uid follows from the name and how often that was created here."""
        rows = self._db.execute("SELECT deleted FROM bandits WHERE name = ?", (name,)).fetchall()
        if any(deleted is None for (deleted,) in rows):
            raise Conflict(f"there is a bandit {name!r} already")
        uid = bandit_uid(name, len(rows))
        publish(uid)
        now = self._clock()
        text = json.dumps(dataclasses.asdict(spec), sort_keys=True)
        cursor = self._db.execute(
            "INSERT INTO bandits (uid, name, spec, created) VALUES (?, ?, ?, ?)",
            (uid, name, text, now),
        )
        assert cursor.lastrowid is not None
        record = BanditRecord(cursor.lastrowid, uid, name, spec, now)
        self.remember(record)
        return record

    def delete(self, bandit: BanditRecord) -> None:
        """Mark a bandit as deleted; its name is free at once."""
        self._db.execute(
            "UPDATE bandits SET deleted = ? WHERE bandit = ?", (self._clock(), bandit.key)
        )
        self._bandits.pop(bandit.key, None)
        self._log.forget(bandit.key)

    def unpurged(self) -> list[int]:
        """Return the keys of deleted bandits that still have rows."""
        rows = self._db.execute(
            "SELECT bandit FROM bandits AS b WHERE deleted IS NOT NULL AND"
            " (EXISTS (SELECT 1 FROM decisions AS d WHERE d.bandit = b.bandit)"
            " OR EXISTS (SELECT 1 FROM log AS l WHERE l.bandit = b.bandit))"
        )
        return [key for (key,) in rows]

    def purge(self, key: int) -> bool:
        """Remove some rows of a deleted bandit; returns False when none are left."""
        ids = [
            row[0]
            for row in self._db.execute(
                "SELECT decision_id FROM decisions WHERE bandit = ? LIMIT ?",
                (key, PURGE_CHUNK),
            )
        ]
        keys = [(decision_id,) for decision_id in ids]
        for table in ("rewards", "outcomes", "windows", "activations", "decisions"):
            self._db.executemany(f"DELETE FROM {table} WHERE decision_id = ?", keys)
        removed = self._db.execute(
            "DELETE FROM log WHERE bandit = ? AND position IN"
            " (SELECT position FROM log WHERE bandit = ? LIMIT ?)",
            (key, key, PURGE_CHUNK),
        ).rowcount
        for table in ("trims", "evicted", "rounds"):
            self._db.execute(f"DELETE FROM {table} WHERE bandit = ?", (key,))
        return bool(ids) or removed > 0


def wall_clock() -> float:
    """Return seconds since the epoch."""
    return time.time()


def _decision_row(d: DecisionRecord) -> tuple[Any, ...]:
    context = d.context.tobytes()
    return (
        d.decision_id, d.bandit, d.time, d.body_hash, context, pack_chosen(d.chosen, context),
        pack_candidates(d), d.snapshot, d.position, d.propensity, int(d.activated), d.explored,
        d.std,
    )  # fmt: skip
