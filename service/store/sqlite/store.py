"""The event store on SQLite in WAL mode: one writer thread that commits all queued operations.

The thread owns the writing connection, and runs a group in one transaction. Durability "commit"
syncs every group before its answers (survives power loss); "os" leaves that to the kernel (survives
a killed process). `group_writer` handles failures: while the disk takes no writes they are refused
at once, and a probe every second finds out when it does again; after a failed sync the connection
is never used or closed again, and the process should end. One process at a time may have the store
open; its lock ends with the process, however that ends.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bandexa_core.filesystem import lock_file, note_holder
from service.store.clock import ServiceClock, as_service_clock
from service.store.errors import StoreError
from service.store.protocol import (
    Deliver,
    Done,
    Durability,
)
from service.store.sql.queued import Answer, Queued
from service.store.sql.store import SqlStore
from service.store.sql.tail import LogTail
from service.store.sqlite.connection import as_store_errors, connect
from service.store.sqlite.counting import SqliteCountingReader
from service.store.sqlite.disk_faults import Damaged, describe
from service.store.sqlite.group_writer import GroupWriter
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


class SqliteStore(SqlStore):
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
            ids = decision_ids(self._db)
            operations = self._sqlite = SqliteOperations(self._db, self.clock, self._tail, ids)
        self._wal = path.with_name(path.name + "-wal")
        with as_store_errors(), self.reader() as reader:
            self._writer = GroupWriter(
                self._db, self._wal, durability, operations.finish, operations.forget_heads,
                self._tail.commit,
            )  # fmt: skip
            for record in reader.bandits():
                operations.remember(record)
                self.ids.seen(reader.newest_key(record.key))
            super().__init__(deliver, operations, self._writer)
            self._begin(gather)
        self._check: BackgroundCheck | None = None
        if not checked:
            self._check = BackgroundCheck(connect(path, read_only=True), path, self._fail)

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

    def _before_end(self) -> None:
        if self._check is not None:
            self._check.close()

    def _release(self) -> None:
        if self._writer.final:
            _ABANDONED.append(self._db)  # and the lock is held until the process ends
            return
        self._db.close()
        os.close(self._lock)

    def sync(self, done: Done[None]) -> None:
        """See `EventStore.sync`."""
        # SQLite does it: closing another descriptor of the file would drop SQLite's locks on it.
        self._enqueue(Queued(self._writer.touch, done, durable=True))

    def empty_wal(self, done: Done[bool]) -> None:
        """See `EventStore.empty_wal`."""
        self._enqueue(Queued(lambda: None, done, empties=True))

    def shrink(self, pages: int, done: Done[int]) -> None:
        """See `EventStore.shrink`."""
        self._put(lambda: self._sqlite.shrink(pages), done)

    # -- the writer thread --------------------------------------------------------------------

    def _fail(self, damaged: Damaged) -> None:
        """Make the writer stop for good; from any thread."""
        self._writer.damaged = damaged
        self._queue.put([Queued(self._writer.touch, _woken)])

    def _committed(self, group: list[Queued]) -> list[Answer]:
        answers = self._writer.commit(group)
        if not any(queued.empties for queued in group):
            return answers
        emptied = self._writer.empty_wal()
        return [
            (done, emptied if queued.empties and error is None else result, error)
            for queued, (done, result, error) in zip(group, answers, strict=True)
        ]

    def _after_commit(self) -> None:
        self._writer.checkpoint_if_due()


def _woken(_: None, error: Exception | None) -> None:
    """Do nothing: nobody waits, and the writer has logged why it failed."""


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
