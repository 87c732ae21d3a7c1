"""Bounds on connections: how many are open, and how long one may wait for its client.

uvicorn gives a connection up when nothing follows an answer for a while (`keep_alive_s`). It waits
for ever for a request that never comes or never ends, for a body behind its answer, and for a
client that does not read. A sweep once a second closes such connections; that costs a request
nothing. Beyond the limit a new connection takes the place of the one that has waited for its client
the longest. All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import itertools
import logging
import os
import resource
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger(__name__)
SWEEP_S = 1.0
LINGER_S = 5.0  # for the rest of a body behind its answer, so that the client can read that
UNREAD_S = 30.0  # for a client that reads nothing of its answer
OWN_FILES = 128  # descriptors that are left for the database, snapshots and the trainer
SPARE = 32  # connections beyond the limit: for health checks, when all others are under way
REPORT_S = 10.0
HEAD_BYTES = 256 << 10  # of the line and headers of a request, and of trailers
CHUNK_TIMES = 16  # a chunk may take this many times the bytes of its content
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
# A connection makes room only then, unless all others are as new: a request may be on its way.
FRESH_S = 1.0
USED_S = 5.0  # after a request: many clients come again before
FEW_CLIENTS = 256


class Waits(enum.Enum):
    """What a connection waits for from its client; the first ones are closed before the last."""

    HEAD = "sent no complete request head"
    REST = "sent more of a body that was answered already"
    READER = "did not read its answer"
    NEXT = "was idle"
    BODY = "sent its body slowly"


_FRESH_S = {Waits.HEAD: FRESH_S, Waits.NEXT: USED_S, Waits.BODY: FRESH_S}
_ORDER = {waits: number for number, waits in enumerate(Waits)}


def default_limit(max_in_flight: int) -> int:
    """Return how many connections the limit of open files leaves.

    A request whose body arrives slowly is under way: with as many of them as there may be, all
    others would get 503. So there are not more connections than that; the slowest give way. A small
    `max_in_flight` is for slow encoders, not for few clients: then there is room for some more.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        files = 1 << 20
    return min(max(files - OWN_FILES, files // 2), max(max_in_flight, FEW_CLIENTS))


class Connection(HttpToolsProtocol):
    """A connection that reports what it waits for.

    Args:
        doors: Admits it.
        arguments: Those of uvicorn's protocol.

    Attributes:
        number: Its place in the order in which connections were opened.
        seen: What the sweep saw it wait for, and the state in which it saw it.
        since: When the sweep saw that first.
        made: When it was opened, by the clock of the event loop.
    """

    _num_bytes = _num_body_bytes = 0
    made = asked = 0.0
    seen: tuple[Waits, object] | None = None
    since = 0.0

    def __init__(self, doors: Doors, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._doors = doors
        self.number = next(doors.numbers)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.made = self.loop.time()
        if len(self.connections) > self._doors.most:
            self._doors.make_room(self)

    def on_message_begin(self) -> None:
        """Begin to count the bytes of a request."""
        super().on_message_begin()
        self.asked = self.loop.time()
        self._num_bytes = self._num_body_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Count a part of the body; limits on bodies are the app's."""
        self._num_body_bytes += len(body)
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; a request whose head or trailers are too large ends here."""
        self._num_bytes += len(data)
        super().data_received(data)
        if self._num_bytes > HEAD_BYTES + CHUNK_TIMES * self._num_body_bytes:
            self._refuse_head()

    def _refuse_head(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            self.transport.write(HEAD_TOO_LARGE)
        self._doors.count("sent too large a request head")
        self.transport.close()

    def waits(self) -> Waits | None:
        """Return what it waits for from its client; None while the server works for it."""
        cycle: RequestResponseCycle | None = self.cycle  # None before its first request
        transport = self.transport
        if cycle is not None and not cycle.response_complete:
            if self.flow.write_paused:
                return Waits.READER
            return Waits.BODY if cycle.more_body else None
        if transport.is_closing() or self.flow.write_paused:
            return Waits.READER if transport.get_write_buffer_size() else None
        if cycle is None:
            return Waits.HEAD
        if cycle.more_body:
            return Waits.REST
        return Waits.HEAD if self.timeout_keep_alive_task is None else Waits.NEXT

    def state(self) -> object:
        """Return what changes when its client does something that counts.

        The head of a request counts when it is complete, however slowly it comes.
        """
        return self.cycle, self.transport.get_write_buffer_size()

    def idle_since(self) -> float:
        """Return a time by which connections that wait for the same are ordered."""
        timer = self.timeout_keep_alive_task
        return timer.when() if timer is not None else self.number

    def begun(self) -> float:
        """Return when it began to wait for a request, or for the rest of one.

        A request may be on its way just then.
        """
        timer = self.timeout_keep_alive_task
        if timer is not None:
            return timer.when() - self.timeout_keep_alive
        return max(self.made, self.asked)

    def use(self, app: ASGIApp) -> None:
        """Let another app answer its requests."""
        self.app = app

    def cut(self) -> None:
        """Close it; what its client does not read is dropped."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


class Doors:
    """Admits connections, and closes those that wait for their clients too long.

    Args:
        connections: All that are open.
        most: How many may be.
        crowded: The app of connections beyond that, when no other can be closed.
        head_timeout_s: Time that the head of a request may take.
    """

    def __init__(
        self,
        connections: Collection[Any],
        *,
        most: int,
        crowded: ASGIApp,
        head_timeout_s: float,
    ) -> None:
        self.most = most
        self.numbers = itertools.count()
        self._connections = connections
        self._crowded = crowded
        self._within = {Waits.HEAD: head_timeout_s, Waits.REST: LINGER_S, Waits.READER: UNREAD_S}
        self._closed: Counter[str] = Counter()
        self._reported = -REPORT_S
        self._has_files = True

    @staticmethod
    def _age(connection: Connection, waits: Waits, now: float) -> tuple[bool, int, float]:
        """Return the order in which connections make room."""
        begun = connection.begun()
        if begun > now - _FRESH_S.get(waits, 0.0):
            return True, 0, begun
        return False, _ORDER[waits], begun if waits is Waits.BODY else connection.idle_since()

    def make_room(self, newest: Connection) -> None:
        """Close a connection for a new one; let the new one in anyhow if it is one of a few.

        Where all are fresh, it is the one that has waited longest, whatever for: a client that
        comes again and again is never that one.
        """
        found = [
            (self._age(connection, waits, newest.made), connection)
            for connection in self._open()
            if connection is not newest and (waits := connection.waits()) is not None
        ]
        if found:
            self._cut(min(found, key=lambda one: one[0])[1], "made room for new ones")
        elif len(self._connections) <= self.most + SPARE:
            newest.use(self._crowded)
        else:
            self._cut(newest, "were too many")

    def sweep(self, now: float) -> None:
        """Close the connections that have waited too long."""
        for connection in self._open():
            waits = connection.waits()
            within = self._within.get(waits) if waits is not None else None
            if waits is None or within is None:
                connection.seen = None
                continue
            seen = (waits, connection.state())
            if connection.seen != seen:
                connection.seen, connection.since = seen, now
            elif now - connection.since >= within:
                self._cut(connection, waits.value)
        self._check_files()
        if self._closed and now - self._reported >= REPORT_S:
            self._report()
            self._reported = now

    def cut_all(self) -> None:
        """Close what is still open: the time for requests under way is over."""
        found = self._open()
        if found:
            log.warning("%d connections were still open after the grace time", len(found))
        for connection in found:
            connection.transport.abort()

    def _open(self) -> list[Connection]:
        return [one for one in self._connections if isinstance(one, Connection)]

    def count(self, reason: str) -> None:
        """Count a connection that was closed, for the log."""
        self._closed[reason] += 1

    def _cut(self, connection: Connection, reason: str) -> None:
        connection.cut()
        self.count(reason)

    def _report(self) -> None:
        reasons = ", ".join(f"{number} {reason}" for reason, number in self._closed.items())
        log.warning(
            "connections closed: %s; %d are open, of at most %d",
            reasons, len(self._connections), self.most,
        )  # fmt: skip
        self._closed.clear()

    def _check_files(self) -> None:
        """Report when the process has no file descriptor left, and when it has some again."""
        try:
            os.close(os.dup(1))
        except OSError as error:
            if error.errno == errno.EMFILE and self._has_files:
                self._has_files = False
                log.error(
                    "no file descriptors are left, with %d connections: new ones are dropped."
                    " Raise the limit of open files, or lower max_connections",
                    len(self._connections),
                )
        else:
            if not self._has_files:
                log.info("there are file descriptors again")
            self._has_files = True


async def sweeping(doors: Doors, clock: Callable[[], float]) -> None:
    """Sweep until it is cancelled."""
    while True:
        await asyncio.sleep(SWEEP_S)
        doors.sweep(clock())
