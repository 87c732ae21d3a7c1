"""Serves the store of this process to others over a Unix socket, and announces what changes.

It runs on the event loop. Operations that arrive in one frame are handed to the store together, so
that they are committed together. The answers of a commit leave together, and behind them, to every
process, which logs have grown: a row that is announced can be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from service.store.errors import Unavailable, UnknownDecision
from service.store.protocol import EventStore, Step
from service.store.records import BanditRecord, DecisionRecord
from service.store.socket import messages as m
from service.store.socket.frames import FrameStream

log = logging.getLogger(__name__)
BACKLOG = 128
CLOCK_S = 5.0
# A decision that was on its way for so long is not stored: those that are newer may be counted.
STALE_S = 8.0
SETTLES_WITHIN_S = 10.0  # a worker that loads torch takes some of that
SHOWN_WITHIN_S = 1.0


class Listener(Protocol):
    """What the process with the store does about what others append."""

    def decided(self, record: DecisionRecord) -> None:
        """A decision was stored."""

    def stepped(self, step: Step, rows: tuple[Any, ...]) -> None:
        """A step was stored, with the log rows that it learned."""

    def counted(self, counts: list[m.Counted]) -> None:
        """A process reports what it has answered."""


class Hub:
    """The other processes.

    Args:
        store: The store.
        address: The path of the socket.
    """

    def __init__(self, store: EventStore, address: Path) -> None:
        self._store = store
        self._address = address
        self._streams: dict[FrameStream, _Follower] = {}
        self._bandits: dict[int, BanditRecord] = {}
        self._heads: dict[int, LogPosition] = {}
        self._served: dict[BanditUid, SnapshotVersion] = {}
        self._news: list[tuple[int, Any]] = []
        self._scheduled = False
        self._numbers = 0
        self._settling: dict[int, tuple[set[FrameStream], asyncio.Future[None]]] = {}
        self._showing: dict[int, tuple[dict[int, bytes], set[FrameStream], asyncio.Future[None]]]
        self._showing = {}
        self._server: asyncio.AbstractServer | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self.listener: Listener | None = None

    async def start(self) -> None:
        """Listen from now on."""
        with contextlib.suppress(FileNotFoundError):  # of a process that was killed
            self._address.unlink()
        listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)  # for this user alone
        try:
            listener.bind(str(self._address))
        finally:
            os.umask(mask)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._new, sock=listener, backlog=BACKLOG)
        self._tick()

    def _tick(self) -> None:
        self.clock_moved()
        self._ticking = asyncio.get_running_loop().call_later(CLOCK_S, self._tick)

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        if self._ticking is not None:
            self._ticking.cancel()
        for stream in list(self._streams):
            stream.close()
        await asyncio.sleep(0)

    def _new(self) -> FrameStream:
        follower = _Follower(self)
        stream = FrameStream(follower.received, self._ended)
        follower.stream = stream
        self._streams[stream] = follower
        return stream

    def _ended(self, stream: FrameStream) -> None:
        self._streams.pop(stream, None)
        for number in list(self._settling):
            self.settled(stream, number)
        for number in list(self._showing):
            self.shown(stream, 0, number, None)

    @property
    def num(self) -> int:
        """How many processes are connected."""
        return len(self._streams)

    # -- what is announced --------------------------------------------------------------------

    def remember(self, record: BanditRecord) -> None:
        """Have a bandit that is live from now on served by all."""
        self._bandits[record.key] = record
        self._announce(m.BANDITS, None)

    def recovers(self, record: BanditRecord) -> None:
        """Take operations on a bandit that is not live yet: this process still recovers it."""
        self._bandits[record.key] = record

    def forget(self, record: BanditRecord) -> None:
        """Have a bandit that was deleted served by nobody."""
        self._bandits.pop(record.key, None)
        self._heads.pop(record.key, None)
        self._served.pop(record.uid, None)
        self._announce(m.BANDITS, None)

    def grown(self, bandit: int, head: LogPosition) -> None:
        """Announce that rows are committed."""
        if head > self._heads.get(bandit, 0):
            self._heads[bandit] = head
            self._announce(m.HEADS, bandit)

    def head(self, bandit: int) -> LogPosition:
        """Return the newest position that was announced of a log, 0 for none."""
        return self._heads.get(bandit, LogPosition(0))

    def serves(self, uid: BanditUid, version: SnapshotVersion) -> None:
        """Announce that a published snapshot is served now."""
        self._served[uid] = version
        self._announce(m.SERVED, uid)

    def clock_moved(self) -> None:
        """Announce the state of the clock."""
        self._announce(m.CLOCK, None)

    async def settle(self, within_s: float = SETTLES_WITHIN_S) -> bool:
        """Return once every process serves what was announced so far; False: not in this time.

        One that was too late the last time is not waited for until it has caught up.
        """
        waiting = {
            stream for stream, each in self._streams.items() if each.follows and not each.is_late
        }
        if not waiting:
            return True
        self._numbers += 1
        number, done = self._numbers, asyncio.get_running_loop().create_future()
        self._settling[number] = waiting, done
        self._announce(m.SETTLE, number)
        try:
            await asyncio.wait_for(done, within_s)
        except TimeoutError:
            for stream in waiting & self._streams.keys():
                self._streams[stream].is_late = True
            return False
        finally:
            self._settling.pop(number, None)
        return True

    def settled(self, stream: FrameStream, number: int) -> None:
        """Note that a process serves what was announced before a number."""
        if (follower := self._streams.get(stream)) is not None:
            follower.is_late = False
        found = self._settling.get(number)
        if found is None:
            return
        waiting, done = found
        waiting.discard(stream)
        if not waiting and not done.done():
            done.set_result(None)

    async def shows(self) -> dict[int, bytes]:
        """Return the metrics of every process, by its number; of those that answer in time."""
        waiting = {stream for stream, each in self._streams.items() if each.follows}
        found: dict[int, bytes] = {}
        if not waiting:
            return found
        self._numbers += 1
        number, done = self._numbers, asyncio.get_running_loop().create_future()
        self._showing[number] = found, waiting, done
        self._announce(m.SHOW, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done, SHOWN_WITHIN_S)
        del self._showing[number]
        return found

    def shown(self, stream: FrameStream, own: int, number: int, text: bytes | None) -> None:
        """Note the metrics of a process; None: it has ended."""
        if (asked := self._showing.get(number)) is None:
            return
        found, waiting, done = asked
        if text is not None:
            found[own] = text
        waiting.discard(stream)
        if not waiting and not done.done():
            done.set_result(None)

    def _announce(self, kind: int, content: Any) -> None:
        """Announce something to all, behind the answers of this turn."""
        self._news.append((kind, content))
        self.schedule()

    def schedule(self) -> None:
        """Send everything that waits in the loop's next turn."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        news, self._news = self._news, []
        shared: list[tuple[int, int, Any]] = []
        heads: dict[int, int] = {}
        for kind, content in news:
            if kind == m.HEADS:
                heads[content] = self._heads.get(content, LogPosition(0))
            else:
                self._end_heads(shared, heads)
                shared.append((0, kind, self._content(kind, content)))
        self._end_heads(shared, heads)
        for each in list(self._streams.values()):
            each.flush(shared)

    def _end_heads(self, shared: list[tuple[int, int, Any]], heads: dict[int, int]) -> None:
        if heads:
            shared.append((0, m.HEADS, dict(heads)))
            heads.clear()

    def _content(self, kind: int, content: Any) -> Any:
        if kind == m.SERVED:
            return {content: self._served[content]} if content in self._served else {}
        if kind == m.CLOCK:
            return self._store.clock.state().packed()
        return content

    # -- what is asked ------------------------------------------------------------------------

    def hello(self) -> tuple[m.Hello, list[tuple[int, int, Any]]]:
        """Return what a process receives as it begins to follow."""
        news: list[tuple[int, int, Any]] = [
            (0, m.BANDITS, None), (0, m.HEADS, dict(self._heads)), (0, m.SERVED, self._served),
        ]  # fmt: skip
        return m.Hello(self._store.epoch, self._store.clock.state().packed()), news

    def record(self, key: int) -> BanditRecord | None:
        """Return the record of a live bandit, None where there is none."""
        return self._bandits.get(key)

    @property
    def store(self) -> EventStore:
        """The store."""
        return self._store

    def stepped(self, step: Step, rows: tuple[Any, ...]) -> None:
        """Note a step of another process."""
        if rows:
            self.grown(step.decision.bandit.key, rows[-1].position)
        if self.listener is not None:
            self.listener.stepped(step, rows)


class _Follower:
    """One of the other processes."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._own = 0
        self._outgoing: list[tuple[int, int, Any]] = []
        self.follows = False
        self.is_late = False
        self.stream: FrameStream

    def flush(self, shared: list[tuple[int, int, Any]]) -> None:
        """Send the answers that wait, and what is announced to all."""
        outgoing = self._outgoing
        if self.follows and shared:
            outgoing = outgoing + shared
        self._outgoing = []
        if outgoing:
            self.stream.send(m.encode(outgoing))

    def received(self, frame: bytes) -> None:
        """Take the operations of a frame."""
        for number, operation, content in m.messages(frame):
            try:
                self._take(number, operation, m.OPERATIONS[operation](content))
            except (msgspec.DecodeError, KeyError):
                log.exception("a process asks for what is not known")
                self.stream.close()
                return

    def _take(self, number: int, operation: int, content: Any) -> None:
        hub, store = self._hub, self._hub.store
        done = self._answers(number)
        if operation == m.DECISION:
            self._decide(content, done)
        elif operation == m.STEP:
            self._step(content, done)
        elif operation == m.PROPENSITY:
            store.append_propensity(content.key, content.propensity, done)
        elif operation == m.FIND:
            store.find_decision(
                content, lambda found, error: done(found and m.SentFound.of(found), error)
            )
        elif operation == m.REPEATS:
            store.find_repeats(content.key, content.item, content.reward_id, content.reward, done)
        elif operation == m.CONFIRM:
            store.confirm(done)
        elif operation == m.HELLO:
            self._own, self.follows = content, True
            hello, news = hub.hello()
            done(hello, None)
            self._outgoing += news
        elif operation == m.SETTLED:
            hub.settled(self.stream, content)
        elif operation == m.SHOWN:
            hub.shown(self.stream, self._own, *content)
        elif hub.listener is not None:
            hub.listener.counted(content)

    def _decide(self, record: DecisionRecord, done: Callable[..., None]) -> None:
        hub = self._hub
        if time.time() - record.time > STALE_S:
            done(None, Unavailable("the decision was on its way for too long: repeat it"))
            return

        def stored(answer: Any, error: Exception | None) -> None:
            done(answer, error)  # whatever the listener does
            if answer is None and error is None and hub.listener is not None:
                hub.listener.decided(record)

        hub.store.append_decision(record, stored)

    def _step(self, sent: m.SentStep, done: Callable[..., None]) -> None:
        hub = self._hub
        bandit = hub.record(sent.decision.bandit)
        if bandit is None:
            done(None, UnknownDecision(sent.decision.id))
            return
        step = sent.received(bandit)

        def stored(rows: Any, error: Exception | None) -> None:
            done(rows, error)  # as above
            if error is None and rows is not None:
                hub.stepped(step, rows)

        hub.store.append_step(step, stored)

    def _answers(self, number: int) -> Callable[..., None]:
        def done(result: Any, error: Exception | None) -> None:
            if error is None:
                self._outgoing.append((number, m.RESULT, result))
            else:
                self._outgoing.append((number, m.ERROR, m.SentError.of(error)))
            self._hub.schedule()

        return done
