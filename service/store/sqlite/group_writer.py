"""The writing connection: one transaction per group, checkpoints, and the handling of failures.

Used by the writer thread only. A group is committed as a whole or not at all. An error of the
service fails its own operation. An unexpected one rolls the group back and runs its operations one
at a time, so that only the faulty one fails. A disk that refuses writes stops them until a probe
succeeds; a failed sync or commit stops them for good (see `disk_faults`).

Checkpoints run here, not by SQLite inside a commit, which would swallow their errors: a failed sync
of a checkpoint is as final as that of a commit.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from service.observe.counters import WriterTimes
from service.store.errors import StoreError, Unavailable
from service.store.protocol import Durability
from service.store.sql.queued import Answer, Queued, run_all
from service.store.sqlite.connection import BUSY_TIMEOUT_MS
from service.store.sqlite.disk_faults import Damaged, Fault, describe, fault_of

log = logging.getLogger(__name__)
WAL_BYTES = 4 << 20  # beyond it the write-ahead log is written back into the database
PINNED_BYTES = 4 * WAL_BYTES  # it grows that far only where a reader holds an old state
PROBE_S = 1.0
PROBE_BYTES = 64 << 10  # more than one row, or the store would fail and recover every second


class GroupWriter:
    """Commits groups on a connection.

    Args:
        db: The connection, in autocommit mode.
        wal: Its write-ahead log.
        durability: "commit" or "os".
        finish: Writes what waits for the end of the transaction.
        forget: Drops what the operations cache, after a rollback.
        committed: Called after each commit, before its answers are delivered.

    Attributes:
        failure: Why the store takes no writes, None while it takes them.
        final: Whether that is for good.
        damaged: The damage that a check found; set from any thread, it fails the next commit.
        pinned_since: Since when readers prevent that the write-ahead log is used from its start
            again, by time.monotonic; None while they do not.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        wal: Path,
        durability: Durability,
        finish: Callable[[], None],
        forget: Callable[[], None],
        committed: Callable[[], None],
    ) -> None:
        self._db = db
        self._wal = wal
        self._syncs_all = durability == "commit"
        self._syncs_next = self._syncs_all
        self._finish = finish
        self._forget = forget
        self._committed = committed
        self._since = 0.0
        self.times = WriterTimes()
        self.failure: str | None = None
        self.final = False
        self.damaged: Damaged | None = None
        self.pinned_since: float | None = None
        db.execute("PRAGMA wal_autocheckpoint = 0")
        # Truncates the write-ahead log when it restarts, so that its size is what it holds.
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")

    def refusal(self) -> StoreError | Unavailable | None:
        """Return the error that refuses an operation after a failure; from any thread."""
        failure = self.failure
        if failure is None:
            return None
        message = f"the store takes no writes: {failure}"
        return StoreError(message) if self.final else Unavailable(message)

    def commit(self, group: list[Queued]) -> list[Answer]:
        """Run a group in one transaction and return its answers, in order."""
        if self.damaged is not None and not self.final:
            self._failed(self.damaged, [], committing=False)
        if self.failure is not None:
            return self._refused(group)
        committing = False
        started = time.perf_counter()
        try:
            self._sync_next(any(queued.durable for queued in group))
            self._db.execute("BEGIN IMMEDIATE")
            answers = run_all(group)
            self._finish()
            committing = True
            written = time.perf_counter()
            self._db.execute("COMMIT")
            self._committed()
        except Exception as error:  # the top of the writer's loop
            if self._failed(error, group, committing=committing) is Fault.OPERATION:
                return self._one_by_one(group)
            return self._refused(group)
        ended = time.perf_counter()
        self.times.operations.observe(sum(queued.num for queued in group))
        self.times.sync.observe(ended - written)
        self.times.commit.observe(ended - started)
        return answers

    def checkpoint_if_due(self) -> None:
        """Write the log back into the database when it has grown; readers may delay that."""
        if self.failure is None:
            try:
                size = self._wal.stat().st_size
                if size > WAL_BYTES:
                    started = time.perf_counter()
                    self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    self.times.checkpoint.observe(time.perf_counter() - started)
                # The next commit begins the log again, unless a reader still needs its pages.
                if size <= PINNED_BYTES:
                    self.pinned_since = None
                elif self.pinned_since is None:
                    self.pinned_since = time.monotonic()
            except Exception as error:  # the top of the writer's loop
                self._failed(error, [], committing=True)

    def empty_wal(self) -> bool:
        """Write the log back into the database and truncate it; False: a reader prevents it now."""
        if self.failure is not None:
            return False
        try:
            self._db.execute("PRAGMA busy_timeout = 0")  # appends do not wait for a reader
            busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        except Exception as error:  # the top of the writer's loop
            self._failed(error, [], committing=True)
            return False
        return not busy

    def probe_after_s(self) -> float:
        """See `Writer.probe_after_s`."""
        return PROBE_S

    def probe(self) -> bool:
        """Write something during an outage; takes writes again if that succeeds."""
        assert self.failure is not None
        assert not self.final
        try:
            self._touch(bytes(PROBE_BYTES))
            self._touch(None)
        except Exception as error:  # the top of the writer's loop
            self._failed(error, [], committing=True)
            return False
        log.warning("the store takes writes again, after %.1f s", time.monotonic() - self._since)
        self.failure = None
        return True

    def touch(self) -> None:
        """Write something inside a transaction: one without a write is not synced."""
        self._write_meta("synced", time.time())

    # -- inside ---------------------------------------------------------------------------------

    def _touch(self, value: bytes | None) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._write_meta("probe", value)
        self._db.execute("COMMIT")

    def _write_meta(self, key: str, value: bytes | float | None) -> None:
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def _sync_next(self, durable: bool) -> None:
        wanted = self._syncs_all or durable
        if wanted != self._syncs_next:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._syncs_next = wanted

    def _failed(self, error: Exception, group: list[Queued], *, committing: bool) -> Fault:
        """Roll back after `error`, and decide whether anything may be written from now on."""
        fault = fault_of(error, committing=committing)
        if fault is not Fault.FINAL:
            try:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            except sqlite3.Error as second:
                error, fault = second, Fault.FINAL
        self._forget()
        for queued in group:
            if queued.undo is not None:
                queued.undo()
        if fault is Fault.OPERATION:
            if len(group) == 1 and group[0].num == 1:
                log.error("an unexpected error in a write; it alone fails", exc_info=error)
            return fault
        if fault is Fault.FINAL:
            if isinstance(error, Damaged):
                log.critical("%s", error)
            else:
                expected = isinstance(error, sqlite3.Error)
                log.critical("the store failed; only a restart finds out what is on disk: %s",
                             describe(error), exc_info=None if expected else error)  # fmt: skip
            self.final = True
        elif self.failure is None:
            log.error("the store takes no writes until a probe succeeds: %s", describe(error))
            self._since = time.monotonic()
        self.failure = describe(error)
        return fault

    def _one_by_one(self, group: list[Queued]) -> list[Answer]:
        """Run the operations of a rolled back group one at a time: only the faulty ones fail."""
        if len(group) == 1 and group[0].num > 1:
            return [self._in_parts(group[0])]
        if len(group) == 1:
            return [(group[0].done, None, StoreError("an unforeseen error; it is in the log"))]
        answers: list[Answer] = []
        for queued in group:
            answers += self.commit([queued])
        return answers

    def _in_parts(self, queued: Queued) -> Answer:
        """Run what an operation consists of, each by itself."""
        found: list[Any] = []
        for each in queued.item:
            ((_, result, error),) = self.commit([replace(queued, item=[each])])
            found += result if error is None else [error]
        return queued.done, found, None

    def _refused(self, group: list[Queued]) -> list[Answer]:
        return [(queued.done, None, self.refusal()) for queued in group]
