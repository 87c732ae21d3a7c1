"""The operations inside the writer's transaction.

Each operation checks before it writes: one that raises an error of the service has changed nothing,
so that the rest of its group is committed all the same.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from typing import Any

from bandexa_core.errors import BandexaError
from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.contract import can_mature
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow
from bandexa_core.spec import BanditSpec
from service.store.bounds import BoundsOfBandits
from service.store.clock import ServiceClock
from service.store.delays import DelaysOfBandits
from service.store.errors import Conflict
from service.store.hashing import (
    KIND_CATALOGUE,
    KIND_CONFIG,
    KIND_IMPORT,
    pack_change,
    pack_json,
)
from service.store.identity import (
    AHEAD_S,
    MAX_BANDITS,
    DecisionIds,
    first_key,
    is_server_form,
    pack_own_id,
)
from service.store.protocol import MAX_AUDIT, Dropped, Due, Trimmed
from service.store.records import (
    AuditEntry,
    BanditRecord,
    DecisionRecord,
    ErasedPart,
    Erasure,
    Relearning,
    RoundRecord,
    StoredAnswer,
)
from service.store.sql.clock import ClockNotes
from service.store.sql.codec import (
    pack_candidates,
    pack_chosen,
    pack_delays,
    pack_propensities,
    stored_delays,
)
from service.store.sql.database import Database
from service.store.sql.erasing import Erasing
from service.store.sql.ledger import Ledger
from service.store.sql.log_rows import config_rows
from service.store.sql.log_writer import LogWriter
from service.store.sql.reader import next_uid
from service.store.sql.tail import LogTail
from service.store.sql.trimming import Trimming
from service.store.sql.windows import Tick, Windows

PURGE_CHUNK = 2000
CLOSE_CHUNK = 500
MAX_ROUNDS = 10_000  # per bandit; older ones are removed


class Operations(ABC):
    """The statements of the store; used on the writer thread, inside its transaction.

    Args:
        connection: The writing connection.
        clock: Service time; it goes on from what is stored.
        tail: Gets the log rows of each transaction.
        ids: The ids of decisions.

    Attributes:
        ledger: Decisions and the steps of their reports.
        place: The column of `rounds` that grows with each row.
    """

    place = "row"

    def __init__(
        self,
        connection: Database,
        clock: ServiceClock,
        tail: LogTail,
        ids: DecisionIds,
    ) -> None:
        self._db = connection
        self._clock = clock
        self._notes = ClockNotes(connection, clock)
        self._ids = ids
        self._bandits: dict[int, BanditRecord] = {}
        self._log = LogWriter(connection, tail)
        self._known: dict[int, Configurations] = {}
        self._bounds = BoundsOfBandits(self._log.newest_values)
        self._delays = DelaysOfBandits(lambda: stored_delays(connection))
        self.ledger = Ledger(
            connection, self._log, ids, self._bandits.get, clock, self._bounds, self._delays,
            self._configurations,
        )  # fmt: skip
        self._windows = Windows(connection)
        self._trimming = Trimming(connection, self._configurations)
        self._erasing = Erasing(connection, ids, self._bandits.__contains__)
        self._tail = tail

    def forget_heads(self) -> None:
        """Drop what is cached of all logs: a transaction was rolled back."""
        self._log.forget()
        self._bounds.forget()
        self._delays.forget()
        self._known.clear()

    def finish(self) -> None:
        """Write what waits for the end of the transaction: the rows of open groups, and delays."""
        self._log.flush()
        for bandit, state in self._delays.changed():
            self._db.execute(
                "INSERT INTO delays VALUES (?, ?) ON CONFLICT (bandit) DO UPDATE"
                " SET delays = excluded.delays",
                (bandit, pack_delays(state)),
            )

    def remember(self, record: BanditRecord) -> None:
        """Hold a live bandit in memory."""
        self._bandits[record.key] = record

    # -- decisions and rewards ----------------------------------------------------------------

    @abstractmethod
    def decisions(self, records: list[DecisionRecord]) -> list[StoredAnswer | BandexaError | None]:
        """Insert decisions; returns for each the answer that is stored under its id, if any."""

    def decision_groups(
        self, groups: list[Sequence[DecisionRecord]]
    ) -> list[list[StoredAnswer | BandexaError | None]]:
        """Insert groups of decisions; see `decisions`."""
        found = iter(self.decisions([record for group in groups for record in group]))
        return [list(islice(found, len(group))) for group in groups]

    def _waiting(
        self, records: Sequence[DecisionRecord]
    ) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """Return when windows of live bandits would close, and decisions be mature: by keys."""
        windows: list[tuple[int, float]] = []
        maturing: list[tuple[int, float]] = []
        known = {
            key: self._configurations(self._bandits[key]) for key in {d.bandit for d in records}
        }
        if not any(each.ever_had_windows for each in known.values()):
            return windows, maturing
        now = self._clock()
        for d in records:
            rules = known[d.bandit].rules(d.position)
            if rules.reward_window_s is not None and d.imported is None:
                windows.append((d.key, now + rules.reward_window_s))
                if (age := self._delays.age(d.bandit, rules)) is not None:
                    maturing.append((d.key, now + age))
        return windows, maturing

    def _import(self, records: list[DecisionRecord]) -> None:
        """Count decisions that were made elsewhere, and close them: no window waits for them."""
        for d in records:
            self.ledger.close_imported(d.key, len(d.chosen), d.time)
            self._db.execute(
                "INSERT INTO imports VALUES (?, 1) ON CONFLICT (bandit)"
                " DO UPDATE SET decisions = imports.decisions + 1",
                (d.bandit,),
            )

    def _decision_row(self, d: DecisionRecord) -> tuple[Any, ...]:
        context = d.context.tobytes()
        own_id = None if is_server_form(d.decision_id) else pack_own_id(d.decision_id)
        return (
            d.key, own_id, d.time, d.body_hash, context, pack_chosen(d.chosen, context),
            pack_candidates(d), d.snapshot, d.position, d.propensity, int(d.activated), d.explored,
            d.std, None if d.unit is None else self._ids.unit(d.unit),
            None if d.propensities is None else pack_propensities(d.propensities),
            None if d.imported is None else d.imported.encode(), d.arm,
        )  # fmt: skip

    def propensity(self, key: DecisionKey, propensity: float) -> None:
        """Fill in a propensity that was computed after the answer."""
        self._db.execute(
            "UPDATE decisions SET propensity = ? WHERE key = ? AND propensity IS NULL",
            (propensity, key),
        )

    def due_windows(self, tick: Tick) -> Due:
        """See `EventStore.due_windows`; what belongs to decisions that are gone is removed."""
        now = self._notes.note()
        self._windows.tick(now, tick)
        due = self._windows.due(now, CLOSE_CHUNK)
        found = {each.key: each for each in self.ledger.at([key for _, key in due])}
        windows = []
        for closes, key in due:
            decision = found.get(DecisionKey(key))
            if decision is None:
                self._windows.close((closes, key))
            else:
                windows.append((closes, decision))
        reached = self._windows.mature(now, CLOSE_CHUNK)
        found = {each.key: each for each in self.ledger.at([key for _, key in reached])}
        mature = []
        for matures, key in reached:
            decision = found.get(DecisionKey(key))
            if decision is None or not can_mature(decision.state):
                self._windows.pass_over((matures, key))
            else:
                mature.append((matures, decision))
        more = CLOSE_CHUNK in (len(due), len(reached))
        ages = self._delays.new_ages().items()
        return Due(
            tuple(windows), more, tuple(mature),
            {self._bandits[key].uid: age for key, age in ages if key in self._bandits},
        )  # fmt: skip

    def _must_live(self, key: int) -> BanditRecord:
        bandit = self._bandits.get(key)
        if bandit is None:
            raise Conflict("the bandit was deleted while the request was on its way")
        return bandit

    def undo_tick(self, tick: Tick) -> None:
        """Undo what `due_windows` holds in memory: its transaction was rolled back."""
        self._windows.undo(tick)
        self._notes.undo()

    def end(self) -> None:
        """Store what the next opening has to know; the last operation of this one."""
        self._windows.end()
        self._notes.store()

    def accept_clock(self) -> float:
        """Move service time up to wall time; returns by how much."""
        moved = self._clock.accept()
        self._notes.store()
        return moved

    # -- the log ------------------------------------------------------------------------------

    def change(self, bandit: BanditRecord, change: CatalogueChange) -> CatalogueRow:
        """Log a change of the catalogue."""
        now, payload = self._clock(), pack_change(change)
        self._must_live(bandit.key)
        row = CatalogueRow(self._log.next(bandit.key), now, change)
        self._log.changed(bandit.key, KIND_CATALOGUE, row, payload)
        return row

    def config(self, bandit: BanditRecord, payload: dict[str, Any]) -> ConfigRow:
        """Log a change of the configuration, or a switch."""
        now = self._clock()
        known = self._configurations(self._must_live(bandit.key))
        row = ConfigRow(self._log.next(bandit.key), now, payload)
        self._log.changed(bandit.key, KIND_CONFIG, row, pack_json(payload))
        self._known[bandit.key] = known.with_row(row)
        self._bounds.forget(bandit.key)
        return row

    def _configurations(self, bandit: BanditRecord) -> Configurations:
        known = self._known.get(bandit.key)
        if known is None:
            known = Configurations(bandit.spec, config_rows(self._db, bandit.key))
            self._known[bandit.key] = known
        return known

    def import_snapshot(self, bandit: BanditRecord, version: SnapshotVersion) -> ImportRow:
        """Log an import."""
        self._must_live(bandit.key)
        row = ImportRow(self._log.next(bandit.key), self._clock(), version)
        self._log.changed(bandit.key, KIND_IMPORT, row, pack_json({"version": version}))
        return row

    def round(self, bandit: BanditRecord, r: RoundRecord) -> None:
        """Store a training round; the oldest ones are removed."""
        if bandit.key not in self._bandits:
            return
        self._db.execute(
            "INSERT INTO rounds (bandit, time, version, position, seconds, swap_s, loss_before,"
            " loss_after, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                bandit.key, r.time, r.version, r.position, r.seconds, r.swap_s, r.loss_before,
                r.loss_after, r.error,
            ),
        )  # fmt: skip
        self._db.execute(
            f"DELETE FROM rounds WHERE bandit = ? AND {self.place} <= (SELECT {self.place}"
            f" FROM rounds WHERE bandit = ? ORDER BY {self.place} DESC LIMIT 1 OFFSET ?)",
            (bandit.key, bandit.key, MAX_ROUNDS),
        )

    def audit(self, entry: AuditEntry) -> None:
        """Store what was done to a bandit; the oldest entries of its name go."""
        self._db.execute(
            "INSERT INTO audit (time, bandit, by, what, changes) VALUES (?, ?, ?, ?, ?)",
            (entry.time, entry.bandit, entry.by, entry.what, entry.changes),
        )
        self._db.execute(
            "DELETE FROM audit WHERE bandit = ? AND row <= (SELECT row FROM audit"
            " WHERE bandit = ? ORDER BY row DESC LIMIT 1 OFFSET ?)",
            (entry.bandit, entry.bandit, MAX_AUDIT),
        )

    def challenger(self, bandit: BanditRecord, name: str, state: str | None) -> None:
        """Store, or remove, what is noted of a challenger."""
        self._must_live(bandit.key)
        self._db.execute(
            "DELETE FROM challengers WHERE bandit = ? AND name = ?", (bandit.key, name)
        )
        if state is not None:
            self._db.execute("INSERT INTO challengers VALUES (?, ?, ?)", (bandit.key, name, state))

    # -- retention ----------------------------------------------------------------------------

    def trim_log(self, bandit: BanditRecord, up_to: LogPosition, sample_size: int) -> Trimmed:
        """See `Trimming.trim_log`."""
        if bandit.key not in self._bandits:
            return Trimmed(0, more=False)
        self._log.flush()
        return self._trimming.trim_log(bandit, up_to, sample_size)

    def trim_catalogue(self, bandit: BanditRecord, change: bytes, position: LogPosition) -> None:
        """See `Trimming.trim_catalogue`."""
        self._log.flush()
        if bandit.key in self._bandits:
            self._trimming.trim_catalogue(bandit, change, position)

    def drop_decisions(
        self, bandit: BanditRecord, before: DecisionKey, after: DecisionKey
    ) -> Dropped:
        """See `Trimming.drop_decisions`."""
        if bandit.key not in self._bandits:
            return Dropped(0, after, more=False)
        self._log.flush()
        return self._trimming.drop_decisions(bandit, before, after)

    # -- erasing ------------------------------------------------------------------------------

    def begin_erasure(
        self, bandit: int | None, unit: str | None, ids: tuple[DecisionId, ...], newest: float
    ) -> Erasure:
        """See `Erasing.begin`; it concerns what was decided up to now, or to `newest`."""
        stored = None if unit is None else self._ids.unit(unit)
        return self._erasing.begin(bandit, stored, ids, max(self._clock(), newest) + AHEAD_S)

    def erase(self, erasure: Erasure, start: int) -> ErasedPart:
        """See `Erasing.part`."""
        self._log.flush()
        part = self._erasing.part(erasure, start)
        for bandit in part.decisions:
            self._tail.drop(bandit)
        return part

    def relearned(self, mark: Relearning) -> None:
        """See `Erasing.relearned`."""
        self._erasing.relearned(mark)

    # -- bandits ------------------------------------------------------------------------------

    def create(self, uid: BanditUid, name: str, spec: BanditSpec) -> BanditRecord:
        """Create a bandit."""
        live = "SELECT 1 FROM bandits WHERE name = ? AND deleted IS NULL"
        if self._db.execute(live, (name,)).fetchone() is not None:
            raise Conflict(f"there is a bandit {name!r} already")
        if uid != next_uid(self._db, name):
            raise Conflict(f"a bandit {name!r} was created and deleted meanwhile")
        (newest,) = self._db.execute("SELECT coalesce(max(bandit), 0) FROM bandits").fetchone()
        if newest + 1 >= MAX_BANDITS:
            raise Conflict(f"this store has had {newest} bandits, the most it can have")
        now = self._clock.wall()
        text = json.dumps(dataclasses.asdict(spec), sort_keys=True)
        (key,) = self._db.execute(
            "INSERT INTO bandits (uid, name, spec, created) VALUES (?, ?, ?, ?) RETURNING bandit",
            (uid, name, text, now),
        ).fetchone()
        record = BanditRecord(key, uid, name, spec, now)
        self.remember(record)
        return record

    def delete(self, bandit: BanditRecord) -> None:
        """Mark a bandit as deleted; its name is free at once."""
        self._db.execute(
            "UPDATE bandits SET deleted = ? WHERE bandit = ?", (self._clock.wall(), bandit.key)
        )
        self._bandits.pop(bandit.key, None)
        self._log.forget(bandit.key)
        self._bounds.forget(bandit.key)
        self._delays.forget(bandit.key)
        self._known.pop(bandit.key, None)

    def unpurged(self) -> list[int]:
        """Return the keys of deleted bandits that still have rows."""
        deleted = self._db.execute("SELECT bandit FROM bandits WHERE deleted IS NOT NULL")
        return [
            key
            for (key,) in deleted.fetchall()
            if self._db.execute(
                "SELECT EXISTS (SELECT 1 FROM decisions WHERE key >= ? AND key < ?)"
                " OR EXISTS (SELECT 1 FROM log WHERE bandit = ?)",
                (first_key(key), first_key(key + 1), key),
            ).fetchone()[0]
        ]

    def purge(self, key: int) -> bool:
        """Remove some rows of a deleted bandit; returns False when none are left."""
        removed = self._trimming.remove_decisions(
            self._db.execute(
                "SELECT key FROM decisions WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
                (first_key(key), first_key(key + 1), PURGE_CHUNK),
            ).fetchall()
        )
        removed += self._db.execute(
            "DELETE FROM log WHERE bandit = ? AND position IN"
            " (SELECT position FROM log WHERE bandit = ? LIMIT ?)",
            (key, key, PURGE_CHUNK),
        ).rowcount
        for table in (
            "imports", "trims", "catalogues", "evicted", "sampled", "erased", "relearning",
            "blanked", "rounds", "delays", "metrics", "challengers",
        ):  # fmt: skip
            self._db.execute(f"DELETE FROM {table} WHERE bandit = ?", (key,))
        return removed > 0
