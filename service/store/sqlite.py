"""The event store on SQLite in WAL mode: one writer thread that commits whatever waits.

The thread owns the writing connection. It takes all operations that are queued, runs them in one
transaction, commits, and hands the results back in order; there is no timer. Durability
"commit" syncs every group before its answers (survives power loss); "os" leaves that to the
kernel (survives a killed process). A failed group fails its callers; after a failed commit the
store refuses everything, since what the disk holds is no longer known. One process at a time may
have the store open; the lock goes with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bandexa_core.catalogue import CatalogueChange
from bandexa_core.errors import BandexaError
from bandexa_core.ids import BanditUid, DecisionId, LogPosition
from bandexa_core.log import CatalogueRow, ConfigRow, ImportRow
from bandexa_core.spec import BanditSpec
from service.exceptions import StoreError
from service.store.codec import BanditRecord, DecisionRecord, RewardReport, StoredAnswer
from service.store.operations import Operations, wall_clock
from service.store.protocol import Done, RewardOutcome
from service.store.reader import StoreReader
from service.store.schema import Durability, next_epoch, open_writer

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_GROUP = 1024
Deliver = Callable[[Callable[[], None]], object]


@dataclass(frozen=True, slots=True)
class _Queued:
    run: Callable[[], Any]
    done: Done[Any]


class SqliteStore:
    """See `EventStore`.

    Args:
        path: The database file.
        durability: "commit" or "os".
        deliver: Runs a function on the event loop, from the writer thread.
        clock: Seconds since the epoch.

    Raises:
        StoreError: The store is open elsewhere, of another version, or no database.
    """

    def __init__(
        self,
        path: Path,
        durability: Durability,
        deliver: Deliver,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        self._path = path
        self._durability = durability
        self._deliver = deliver
        self._lock = _lock(path)
        try:
            self._db = open_writer(path, durability)
        except BaseException:
            os.close(self._lock)
            raise
        self.epoch = next_epoch(self._db)
        self._operations = Operations(self._db, clock)
        with self.reader() as reader:
            for record in reader.bandits():
                self._operations.remember(record)
        self._queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._failed: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)
        for key in self._operations.unpurged():  # an earlier opening ended in the middle of it
            self._purge(key, _purged)
        self._thread.start()

    @property
    def failure(self) -> Exception | None:
        """Why the store refuses writes, or None."""
        return self._failed

    def reader(self) -> StoreReader:
        """See `EventStore.reader`."""
        return StoreReader(self._path)

    def close(self) -> None:
        """See `EventStore.close`."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        self._db.close()
        os.close(self._lock)

    # -- appends ------------------------------------------------------------------------------

    def append_decision(self, record: DecisionRecord, done: Done[StoredAnswer | None]) -> None:
        """See `EventStore.append_decision`."""
        self._put(lambda: self._operations.decision(record), done)

    def append_propensity(
        self, decision_id: DecisionId, propensity: float, done: Done[None]
    ) -> None:
        """See `EventStore.append_propensity`."""
        self._put(lambda: self._operations.propensity(decision_id, propensity), done)

    def append_reward(self, report: RewardReport, done: Done[RewardOutcome]) -> None:
        """See `EventStore.append_reward`."""
        self._put(lambda: self._operations.reward(report), done)

    def append_change(
        self, bandit: BanditRecord, change: CatalogueChange, done: Done[CatalogueRow]
    ) -> None:
        """See `EventStore.append_change`."""
        self._put(lambda: self._operations.change(bandit, change), done)

    def append_config(self, bandit: BanditRecord, spec: BanditSpec, done: Done[ConfigRow]) -> None:
        """See `EventStore.append_config`."""
        self._put(lambda: self._operations.config(bandit, spec), done)

    def append_import(
        self,
        bandit: BanditRecord,
        publish: Callable[[LogPosition, bytes], int],
        done: Done[ImportRow],
    ) -> None:
        """See `EventStore.append_import`."""
        self._put(lambda: self._operations.import_snapshot(bandit, publish), done)

    def create_bandit(
        self,
        name: str,
        spec: BanditSpec,
        publish: Callable[[BanditUid], None],
        done: Done[BanditRecord],
    ) -> None:
        """See `EventStore.create_bandit`."""
        self._put(lambda: self._operations.create(name, spec, publish), done)

    def delete_bandit(self, bandit: BanditRecord, done: Done[None]) -> None:
        """See `EventStore.delete_bandit`: marked first, then purged a part per transaction."""

        def marked(_: None, error: Exception | None) -> None:
            if error is not None:
                done(None, error)
            else:
                self._purge(bandit.key, done)

        self._put(lambda: self._operations.delete(bandit), marked)

    def _purge(self, key: int, done: Done[None]) -> None:
        def purged(more: bool | None, error: Exception | None) -> None:
            if error is not None or not more:
                done(None, error)
            else:
                self._purge(key, done)

        self._put(lambda: self._operations.purge(key), purged)

    def sync(self, done: Done[None]) -> None:
        """See `EventStore.sync`."""
        self._put(lambda: None, lambda _, error: self._put_sync(done, error))

    def _put_sync(self, done: Done[None], error: Exception | None) -> None:
        if error is not None or self._durability == "commit":
            done(None, error)
        else:
            self._put(self._sync_files, done)

    def _sync_files(self) -> None:
        for path in (self._path.with_name(self._path.name + "-wal"), self._path):
            if path.exists():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    # -- the writer thread --------------------------------------------------------------------

    def _put(self, run: Callable[[], T], done: Done[T]) -> None:
        if self._closed or self._failed is not None:
            done(None, StoreError(f"the store takes no writes: {self._failed or 'closed'}"))
            return
        self._queue.put(_Queued(run, done))

    def _write(self) -> None:
        running = True
        while running:
            group, running = self._take()
            if group:
                results = self._commit(group)
                self._deliver(lambda results=results: _answer(results))  # type: ignore[misc]

    def _take(self) -> tuple[list[_Queued], bool]:
        """Wait for an operation, then take all that are queued; False: asked to stop."""
        group: list[_Queued] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) == MAX_GROUP:
                return group, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Queued]) -> list[tuple[Done[Any], Any, Exception | None]]:
        if self._failed is not None:
            refused = StoreError(f"the store takes no writes: {self._failed}")
            return [(queued.done, None, refused) for queued in group]
        results: list[tuple[Done[Any], Any, Exception | None]] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for queued in group:
                try:
                    results.append((queued.done, queued.run(), None))
                except BandexaError as error:
                    results.append((queued.done, None, error))
            self._db.execute("COMMIT")
        except Exception as error:  # the top of the writer's loop: fail the group, then refuse
            log.exception("the store failed; nothing of this group was kept")
            self._failed = error
            self._operations.forget_heads()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            failure = StoreError(f"the store failed: {error}")
            return [(queued.done, None, failure) for queued in group]
        return results


def _answer(results: list[tuple[Done[Any], Any, Exception | None]]) -> None:
    for done, result, error in results:
        try:
            done(result, error)
        except Exception:  # the top of the answers' loop: the others must get theirs
            log.exception("an answer of the store was not taken")


def _purged(_: None, error: Exception | None) -> None:
    if error is not None:
        log.error("a deleted bandit could not be purged: %s", error)


def _lock(path: Path) -> int:
    """Take the lock that the one process holds that may write; returns its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path.with_name(f"{path.name}.lock"), flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(f"{path} is open in another process") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
