"""The event store on SQLite in WAL mode: one writer thread that commits all queued operations.

The thread owns the writing connection. It takes all queued operations, runs them in one
transaction, commits, and returns the results in order; there is no timer. Durability "commit" syncs
every group before its answers (survives power loss); "os" leaves that to the kernel (survives a
killed process). `group_writer` handles failures: while the disk takes no writes they are refused at
once, and a probe every second finds out when it does again; after a failed sync the connection is
never used or closed again, and the process should end. One process at a time may have the store
open; its lock ends with the process, however that ends.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from bandexa_core.errors import BandexaError
from bandexa_core.filesystem import lock_file, note_holder
from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.configurations import change_payload, switch_payload
from bandexa_core.log.contract import Outcome
from bandexa_core.log.promotions import Why
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow
from bandexa_core.spec import BanditSpec
from service.observe.counters import WriterTimes
from service.store.clock import ServiceClock, as_service_clock
from service.store.errors import StoreError
from service.store.hashing import pack_change
from service.store.protocol import (
    Deliver,
    Done,
    Dropped,
    Due,
    Durability,
    FoundDecision,
    Logged,
    Step,
    Trimmed,
)
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
from service.store.sql.tail import LogTail
from service.store.sql.windows import Tick
from service.store.sqlite.connection import as_store_errors, connect
from service.store.sqlite.counting import SqliteCountingReader
from service.store.sqlite.disk_faults import Damaged, describe
from service.store.sqlite.group_writer import PROBE_S, Answer, GroupWriter, Queued
from service.store.sqlite.history import History
from service.store.sqlite.integrity import BackgroundCheck, checked_at_start
from service.store.sqlite.operations import SqliteOperations
from service.store.sqlite.reader import StoreReader
from service.store.sqlite.schema import next_epoch, open_writer
from service.store.sqlite.tables import decision_ids

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_GROUP = 1024

# Connections after a failed sync: closing one would write, and drop the write-ahead log.
_ABANDONED: list[sqlite3.Connection] = []


class SqliteStore:
    """See `EventStore`.

    Args:
        path: The database file.
        durability: "commit" or "os".
        deliver: Runs a function on the event loop, from the writer thread.
        clock: Service time; a plain function stands for both of its clocks; None: the machine's.
        gather: Runs a function in the next turn of the event loop (`call_soon`). Appends of one
            turn are then handed to the writer together, and must come from the event loop. None:
            each append is handed over by itself.

    Raises:
        StoreError: The store is open in another process, of another version, damaged, or no
            database.
    """

    def __init__(
        self,
        path: Path,
        durability: Durability,
        deliver: Deliver,
        clock: ServiceClock | Callable[[], float] | None = None,
        gather: Deliver | None = None,
    ) -> None:
        self._path = path
        self._deliver = deliver
        self._gather: Deliver | None = None  # until the end: this may be another thread
        self._gathered: list[Queued] = []
        self._is_waking = False  # whether the gathered ones are handed over in the next turn
        self._lock = _lock(path)
        try:
            checked = checked_at_start(path)
            self._db, self.epoch = _open(path, durability, self._lock, checked)
        except BaseException:
            os.close(self._lock)
            raise
        self.shared = False
        self._tail = LogTail()
        self.clock = as_service_clock(clock)
        with as_store_errors():
            self.ids = decision_ids(self._db, self.clock)
            self._operations = SqliteOperations(
                self._db, self.clock, self._tail, decision_ids(self._db)
            )
        self._wal = path.with_name(path.name + "-wal")
        with as_store_errors(), self.reader() as reader:
            operations = self._operations
            self._writer = GroupWriter(
                self._db, self._wal, durability, operations.finish, operations.forget_heads,
                self._tail.commit,
            )  # fmt: skip
            for record in reader.bandits():
                operations.remember(record)
                self.ids.seen(reader.newest_key(record.key))
            unpurged = self._operations.unpurged()
        self._queue: queue.SimpleQueue[list[Queued] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)
        for key in unpurged:  # an earlier opening ended before their rows were removed
            self._purge(key, _purged)
        self._thread.start()
        self._check: BackgroundCheck | None = None
        if not checked:
            self._check = BackgroundCheck(connect(path, read_only=True), path, self._fail)
        self._gather = gather

    @property
    def failure(self) -> str | None:
        """See `EventStore.failure`."""
        return self._writer.failure

    @property
    def failed_for_good(self) -> bool:
        """See `EventStore.failed_for_good`."""
        return self._writer.final

    @property
    def times(self) -> WriterTimes:
        """See `EventStore.times`."""
        return self._writer.times

    @property
    def queue_depth(self) -> int:
        """See `EventStore.queue_depth`."""
        return self._queue.qsize()

    def wal_bytes(self) -> int:
        """See `EventStore.wal_bytes`."""
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def wal_pinned_s(self) -> float:
        """See `EventStore.wal_pinned_s`."""
        since = self._writer.pinned_since
        return 0.0 if since is None else time.monotonic() - since

    def reader(self) -> StoreReader:
        """See `EventStore.reader`."""
        return StoreReader(self._path)

    def follower(self) -> StoreReader:
        """See `EventStore.follower`."""
        return StoreReader(self._path, self._tail)

    def history(self) -> History:
        """See `EventStore.history`."""
        return History(self._path)

    def counting(self) -> SqliteCountingReader:
        """See `EventStore.counting`."""
        return SqliteCountingReader(self._path)

    def close(self) -> None:
        """See `EventStore.close`."""
        if self._closed:
            return
        self._closed = True
        if self._check is not None:
            self._check.close()
        self.hand_over()
        self._queue.put(None)
        self._thread.join()
        _answer(self._writer.commit([Queued(self._operations.end, _ended)]))
        if self._writer.final:
            _ABANDONED.append(self._db)  # and the lock is held until the process ends
            return
        self._db.close()
        os.close(self._lock)

    # -- appends ------------------------------------------------------------------------------

    def append_decision(self, record: DecisionRecord, done: Done[StoredAnswer | None]) -> None:
        """See `EventStore.append_decision`."""
        self._enqueue(Queued(None, done, many=self._operations.decisions, item=record))

    def append_decisions(
        self,
        records: Sequence[DecisionRecord],
        done: Done[list[StoredAnswer | BandexaError | None]],
        *,
        more: bool = False,
    ) -> None:
        """See `EventStore.append_decisions`."""
        many = self._operations.decision_groups
        self._enqueue(Queued(None, done, many=many, item=records, in_parts=True), wakes=not more)

    def append_propensity(self, key: DecisionKey, propensity: float, done: Done[None]) -> None:
        """See `EventStore.append_propensity`."""
        self._put(lambda: self._operations.propensity(key, propensity), done)

    def find_decision(self, decision_id: DecisionId, done: Done[FoundDecision]) -> None:
        """See `EventStore.find_decision`.

        The writer looks it up: it is then behind all earlier appends, and its page cache is warm.
        """
        self._put(lambda: self._operations.ledger.find(decision_id), done)

    def find_repeats(
        self,
        key: DecisionKey,
        item: int,
        reward_id: str | None,
        reward: Outcome,
        done: Done[list[Outcome]],
    ) -> None:
        """See `EventStore.find_repeats`."""
        ledger = self._operations.ledger
        self._put(lambda: ledger.repeats(key, item, reward_id, reward), done)

    def append_step(self, step: Step, done: Done[tuple[Logged, ...] | None]) -> None:
        """See `EventStore.append_step`."""
        self._enqueue(Queued(None, done, many=self._operations.ledger.append, item=step))

    def due_windows(self, done: Done[Due]) -> None:
        """See `EventStore.due_windows`."""
        tick = Tick()
        run = lambda: self._operations.due_windows(tick)  # noqa: E731
        self._enqueue(Queued(run, done, undo=lambda: self._operations.undo_tick(tick)))

    def accept_clock(self, done: Done[float]) -> None:
        """See `EventStore.accept_clock`."""
        self._put(self._operations.accept_clock, done)

    def append_change(
        self, bandit: BanditRecord, change: CatalogueChange, done: Done[CatalogueRow]
    ) -> None:
        """See `EventStore.append_change`."""
        self._put(lambda: self._operations.change(bandit, change), done)

    def append_config(
        self,
        bandit: BanditRecord,
        spec: BanditSpec,
        done: Done[ConfigRow],
        wanted: BanditSpec | Literal["nothing"] | None = None,
        why: Why | None = None,
    ) -> None:
        """See `EventStore.append_config`."""
        payload = change_payload(spec, wanted, why)
        self._put(lambda: self._operations.config(bandit, payload), done)

    def append_switch(
        self,
        bandit: BanditRecord,
        generation: LogPosition,
        version: SnapshotVersion,
        done: Done[ConfigRow],
    ) -> None:
        """See `EventStore.append_switch`."""
        payload = switch_payload(generation, version)
        self._put(lambda: self._operations.config(bandit, payload), done)

    def append_import(
        self, bandit: BanditRecord, version: SnapshotVersion, done: Done[ImportRow]
    ) -> None:
        """See `EventStore.append_import`."""
        self._put(lambda: self._operations.import_snapshot(bandit, version), done)

    def append_round(self, bandit: BanditRecord, record: RoundRecord, done: Done[None]) -> None:
        """See `EventStore.append_round`."""
        self._put(lambda: self._operations.round(bandit, record), done)

    def append_audit(self, entry: AuditEntry, done: Done[None]) -> None:
        """See `EventStore.append_audit`."""
        self._put(lambda: self._operations.audit(entry), done)

    def put_challenger(
        self, bandit: BanditRecord, name: str, state: str | None, done: Done[None]
    ) -> None:
        """See `EventStore.put_challenger`."""
        self._put(lambda: self._operations.challenger(bandit, name, state), done)

    def trim_log(
        self, bandit: BanditRecord, up_to: LogPosition, sample_size: int, done: Done[Trimmed]
    ) -> None:
        """See `EventStore.trim_log`."""
        self._put(lambda: self._operations.trim_log(bandit, up_to, sample_size), done)

    def trim_catalogue(
        self, bandit: BanditRecord, catalogue: Catalogue, position: LogPosition, done: Done[None]
    ) -> None:
        """See `EventStore.trim_catalogue`."""
        change = pack_change(catalogue.as_change())
        self._put(lambda: self._operations.trim_catalogue(bandit, change, position), done)

    def drop_decisions(
        self, bandit: BanditRecord, before: DecisionKey, after: DecisionKey, done: Done[Dropped]
    ) -> None:
        """See `EventStore.drop_decisions`."""
        self._put(lambda: self._operations.drop_decisions(bandit, before, after), done)

    def begin_erasure(
        self, bandit: int | None, unit: str | None, ids: tuple[DecisionId, ...], done: Done[Erasure]
    ) -> None:
        """See `EventStore.begin_erasure`."""
        newest = self.ids.newest()  # after a crash the clock may be behind what was decided
        self._put(lambda: self._operations.begin_erasure(bandit, unit, ids, newest), done)

    def erase(self, erasure: Erasure, start: int, done: Done[ErasedPart]) -> None:
        """See `EventStore.erase`."""
        self._put(lambda: self._operations.erase(erasure, start), done)

    def relearned(self, mark: Relearning, done: Done[None]) -> None:
        """See `EventStore.relearned`."""
        self._put(lambda: self._operations.relearned(mark), done)

    def create_bandit(
        self, uid: BanditUid, name: str, spec: BanditSpec, done: Done[BanditRecord]
    ) -> None:
        """See `EventStore.create_bandit`."""
        self._put(lambda: self._operations.create(uid, name, spec), done)

    def delete_bandit(self, bandit: BanditRecord, done: Done[None]) -> None:
        """See `EventStore.delete_bandit`: marked first, then purged a part per transaction."""

        def purged(_: None, error: Exception | None) -> None:
            _purged(None, error)
            done(None, None)  # it is deleted all the same; its other rows are removed later

        def marked(_: None, error: Exception | None) -> None:
            if error is not None:
                done(None, error)
            else:
                self._purge(bandit.key, purged)

        run = lambda: self._operations.delete(bandit)  # noqa: E731
        self._enqueue(Queued(run, marked, undo=lambda: self._operations.remember(bandit)))

    def _purge_all(self, keys: list[int] | None, _: Exception | None) -> None:
        for key in keys or ():
            self._purge(key, _purged)

    def _purge(self, key: int, done: Done[None]) -> None:
        def purged(more: bool | None, error: Exception | None) -> None:
            if error is not None or not more:
                done(None, error)
            else:
                self._purge(key, done)

        self._put(lambda: self._operations.purge(key), purged)

    def sync(self, done: Done[None]) -> None:
        """See `EventStore.sync`."""
        # SQLite does it: closing another descriptor of the file would drop SQLite's locks on it.
        self._enqueue(Queued(self._writer.touch, done, durable=True))

    def empty_wal(self, done: Done[bool]) -> None:
        """See `EventStore.empty_wal`."""
        self._enqueue(Queued(lambda: None, done, empties=True))

    def shrink(self, pages: int, done: Done[int]) -> None:
        """See `EventStore.shrink`."""
        self._put(lambda: self._operations.shrink(pages), done)

    # -- the writer thread --------------------------------------------------------------------

    def _fail(self, damaged: Damaged) -> None:
        """Make the writer stop for good; from any thread."""
        self._writer.damaged = damaged
        self._queue.put([Queued(self._writer.touch, _woken)])

    def _put(self, run: Callable[[], T], done: Done[T]) -> None:
        self._enqueue(Queued(run, done))

    def _enqueue(self, queued: Queued, *, wakes: bool = True) -> None:
        if self._closed:
            queued.done(None, StoreError("the store takes no writes: closed"))
        elif (refusal := self._writer.refusal()) is not None:
            queued.done(None, refusal)
        elif self._gather is None:
            self._queue.put([queued])
        else:
            self._gathered.append(queued)
            if wakes and not self._is_waking:
                self._is_waking = True
                self._gather(self.hand_over)

    def hand_over(self) -> None:
        """See `EventStore.hand_over`: wake the writer, once for all gathered appends."""
        self._is_waking = False
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    def _write(self) -> None:
        running = True
        while running:
            group, running = self._take()
            if group:
                answers = self._writer.commit(group)
                if any(queued.empties for queued in group):
                    answers = self._emptied(group, answers)
                self._deliver(lambda answers=answers: _answer(answers))  # type: ignore[misc]
                self._writer.checkpoint_if_due()
            elif running and self._writer.probe():  # continue the purges that the outage ended
                self._queue.put([Queued(self._operations.unpurged, self._purge_all)])

    def _emptied(self, group: list[Queued], answers: list[Answer]) -> list[Answer]:
        """Empty the write-ahead log; returns the answers with the result of it."""
        emptied = self._writer.empty_wal()
        return [
            (done, emptied if queued.empties and error is None else result, error)
            for queued, (done, result, error) in zip(group, answers, strict=True)
        ]

    def _take(self) -> tuple[list[Queued], bool]:
        """Wait for an operation, then take all queued ones; False: the thread has to stop.

        During an outage it returns nothing each time the store should be probed.
        """
        group: list[Queued] = []
        outage = self._writer.failure is not None and not self._writer.final
        try:
            item = self._queue.get(timeout=PROBE_S if outage else None)
        except queue.Empty:
            return group, True
        while item is not None:
            group += item
            if len(group) >= MAX_GROUP:
                return group, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False


def _answer(answers: list[Answer]) -> None:
    for done, result, error in answers:
        try:
            done(result, error)
        except Exception:  # the top of the answers' loop: the other callers must get theirs
            log.exception("a callback of the store failed")


def _purged(_: None, error: Exception | None) -> None:
    if error is not None:
        log.error("a deleted bandit could not be purged: %s", error)


def _woken(_: None, error: Exception | None) -> None:
    """Do nothing: nobody waits, and the writer has logged why it failed."""


def _ended(_: None, error: Exception | None) -> None:
    if error is not None:
        log.warning("reward windows may close some seconds late: %s", error)


def _lock(path: Path) -> int:
    """Take the lock of the one process that may write; returns its descriptor."""
    try:
        return lock_file(path.with_name(f"{path.name}.lock"))
    except BlockingIOError as error:
        raise StoreError(f"{path} is open in another process: {error}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be locked: {error}") from error


def _open(
    path: Path, durability: Durability, lock: int, check: bool
) -> tuple[sqlite3.Connection, int]:
    """Open the database and count the opening; returns the connection and the epoch."""
    db = open_writer(path, durability, check=check)
    try:
        # After a failed sync, the write-ahead log of an earlier process may be whole in memory and
        # torn on disk. Appends to it would be lost with it, so it is written back first.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        epoch = next_epoch(db)
        note_holder(lock, epoch=epoch)
    except (sqlite3.Error, OSError) as error:
        db.close()
        raise StoreError(f"{path}: {describe(error)}") from error
    return db, epoch
