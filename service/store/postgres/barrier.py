"""Lets answers wait until the commits before them are durable: one synchronous commit for all.

With durability "barrier" a group commits asynchronously: it is visible at once, the head of its log
is locked for as long as the statement takes, and the next group does not wait for the disk. Its
answers wait here. The write-ahead log of the database is one sequence, so an empty commit that is
synchronous makes everything before it durable, whoever committed it: on the disk, and on a
synchronous standby where there is one.

The barrier has a connection of its own, which is older than any commit whose answers wait for it. A
database that loses commits ends all of its connections, so that a barrier that succeeds has lost
none. Where it fails, the answers that wait are in doubt, and the writer begins anew with another
connection and another barrier.

Runs on a thread of its own.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from service.store.address import PostgresUrl
from service.store.errors import StoreError, Unavailable
from service.store.postgres.connection import Session
from service.store.postgres.faults import describe
from service.store.protocol import Deliver
from service.store.sql.queued import Answer, answer_all

Ends = dict[int, tuple[int, bytes]]  # of logs: position and hash, by the keys of their bandits
_PASS = "SELECT pg_logical_emit_message(true, 'bandexa', '')"
_SERVER = "SELECT pg_postmaster_start_time()::text, current_setting('fsync')"


class Waiting(NamedTuple):
    """Answers of a committed group.

    Attributes:
        answers: The answers.
        ends: The ends of the logs that it has moved.
        is_durable: Whether its own commit was synchronous: then everything before it is durable.
    """

    answers: list[Answer]
    ends: Ends
    is_durable: bool


class Barrier:
    """Delivers answers in order, each once it is durable.

    Args:
        session: A connection whose commits are synchronous; closed at the end.
        deliver: Runs a function on the event loop.
        passed: Receives, on the barrier's thread, the seconds that each barrier took.
        broke: Called on the barrier's thread when it fails.

    Attributes:
        failure: Why it does not pass any more; None while it does.
        ends: The ends of the logs that are known to be durable; to be read once it has ended.
    """

    def __init__(
        self,
        session: Session,
        deliver: Deliver,
        passed: Callable[[float], None],
        broke: Callable[[], None],
    ) -> None:
        self._session = session
        self._deliver = deliver
        self._passed = passed
        self._broke = broke
        self.failure: str | None = None
        self.ends: Ends = {}
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store-barrier", daemon=True)
        self._thread.start()

    def wait(self, waiting: Waiting) -> None:
        """Deliver answers behind those that wait already; used on the writer thread."""
        self._queue.put(waiting)

    def end(self) -> None:
        """End once nothing waits any more."""
        self._queue.put(None)
        self._thread.join()

    def abandon(self, reason: str) -> None:
        """End at once: what is not known to be durable is answered as in doubt."""
        if self.failure is None:
            self.failure = reason
        self._session.abort()
        self.end()

    def _run(self) -> None:
        running = True
        while running:
            taken, running = self._take()
            if taken:
                self._pass(taken)
        self._session.close()

    def _take(self) -> tuple[list[Waiting], bool]:
        """Wait for answers, then take all that wait; False: the thread has to end."""
        taken: list[Waiting] = []
        item = self._queue.get()
        while item is not None:
            taken.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return taken, True
        return taken, False

    def _pass(self, taken: list[Waiting]) -> None:
        """Make all that wait durable with one commit, and deliver the answers."""
        durable = max((n for n, each in enumerate(taken, 1) if each.is_durable), default=0)
        if durable < len(taken) and self._commit():
            durable = len(taken)
        for each in taken[:durable]:
            self.ends.update(each.ends)
        answers = [answer for each in taken[:durable] for answer in each.answers]
        answers += [
            in_doubt(answer, self.failure) for each in taken[durable:] for answer in each.answers
        ]
        self._deliver(lambda: answer_all(answers))

    def _commit(self) -> bool:
        """Return whether everything before is durable."""
        if self.failure is not None:
            return False
        started = time.perf_counter()
        try:
            self._session.fetch(_PASS)
        except Exception as error:  # the top of the thread's loop: whatever it is, nothing passes
            if self.failure is None:  # else it was abandoned
                self.failure = describe(error)
                self._broke()
            return False
        self._passed(time.perf_counter() - started)
        return self.failure is None


def in_doubt(answer: Answer, reason: str | None) -> Answer:
    """Return the answer of an operation that may be lost; one that was refused stays so."""
    done, _, error = answer
    if error is None:
        error = Unavailable(f"the store takes no writes: {reason}")
    return done, None, error


def open_barrier(url: PostgresUrl, writer: Session) -> Session:
    """Connect a barrier to the very server that a writer is connected to.

    Raises:
        StoreError: A barrier would promise nothing there.
        OSError: The two reach different servers; and what the driver raises.
    """
    session = Session(url, own_loop=True)
    try:
        session.wait_for_commits(True)
        ((started, syncs),) = session.fetch(_SERVER)
        if syncs != "on":
            raise StoreError(
                f"{url}: durability: barrier promises nothing where the database has fsync = off:"
                " turn it on, or use durability: os"
            )
        if writer.fetch(_SERVER)[0][0] != started:
            raise OSError("the connections of the writer and of its barrier reach two servers")
    except BaseException:
        session.close()
        raise
    return session
