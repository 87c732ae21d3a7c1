"""The queue of a store in a database: one writer thread commits all that waits as one group.

Appends are queued as operations. The thread takes all queued ones, has them committed together, and
returns the results in order; there is no timer. What a group is to a database, and how failures are
handled, is each store's own: see `Writer`.
"""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from bandexa_core.errors import BandexaError
from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.configurations import change_payload, switch_payload
from bandexa_core.log.contract import Outcome
from bandexa_core.log.promotions import Why
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow
from bandexa_core.spec import BanditSpec
from service.observe.counters import WriterTimes
from service.store.errors import StoreError, Unavailable
from service.store.hashing import pack_change
from service.store.identity import DecisionIds
from service.store.protocol import (
    Deliver,
    Done,
    Dropped,
    Due,
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
from service.store.sql.operations import Operations
from service.store.sql.queued import Answer, Queued, answer_all
from service.store.sql.windows import Tick

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_GROUP = 1024


class Writer(Protocol):
    """Commits groups; used on the writer thread, but for its attributes and `refusal`.

    Attributes:
        failure: Why the store takes no writes, None while it takes them.
        final: Whether that is for good.
        times: How long commits take.
    """

    failure: str | None
    final: bool
    times: WriterTimes

    def refusal(self) -> StoreError | Unavailable | None:
        """Return the error that refuses an operation after a failure; from any thread."""

    def commit(self, group: list[Queued]) -> list[Answer]:
        """Commit operations, and return their answers in order."""

    def probe(self) -> bool:
        """Try during an outage whether writes are taken again; True: they are."""

    def probe_after_s(self) -> float:
        """Return how long to wait before the next probe."""


class SqlStore(ABC):
    """See `EventStore`; a database's store has its own writer, operations and readers.

    Args:
        deliver: Runs a function on the event loop, from the writer thread.
        operations: The operations inside a transaction.
        writer: Commits them.
    """

    ids: DecisionIds
    shared = False
    confirms = False

    def __init__(self, deliver: Deliver, operations: Operations, writer: Writer) -> None:
        self._deliver = deliver
        self._gather: Deliver | None = None
        self._gathered: list[Queued] = []
        self._is_waking = False  # whether the gathered ones are handed over in the next turn
        self._operations = operations
        self._commits = writer
        self._queue: queue.SimpleQueue[list[Queued] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)

    def _begin(self, gather: Deliver | None) -> None:
        """Start the writer, with what an earlier opening left to be purged."""
        for key in self._operations.unpurged():
            self._purge(key, _purged)
        self._thread.start()
        self._gather = gather

    @property
    def failure(self) -> str | None:
        """See `EventStore.failure`."""
        return self._commits.failure

    @property
    def failed_for_good(self) -> bool:
        """See `EventStore.failed_for_good`."""
        return self._commits.final

    @property
    def times(self) -> WriterTimes:
        """See `EventStore.times`."""
        return self._commits.times

    @property
    def queue_depth(self) -> int:
        """See `EventStore.queue_depth`."""
        return self._queue.qsize()

    def close(self) -> None:
        """See `EventStore.close`."""
        if self._closed:
            return
        self._closed = True
        self._before_end()
        self.hand_over()
        self._queue.put(None)
        self._thread.join()
        answer_all(self._commits.commit([Queued(self._operations.end, _ended)]))
        self._release()

    @abstractmethod
    def _before_end(self) -> None:
        """Stop what works beside the writer."""

    @abstractmethod
    def _release(self) -> None:
        """Close the connection and give up the lock, once the writer has ended."""

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

    def confirm(self, done: Done[None]) -> None:
        """See `EventStore.confirm`: what can be read is as durable as what is answered."""
        done(None, None)

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

    # -- the writer thread --------------------------------------------------------------------

    def _put(self, run: Callable[[], T], done: Done[T]) -> None:
        self._enqueue(Queued(run, done))

    def _enqueue(self, queued: Queued, *, wakes: bool = True) -> None:
        if self._closed:
            queued.done(None, StoreError("the store takes no writes: closed"))
        elif (refusal := self._commits.refusal()) is not None:
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
                self._acknowledge(group, self._committed(group))
                self._after_commit()
            elif running and self._commits.probe():  # continue the purges that the outage ended
                self._queue.put([Queued(self._operations.unpurged, self._purge_all)])

    def _committed(self, group: list[Queued]) -> list[Answer]:
        """Commit a group; on the writer thread."""
        return self._commits.commit(group)

    def _acknowledge(self, group: list[Queued], answers: list[Answer]) -> None:
        """Deliver the answers of a group, in its order; on the writer thread."""
        self._deliver(lambda: answer_all(answers))

    @abstractmethod
    def _after_commit(self) -> None:
        """Do what may wait until the answers of a group are on their way."""

    def _take(self) -> tuple[list[Queued], bool]:
        """Wait for an operation, then take all queued ones; False: the thread has to stop.

        During an outage it returns nothing each time the store should be probed.
        """
        group: list[Queued] = []
        outage = self._commits.failure is not None and not self._commits.final
        try:
            item = self._queue.get(timeout=self._commits.probe_after_s() if outage else None)
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


def _purged(_: None, error: Exception | None) -> None:
    if error is not None:
        log.error("a deleted bandit could not be purged: %s", error)


def _ended(_: None, error: Exception | None) -> None:
    if error is not None:
        log.warning("reward windows may close some seconds late: %s", error)
