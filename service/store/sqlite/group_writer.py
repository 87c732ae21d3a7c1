"""The writing connection: one transaction per group, checkpoints, and what follows a failure.

Used by the writer thread alone. A group is kept as a whole or not at all. An error of ours fails
its operation; an unforeseen one rolls the group back and runs its operations one at a time, so that
only the faulty one fails; a disk that refuses writes stops them until a probe succeeds; a failed
sync or commit stops them for good (see `disk_faults`).

Checkpoints are run here, not by SQLite inside a commit, which would swallow what they report: a
failed sync of a checkpoint is as final as that of a commit.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bandexa_core.errors import BandexaError
from service.observe.counters import WriterTimes
from service.store.errors import StoreError, Unavailable
from service.store.protocol import Done, Durability
from service.store.sqlite.disk_faults import Damaged, Verdict, told, verdict

log = logging.getLogger(__name__)
Answer = tuple[Done[Any], Any, Exception | None]
WAL_BYTES = 4 << 20  # beyond it the write-ahead log is written back into the database
PROBE_S = 1.0
PROBE_BYTES = 64 << 10  # room for more than one row, lest it fails and recovers every second


class Queued(NamedTuple):
    """An operation that waits for the writer.

    `publishes`: it writes files besides the database, so it is never run twice. `undo`: takes back
    what it did to memory, when its transaction is rolled back. `durable`: its commit is synced,
    and all before it, whatever the durability setting. `many`: runs several such operations that
    follow each other at once, given their `item`s; it returns a result or an error for each.
    """

    run: Callable[[], Any]
    done: Done[Any]
    publishes: bool = False
    durable: bool = False
    undo: Callable[[], None] | None = None
    many: Callable[[list[Any]], list[Any]] | None = None
    item: Any = None


class GroupWriter:
    """Commits groups on a connection.

    Args:
        db: The connection, in autocommit mode.
        wal: Its write-ahead log.
        durability: "commit" or "os".
        forget: Drops what the operations remember, after a rollback.

    Attributes:
        failure: Why nothing is written, None while it is.
        final: Whether that stays so.
        damaged: What a check found, to be set from any thread: the next commit fails.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        wal: Path,
        durability: Durability,
        forget: Callable[[], None],
    ) -> None:
        self._db = db
        self._wal = wal
        self._syncs_all = durability == "commit"
        self._syncs_next = self._syncs_all
        self._forget = forget
        self._since = 0.0
        self.times = WriterTimes()
        self.failure: str | None = None
        self.final = False
        self.damaged: Damaged | None = None
        db.execute("PRAGMA wal_autocheckpoint = 0")
        # Cuts the log back when it starts over, so that its size tells how much it holds.
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")

    def refusal(self) -> StoreError | Unavailable | None:
        """Return what an operation is refused with after a failure; from any thread."""
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
            answers = _run_all(group)
            committing = True
            written = time.perf_counter()
            self._db.execute("COMMIT")
        except Exception as error:  # the top of the writer's loop
            if self._failed(error, group, committing=committing) is Verdict.OPERATION:
                return self._one_by_one(group)
            return self._refused(group)
        ended = time.perf_counter()
        self.times.operations.observe(len(group))
        self.times.sync.observe(ended - written)
        self.times.commit.observe(ended - started)
        return answers

    def checkpoint_if_due(self) -> None:
        """Write the log back into the database when it has grown; readers may delay that."""
        if self.failure is None:
            try:
                if self._wal.stat().st_size > WAL_BYTES:
                    started = time.perf_counter()
                    self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    self.times.checkpoint.observe(time.perf_counter() - started)
            except Exception as error:  # the top of the writer's loop
                self._failed(error, [], committing=True)

    def probe(self) -> bool:
        """After an outage: write for real, and take writes again if that works."""
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

    def _failed(self, error: Exception, group: list[Queued], *, committing: bool) -> Verdict:
        """Roll back, and note what may still be written after `error`."""
        found = verdict(error, committing=committing)
        if found is not Verdict.FINAL:
            try:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            except sqlite3.Error as second:
                error, found = second, Verdict.FINAL
        self._forget()
        for queued in group:
            if queued.undo is not None:
                queued.undo()
        if found is Verdict.OPERATION:
            if len(group) == 1:
                log.error("an unforeseen error in a write; it alone fails", exc_info=error)
            return found
        if found is Verdict.FINAL:
            if isinstance(error, Damaged):
                log.critical("%s", error)
            else:
                foreseen = isinstance(error, sqlite3.Error)
                log.critical("the store failed; only a restart can tell what is on disk: %s",
                             told(error), exc_info=None if foreseen else error)  # fmt: skip
            self.final = True
        elif self.failure is None:
            log.error("the store takes no writes until a probe succeeds: %s", told(error))
            self._since = time.monotonic()
        self.failure = told(error)
        return found

    def _one_by_one(self, group: list[Queued]) -> list[Answer]:
        """Run a rolled back group's operations alone, so that only the faulty ones fail."""
        if len(group) == 1:
            return [(group[0].done, None, StoreError("an unforeseen error; it is in the log"))]
        answers: list[Answer] = []
        for queued in group:
            if queued.publishes:  # its files are there already; the caller may try again
                refused = Unavailable("another write of the same commit failed; nothing was kept")
                answers.append((queued.done, None, refused))
            else:
                answers += self.commit([queued])
        return answers

    def _refused(self, group: list[Queued]) -> list[Answer]:
        return [(queued.done, None, self.refusal()) for queued in group]


def _run_all(group: list[Queued]) -> list[Answer]:
    answers: list[Answer] = []
    first = 0
    while first < len(group):
        many, last = group[first].many, first + 1
        if many is not None:
            while last < len(group) and group[last].many == many:
                last += 1
        if many is None or last - first == 1:
            answers.append(_run(group[first]))
        else:
            answers += _run_many(many, group[first:last])
        first = last
    return answers


def _run_many(many: Callable[[list[Any]], list[Any]], group: list[Queued]) -> list[Answer]:
    found = many([queued.item for queued in group])
    return [
        (queued.done, None, result)
        if isinstance(result, BandexaError)
        else (queued.done, result, None)
        for queued, result in zip(group, found, strict=True)
    ]


def _run(queued: Queued) -> Answer:
    try:
        return queued.done, queued.run(), None
    except BandexaError as error:
        return queued.done, None, error
