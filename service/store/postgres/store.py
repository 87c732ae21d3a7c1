"""The event store on PostgreSQL: one connection of a server writes.

It has the lock of the server for as long as it lasts; servers that share the database share the
lock. Durability "commit" commits every group before its answers; with "barrier" the answers of many
groups wait for one commit that follows them; "os" lets the database sync later, so that a crash of
its machine loses the newest answers. `group_writer` handles failures. Models and replays stay in
the data directory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from bandexa_core.ids import DecisionId, DecisionKey
from bandexa_core.log.contract import Outcome
from service.store.address import PostgresUrl
from service.store.clock import ServiceClock
from service.store.errors import Conflict, StoreError
from service.store.postgres.connection import Session
from service.store.postgres.faults import ERRORS, describe
from service.store.postgres.group_writer import PostgresWriter
from service.store.postgres.membership import Membership
from service.store.postgres.operations import PostgresOperations
from service.store.postgres.readers import (
    PostgresCountingReader,
    PostgresHistory,
    PostgresReader,
    read_ids,
)
from service.store.postgres.schema import current_epoch, next_epoch, open_writer
from service.store.postgres.sharing import Sharing
from service.store.postgres.writing import WritingDatabase
from service.store.protocol import Deliver, Done, Due, Durability, FoundDecision, Logged, Step
from service.store.records import DecisionRecord, StoredAnswer
from service.store.sql.queued import Answer, Queued
from service.store.sql.store import SqlStore
from service.store.sql.tail import LogTail
from service.store.sql.windows import Tick

log = logging.getLogger(__name__)


class DatabaseClock:
    """The wall clock of the database, which this machine counts on between two readings."""

    def __init__(self, session: Session) -> None:
        self._ahead = 0.0
        self.look(session)

    def look(self, session: Session) -> None:
        """Compare the clocks; the answer's delay is halved between them."""
        before = time.monotonic()
        ((now,),) = session.fetch("SELECT extract(epoch FROM clock_timestamp())::float8")
        after = time.monotonic()
        self._ahead = now - (before + after) / 2

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return time.monotonic() + self._ahead


class PostgresStore(SqlStore):
    """See `EventStore`.

    Args:
        url: The database.
        durability: "commit", "barrier" or "os".
        deliver: Runs a function on the event loop, from the writer thread.
        clock: Service time; a plain function stands for both of its clocks; None: the database's.
        gather: See `SqliteStore`.
        member: This server among those that share the database; None: it has it alone.

    Raises:
        StoreError: It cannot be reached, another server has it, it is of another version, or this
            role may not write it.
    """

    def __init__(
        self,
        url: PostgresUrl,
        durability: Durability,
        deliver: Deliver,
        clock: ServiceClock | Callable[[], float] | None = None,
        gather: Deliver | None = None,
        member: Membership | None = None,
    ) -> None:
        self._url = url
        session = open_writer(url, shared=member is not None)
        try:
            replicates = member is not None and not member.is_keeper
            self.epoch = current_epoch(session) if replicates else next_epoch(session)
            session.wait_for_commits(durability == "commit")
            self._wall = DatabaseClock(session)
            self._tail = LogTail()
            if isinstance(clock, ServiceClock):
                self.clock = clock
            elif clock is None:
                self.clock = ServiceClock(self._wall, time.monotonic, "")
            else:
                self.clock = ServiceClock(clock, clock, "")
            self._database = db = WritingDatabase(session, is_asynchronous=durability == "barrier")
            operations = self._own = PostgresOperations(db, self.clock, self._tail, read_ids(db))
            operations.administers = not replicates
            self.ids = read_ids(db).with_clock(self.clock)
            self._sharing: Sharing | None = None
            # Other servers may have committed what is not durable yet.
            self.confirms = durability == "barrier" or (member is not None and durability != "os")
            if member is not None:
                self.ids.share = (member.number, member.servers)
                self._sharing = Sharing(member.epoch, member.diverged)
            with self.reader() as reader:
                for record in reader.bandits():
                    operations.remember(record)
                    self.ids.seen(reader.newest_key(record.key))
            self._writer = PostgresWriter(
                url, durability, deliver, self._wake, db, operations,
                None if member else self.epoch, self._tail.commit, self._sharing,
            )  # fmt: skip
            super().__init__(deliver, operations, self._writer)
            self._begin(gather)
        except (*ERRORS, StoreError) as error:
            session.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{url}: {describe(error)}") from error

    def wal_bytes(self) -> int:
        """See `EventStore.wal_bytes`: the database empties its own."""
        return 0

    def wal_pinned_s(self) -> float:
        """See `EventStore.wal_pinned_s`."""
        return 0.0

    def reader(self) -> PostgresReader:
        """See `EventStore.reader`."""
        return PostgresReader(self._url)

    def follower(self) -> PostgresReader:
        """See `EventStore.follower`."""
        return PostgresReader(self._url, self._tail)

    def history(self) -> PostgresHistory:
        """See `EventStore.history`."""
        return PostgresHistory(self._url)

    def counting(self) -> PostgresCountingReader:
        """See `EventStore.counting`."""
        return PostgresCountingReader(self._url)

    # -- what goes into one statement with others ---------------------------------------------

    def append_decision(self, record: DecisionRecord, done: Done[StoredAnswer | None]) -> None:
        """See `EventStore.append_decision`."""
        self._enqueue(Queued(None, done, many=self._own.decisions, item=record))

    def append_propensity(self, key: DecisionKey, propensity: float, done: Done[None]) -> None:
        """See `EventStore.append_propensity`."""
        self._enqueue(Queued(None, done, many=self._own.propensities, item=(key, propensity)))

    def append_step(self, step: Step, done: Done[tuple[Logged, ...] | None]) -> None:
        """See `EventStore.append_step`."""
        self._enqueue(Queued(None, done, many=self._own.steps, item=step))

    def find_decision(self, decision_id: DecisionId, done: Done[FoundDecision]) -> None:
        """See `EventStore.find_decision`."""
        self._enqueue(Queued(None, done, many=self._own.finds, item=(decision_id,)))

    def find_repeats(
        self,
        key: DecisionKey,
        item: int,
        reward_id: str | None,
        reward: Outcome,
        done: Done[list[Outcome]],
    ) -> None:
        """See `EventStore.find_repeats`."""
        wanted = (key, item, reward_id, reward)
        self._enqueue(Queued(None, done, many=self._own.finds, item=wanted))

    # -- what is another thing in a database --------------------------------------------------

    def due_windows(self, done: Done[Due]) -> None:
        """See `EventStore.due_windows`; the clock of the database is looked at, too."""
        tick = Tick()

        def run() -> Due:
            self._wall.look(self._database.session)
            return self._operations.due_windows(tick)

        self._enqueue(Queued(run, done, undo=lambda: self._operations.undo_tick(tick)))

    def confirm(self, done: Done[None]) -> None:
        """See `EventStore.confirm`."""
        if self.confirms:
            self._enqueue(Queued(None, done, many=self._own.confirms))
        else:
            done(None, None)

    def sync(self, done: Done[None]) -> None:
        """See `EventStore.sync`: a commit that is synced makes all before it durable."""
        self._put(self._database.barrier, done)

    def empty_wal(self, done: Done[bool]) -> None:
        """See `EventStore.empty_wal`: there is none of this service's own."""
        self._put(lambda: True, done)

    def shrink(self, pages: int, done: Done[int]) -> None:
        """See `EventStore.shrink`."""

        def refuse() -> int:
            raise Conflict(
                "PostgreSQL returns free space to its own tables (autovacuum); `VACUUM FULL` by an"
                " administrator returns it to the disk"
            )

        self._put(refuse, done)

    # -- the writer thread --------------------------------------------------------------------

    def _before_end(self) -> None:
        """Nothing works beside the writer."""

    def _after_commit(self) -> None:
        """Nothing waits for it."""

    def _acknowledge(self, group: list[Queued], answers: list[Answer]) -> None:
        self._writer.acknowledge(group, answers)

    def _wake(self) -> None:
        """Let the writer notice that its barrier has failed; from any thread."""
        self._queue.put([])

    def _release(self) -> None:
        self._writer.end()
        try:
            self._database.close()
        except ERRORS as error:
            log.warning("the connection did not end properly: %s", describe(error))
