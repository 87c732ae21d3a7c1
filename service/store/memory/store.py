"""The event store in memory, for tests and trials: nothing outlives the process.

It has no thread. Appends are committed on the thread that calls them: all of one turn of the event
loop together, or each by itself where no turns are given. One thread appends at a time; readers may
be used in any thread beside it. No disk takes part, so nothing fails, and `sync` has nothing to do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from bandexa_core.errors import BandexaError
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
from service.store.identity import CELL, DecisionIds
from service.store.memory.contents import Contents
from service.store.memory.counting import MemoryCountingReader
from service.store.memory.history import MemoryHistory
from service.store.memory.operations import Operations
from service.store.memory.reader import MemoryReader
from service.store.memory.view import EPOCH
from service.store.protocol import Deliver, Done, Dropped, Due, FoundDecision, Logged, Step, Trimmed
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

log = logging.getLogger(__name__)
T = TypeVar("T")
Queued = tuple[Callable[[], Any], Done[Any]]
Answer = tuple[Done[Any], Any, Exception | None]


class MemoryStore:
    """See `EventStore`.

    Args:
        deliver: Runs a function on the event loop.
        gather: Runs a function in the next turn of the event loop (`call_soon`). Appends of one
            turn are then committed together. None: each is committed by itself, at once.
        clock: Service time; a plain function stands for both of its clocks; None: the machine's.
        ids: Makes the ids of decisions; None: with a new secret.
    """

    epoch = EPOCH
    failure = None
    failed_for_good = False
    shared = False
    confirms = False

    def __init__(
        self,
        deliver: Deliver,
        gather: Deliver | None = None,
        clock: ServiceClock | Callable[[], float] | None = None,
        ids: DecisionIds | None = None,
    ) -> None:
        self.clock = as_service_clock(clock)
        self.ids = ids or DecisionIds(CELL, os.urandom(16), self.clock)
        self._contents = Contents(self.ids)
        self._operations = Operations(self._contents, self.clock)
        self._times = WriterTimes()
        self._deliver = deliver
        self._gather = gather
        self._queued: list[Queued] = []
        self._is_waking = False  # whether they are committed in the next turn
        self._closed = False

    @property
    def times(self) -> WriterTimes:
        """See `EventStore.times`: nothing is observed."""
        return self._times

    @property
    def queue_depth(self) -> int:
        """See `EventStore.queue_depth`."""
        return len(self._queued)

    def wal_bytes(self) -> int:
        """See `EventStore.wal_bytes`."""
        return 0

    def wal_pinned_s(self) -> float:
        """See `EventStore.wal_pinned_s`."""
        return 0.0

    def reader(self) -> MemoryReader:
        """See `EventStore.reader`."""
        return MemoryReader(self._contents)

    def follower(self) -> MemoryReader:
        """See `EventStore.follower`."""
        return MemoryReader(self._contents)

    def history(self) -> MemoryHistory:
        """See `EventStore.history`."""
        return MemoryHistory(self._contents)

    def counting(self) -> MemoryCountingReader:
        """See `EventStore.counting`."""
        return MemoryCountingReader(self._contents)

    def close(self) -> None:
        """See `EventStore.close`; readers can still read."""
        self._commit()
        self._closed = True

    # -- appends ------------------------------------------------------------------------------

    def append_decision(self, record: DecisionRecord, done: Done[StoredAnswer | None]) -> None:
        """See `EventStore.append_decision`."""
        self._put(lambda: self._operations.decisions.add(record), done)

    def append_decisions(
        self,
        records: Sequence[DecisionRecord],
        done: Done[list[StoredAnswer | BandexaError | None]],
        *,
        more: bool = False,
    ) -> None:
        """See `EventStore.append_decisions`."""
        add = self._operations.decisions.add

        def run() -> list[StoredAnswer | BandexaError | None]:
            found = [_outcome(partial(add, record)) for record in records]
            return [result if error is None else error for result, error in found]

        self._put(run, done, wakes=not more)

    def hand_over(self) -> None:
        """See `EventStore.hand_over`."""
        self._commit()

    def append_propensity(self, key: DecisionKey, propensity: float, done: Done[None]) -> None:
        """See `EventStore.append_propensity`."""
        self._put(lambda: self._operations.decisions.fill_propensity(key, propensity), done)

    def find_decision(self, decision_id: DecisionId, done: Done[FoundDecision]) -> None:
        """See `EventStore.find_decision`."""
        self._put(lambda: self._operations.decisions.find(decision_id), done)

    def find_repeats(
        self,
        key: DecisionKey,
        item: int,
        reward_id: str | None,
        reward: Outcome,
        done: Done[list[Outcome]],
    ) -> None:
        """See `EventStore.find_repeats`."""
        decisions = self._operations.decisions
        self._put(lambda: decisions.repeats(key, item, reward_id, reward), done)

    def append_step(self, step: Step, done: Done[tuple[Logged, ...] | None]) -> None:
        """See `EventStore.append_step`."""
        self._put(lambda: self._operations.decisions.step(step), done)

    def due_windows(self, done: Done[Due]) -> None:
        """See `EventStore.due_windows`."""
        self._put(self._operations.due_windows, done)

    def accept_clock(self, done: Done[float]) -> None:
        """See `EventStore.accept_clock`."""
        self._put(self.clock.accept, done)

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
        """See `EventStore.trim_log`; one call removes all."""
        trimming = self._operations.trimming
        self._put(lambda: trimming.trim_log(bandit, up_to, sample_size), done)

    def trim_catalogue(
        self, bandit: BanditRecord, catalogue: Catalogue, position: LogPosition, done: Done[None]
    ) -> None:
        """See `EventStore.trim_catalogue`."""
        trimming = self._operations.trimming
        self._put(lambda: trimming.trim_catalogue(bandit, catalogue, position), done)

    def drop_decisions(
        self, bandit: BanditRecord, before: DecisionKey, after: DecisionKey, done: Done[Dropped]
    ) -> None:
        """See `EventStore.drop_decisions`; one call removes all."""
        trimming = self._operations.trimming
        self._put(lambda: trimming.drop_decisions(bandit, before, after), done)

    def begin_erasure(
        self, bandit: int | None, unit: str | None, ids: tuple[DecisionId, ...], done: Done[Erasure]
    ) -> None:
        """See `EventStore.begin_erasure`."""
        self._put(lambda: self._operations.begin_erasure(bandit, unit, ids), done)

    def erase(self, erasure: Erasure, start: int, done: Done[ErasedPart]) -> None:
        """See `EventStore.erase`; one call erases all."""
        self._put(lambda: self._operations.erasing.part(erasure), done)

    def relearned(self, mark: Relearning, done: Done[None]) -> None:
        """See `EventStore.relearned`."""
        self._put(lambda: self._operations.erasing.relearned(mark), done)

    def create_bandit(
        self, uid: BanditUid, name: str, spec: BanditSpec, done: Done[BanditRecord]
    ) -> None:
        """See `EventStore.create_bandit`."""
        self._put(lambda: self._operations.create(uid, name, spec), done)

    def delete_bandit(self, bandit: BanditRecord, done: Done[None]) -> None:
        """See `EventStore.delete_bandit`."""
        self._put(lambda: self._operations.delete(bandit), done)

    def confirm(self, done: Done[None]) -> None:
        """See `EventStore.confirm`: there is no disk."""
        done(None, None)

    def sync(self, done: Done[None]) -> None:
        """See `EventStore.sync`: there is no disk."""
        self._put(lambda: None, done)

    def empty_wal(self, done: Done[bool]) -> None:
        """See `EventStore.empty_wal`: there is none."""
        self._put(lambda: True, done)

    def shrink(self, pages: int, done: Done[int]) -> None:
        """See `EventStore.shrink`: there is no file."""
        self._put(lambda: 0, done)

    # -- commits ------------------------------------------------------------------------------

    def _put(self, run: Callable[[], T], done: Done[T], *, wakes: bool = True) -> None:
        if self._closed:
            done(None, StoreError("the store takes no writes: closed"))
            return
        self._queued.append((run, done))
        if self._gather is None:
            self._commit()
        elif wakes and not self._is_waking:
            self._is_waking = True
            self._gather(self._commit)

    def _commit(self) -> None:
        """Run what is queued as one group, and deliver its answers in order."""
        self._is_waking = False
        queued, self._queued = self._queued, []
        if not queued:  # the store was closed before this turn began
            return
        with self._contents.lock:
            answers: list[Answer] = [(done, *_outcome(run)) for run, done in queued]
            self._contents.end_groups()
        self._deliver(lambda: _answer(answers))


def _outcome(run: Callable[[], Any]) -> tuple[Any, BandexaError | None]:
    """Return what an operation returns, or the error that its caller receives."""
    try:
        return run(), None
    except BandexaError as error:
        return None, error
    except Exception as error:  # the top of the operations' loop: the others must be committed
        log.error("an unexpected error in a write; it alone fails", exc_info=error)
        return None, StoreError("an unforeseen error; it is in the log")


def _answer(answers: list[Answer]) -> None:
    for done, result, error in answers:
        try:
            done(result, error)
        except Exception:  # the top of the answers' loop: the other callers must get theirs
            log.exception("a callback of the store failed")
