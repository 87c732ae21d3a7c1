"""The store of a process that does not have it open itself: it appends through the one that does.

Decisions, reports and what these need go over a Unix socket; the log is followed in the database
itself, a file or PostgreSQL. Everything else is done by the process that has the store open.
It runs on the event loop. While the connection is lost, every append is refused with
`Unavailable`, and so are those whose answers it took along: nobody knows whether they are stored,
so their callers repeat them, by their ids. It connects again by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bandexa_core.errors import BandexaError
from bandexa_core.ids import (
    DecisionId,
    DecisionKey,
)
from bandexa_core.log.contract import Outcome
from service.observe.counters import WriterTimes
from service.store.address import PostgresUrl, StoreAddress
from service.store.clock import ClockState, ServiceClock
from service.store.errors import StoreError, Unavailable
from service.store.opening import log_uid, open_counting, open_history, open_reader
from service.store.protocol import Done, FoundDecision, Logged, Step
from service.store.reading import CountingReader, DecisionHistory, LogReader
from service.store.records import BanditRecord, DecisionRecord, StoredAnswer
from service.store.sharing import Changes
from service.store.socket import messages as m
from service.store.socket.frames import FrameStream

log = logging.getLogger(__name__)
FIRST_RETRY_S = 0.05
MAX_RETRY_S = 0.25
CONNECTS_WITHIN_S = 30.0
LOST = "the process that writes the store is starting again"
IN_DOUBT = f"{LOST}: whether this was stored is not known; repeat it"


@dataclass(slots=True)
class _Pending:
    operation: int
    done: Done[Any]


class SocketStore:
    """See `EventStore`; `connect` makes it ready.

    Args:
        address: The socket of the process that has the store open.
        database: The database.
        own: The number of this process, from 1 on.
        num: How many processes make decisions, the one that has the store open included.
        deliver: Runs a function on the event loop, and then what that leaves to be done.
    """

    def __init__(
        self,
        address: Path,
        database: StoreAddress,
        own: int,
        num: int,
        deliver: Callable[[Callable[[], None]], None],
    ) -> None:
        self._address = address
        self._database = database
        self._own = own
        self._deliver = deliver
        self.shared = self.confirms = True
        self.epoch = 0
        self.clock = ServiceClock()
        self._keys = open_reader(database)
        self.ids = self._keys.ids.with_clock(self.clock)
        self._identity = _identity_of(database)
        self.ids.share = (own, num)
        self._bandits: dict[int, BanditRecord] = {}
        self._numbers = 0
        self._pending: dict[int, _Pending] = {}
        self._outgoing: list[tuple[int, int, Any]] = []
        self._stream: FrameStream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._lost_at: float | None = time.monotonic()
        self._is_closed = False
        self._watch: Callable[[Changes], None] = lambda changes: None
        self._on_found: Callable[[], None] = lambda: None
        self.times = WriterTimes()
        self.replaced = False

    async def connect(self) -> None:
        """Connect for the first time.

        Raises:
            StoreError: Nobody answers.
        """
        self._connecting = asyncio.create_task(self._reconnect(), name="store-socket")
        done, _ = await asyncio.wait({self._connecting}, timeout=CONNECTS_WITHIN_S)
        if not done:
            self._connecting.cancel()
            raise StoreError(f"{self._address}: nobody answers")
        await self._connecting

    def watch(self, changed: Callable[[Changes], None], found: Callable[[], None]) -> None:
        """Call `changed` with what is announced; `found` once the connection is back."""
        self._watch, self._on_found = changed, found

    def remember(self, record: BanditRecord) -> None:
        """Hold a live bandit in memory: what is received names it by its key."""
        if record.key not in self._bandits:  # a clock that was set back makes no key again
            self.ids.seen(self._keys.newest_key(record.key))
        self._bandits[record.key] = record

    def forget(self, key: int) -> None:
        """Forget a bandit that was deleted."""
        self._bandits.pop(key, None)

    def settled(self, number: int) -> None:
        """Give the number of an announcement back; see `Changes.settle`."""
        self._send(m.SETTLED, number)

    def counted(self, counts: list[m.Counted]) -> None:
        """Report what was answered."""
        if self._stream is not None:
            self._send(m.COUNTED, counts)

    def show(self, number: int, text: bytes) -> None:
        """Give the metrics of this process; see `Changes.show`."""
        self._send(m.SHOWN, (number, text))

    # -- the connection -----------------------------------------------------------------------

    async def _reconnect(self) -> None:
        loop = asyncio.get_running_loop()
        retry_s = FIRST_RETRY_S
        while not self._is_closed:
            stream = FrameStream(self._received, self._lost)
            try:
                await loop.create_unix_connection(partial(_itself, stream), str(self._address))
            except OSError:  # it is not there yet
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                continue
            try:
                identity = await loop.run_in_executor(None, _identity_of, self._database)
            except (OSError, StoreError) as error:  # it is being put back, for example
                log.error("the database cannot be read: %s", error)
                stream.close()
                await asyncio.sleep(MAX_RETRY_S)
                continue
            if identity != self._identity:
                log.critical("%s is another log now: this process ends", self._database)
                self.replaced = True
                stream.close()
                return
            if not stream.is_open:  # it ended while the database was looked at
                continue
            said: asyncio.Future[m.Hello] = loop.create_future()

            def done(
                hello: m.Hello | None,
                error: Exception | None,
                said: asyncio.Future[m.Hello] = said,
            ) -> None:
                if said.done():
                    return
                if hello is None:
                    said.set_exception(error or StoreError("no answer"))
                else:
                    said.set_result(hello)

            self._stream = stream
            self._ask(m.HELLO, self._own, done)
            try:
                hello = await said
            except Unavailable:
                continue
            self.epoch = hello.epoch
            self.clock.resume(ClockState.unpacked(hello.clock))
            self._lost_at = None
            self._on_found()
            return

    def _lost(self, stream: FrameStream) -> None:
        if self._stream is not stream:
            return
        self._stream = None
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        pending, self._pending = self._pending, {}
        self._outgoing.clear()
        self._deliver(lambda: self._refuse_all(pending))
        if self._is_closed:
            return
        if self._connecting is None or self._connecting.done():
            log.warning("%s", LOST)
            self._connecting = asyncio.create_task(self._reconnect(), name="store-socket")

    def _refuse_all(self, pending: dict[int, _Pending]) -> None:
        for each in pending.values():
            _answer(each.done, None, Unavailable(IN_DOUBT))

    def _received(self, frame: bytes) -> None:
        found = m.messages(frame)
        self._deliver(lambda: self._take(found))

    def _take(self, found: list[m.Message]) -> None:
        """Deliver answers in their order, then what is announced."""
        changes: Changes | None = None
        for number, kind, content in found:
            if number:
                pending = self._pending.pop(number)
                if kind == m.ERROR:
                    _answer(pending.done, None, m.read_error(content).received())
                else:
                    self._take_result(pending, content)
                continue
            value = m.ANNOUNCEMENTS[kind](content)
            changes = changes or Changes()
            if kind == m.HEADS:
                changes.heads |= value
            elif kind == m.BANDITS:
                changes.bandits = True
            elif kind == m.SERVED:
                changes.served |= value
            elif kind == m.SETTLE:
                changes.settle.append(value)
            elif kind == m.SHOW:
                changes.show.append(value)
            else:
                self.clock.resume(ClockState.unpacked(value))
        if changes is not None:
            self._watch(changes)

    def _take_result(self, pending: _Pending, content: Any) -> None:
        result = m.RESULTS[pending.operation](content)
        if isinstance(result, m.SentFound):
            bandit = self._bandits.get(result.decision.bandit)
            if bandit is None:  # it is about to be served, or was deleted
                _answer(pending.done, None, Unavailable("the bandit of the decision is not served"))
                return
            result = result.received(bandit)
        _answer(pending.done, result, None)

    def _ask(self, operation: int, content: Any, done: Done[Any]) -> None:
        if self._stream is None or self._is_closed:
            done(None, Unavailable(LOST))
            return
        self._numbers += 1
        self._pending[self._numbers] = _Pending(operation, done)
        self._put(self._numbers, operation, content)

    def _send(self, operation: int, content: Any) -> None:
        if self._stream is not None:
            self._put(0, operation, content)

    def _put(self, number: int, operation: int, content: Any) -> None:
        self._outgoing.append((number, operation, content))
        if len(self._outgoing) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._stream is not None:
            self._stream.send(m.encode(outgoing))

    # -- the store ----------------------------------------------------------------------------

    @property
    def failure(self) -> str | None:
        """See `EventStore.failure`."""
        return None if self._lost_at is None else LOST

    def lost_s(self) -> float:
        """Return for how many seconds there has been no connection; 0 while there is one."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    @property
    def failed_for_good(self) -> bool:
        """See `EventStore.failed_for_good`: the database was replaced under this process."""
        return self.replaced

    @property
    def queue_depth(self) -> int:
        """See `EventStore.queue_depth`."""
        return len(self._pending)

    def wal_bytes(self) -> int:
        """See `EventStore.wal_bytes`; the process that has the store open reports it."""
        return 0

    def wal_pinned_s(self) -> float:
        """See `EventStore.wal_pinned_s`; likewise."""
        return 0.0

    def append_decision(self, record: DecisionRecord, done: Done[StoredAnswer | None]) -> None:
        """See `EventStore.append_decision`."""
        self._ask(m.DECISION, record, done)

    def append_decisions(
        self,
        records: Sequence[DecisionRecord],
        done: Done[list[StoredAnswer | BandexaError | None]],
        *,
        more: bool = False,
    ) -> None:
        """See `EventStore.append_decisions`: a message for each.

        They leave at the end of the turn, with or without `more`: the process that has the store
        open commits what arrives together.
        """
        results: list[StoredAnswer | BandexaError | None] = [None] * len(records)
        left = len(records)

        def answered(place: int, earlier: StoredAnswer | None, error: Exception | None) -> None:
            nonlocal left
            assert error is None or isinstance(error, BandexaError), "others do not come back"
            results[place] = earlier if error is None else error
            left -= 1
            if not left:
                done(results, None)

        for place, record in enumerate(records):
            self._ask(m.DECISION, record, partial(answered, place))

    def hand_over(self) -> None:
        """See `EventStore.hand_over`: nothing waits beyond the end of a turn."""

    def append_propensity(self, key: DecisionKey, propensity: float, done: Done[None]) -> None:
        """See `EventStore.append_propensity`."""
        self._ask(m.PROPENSITY, m.FilledIn(key, propensity), done)

    def find_decision(self, decision_id: DecisionId, done: Done[FoundDecision]) -> None:
        """See `EventStore.find_decision`."""
        self._ask(m.FIND, decision_id, done)

    def find_repeats(
        self,
        key: DecisionKey,
        item: int,
        reward_id: str | None,
        reward: Outcome,
        done: Done[list[Outcome]],
    ) -> None:
        """See `EventStore.find_repeats`."""
        self._ask(m.REPEATS, m.Repeats(key, item, reward_id, reward), done)

    def confirm(self, done: Done[None]) -> None:
        """See `EventStore.confirm`."""
        self._ask(m.CONFIRM, None, done)

    def append_step(self, step: Step, done: Done[tuple[Logged, ...] | None]) -> None:
        """See `EventStore.append_step`."""
        self._ask(m.STEP, m.SentStep.of(step), done)

    def reader(self) -> LogReader:
        """See `EventStore.reader`."""
        return open_reader(self._database)

    def follower(self) -> LogReader:
        """See `EventStore.follower`."""
        return open_reader(self._database)

    def history(self) -> DecisionHistory:
        """See `EventStore.history`."""
        return open_history(self._database)

    def counting(self) -> CountingReader:
        """See `EventStore.counting`."""
        return open_counting(self._database)

    def close(self) -> None:
        """See `EventStore.close`; what was sent is stored, or its caller has no answer."""
        self._is_closed = True
        self._keys.close()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._stream is not None:
            self._stream.close()

    def _of_keeper(self, *arguments: Any, **named: Any) -> None:
        """Refuse what the process that has the store open does itself."""
        done = next(each for each in arguments if callable(each))
        done(None, StoreError("this process does not administer the store"))

    due_windows = accept_clock = append_change = append_config = append_switch = _of_keeper
    append_import = append_round = append_audit = put_challenger = trim_log = _of_keeper
    trim_catalogue = drop_decisions = begin_erasure = erase = relearned = _of_keeper
    create_bandit = delete_bandit = empty_wal = shrink = sync = _of_keeper


def _itself(stream: FrameStream) -> FrameStream:
    return stream


def _answer(done: Done[Any], result: Any, error: Exception | None) -> None:
    try:
        done(result, error)
    except Exception:  # the top of the answers' loop: the other callers must get theirs
        log.exception("a callback of the store failed")


def _identity_of(database: StoreAddress) -> tuple[int, int] | str:
    """Return what tells a database from another one that is put in its place."""
    if isinstance(database, PostgresUrl):
        return log_uid(database)
    found = os.stat(database)
    return found.st_dev, found.st_ino
