"""Commits groups on PostgreSQL, and connects again after the connection was lost.

Used by the writer thread only. A group of decisions, reports and look-ups is one autocommit
statement, with the look-ups behind it. A group with any other operation is a transaction, in which
they run in their order, as on SQLite. What an operation raises that the service knows fails that
operation alone; after an unexpected error the operations of the group run one at a time.

A lost connection leaves the group in doubt: its callers receive that the store is away, and repeat
their requests by their ids. Writes are refused until a connection has the lock again and finds the
logs as they were; where it does not, this process must end, and a new one builds its models from
what is stored.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from msgspec.structs import replace

from bandexa_core.errors import BandexaError
from service.observe.counters import WriterTimes
from service.store.address import PostgresUrl
from service.store.errors import StoreError, Unavailable
from service.store.postgres.barrier import Barrier, Ends, Waiting, in_doubt, open_barrier
from service.store.postgres.branches import WHY_LOST, lost_row
from service.store.postgres.connection import Session
from service.store.postgres.faults import (
    ERRORS,
    Fault,
    describe,
    fault_of,
    is_diverged,
    is_overtaken,
)
from service.store.postgres.operations import PostgresOperations
from service.store.postgres.schema import current_epoch, reopened
from service.store.postgres.sharing import Sharing
from service.store.postgres.writing import WritingDatabase
from service.store.protocol import Deliver, Durability
from service.store.records import DecisionRecord
from service.store.sql.queued import Answer, Queued, answer_all, run_all

log = logging.getLogger(__name__)
FIRST_RETRY_S, LONGEST_RETRY_S = 0.1, 1.0
MOST_TRIES = 100  # of a group, where other servers append to the same logs
OVERTAKEN_S, MOST_OVERTAKEN_S = 0.001, 0.02
Placed = tuple[int, Queued]  # and its place in the group


class PostgresWriter:
    """See `sql.store.Writer`.

    Args:
        url: The database.
        durability: "commit", "barrier" or "os".
        deliver: Runs a function on the event loop.
        broke: Called on another thread when the writer has to connect again.
        db: The writing connection.
        operations: The operations of the groups.
        epoch: Of this opening; None: others share the database.
        committed: Called after each commit, before its answers are delivered.
        sharing: How others are heeded; None: there are none.
    """

    def __init__(
        self,
        url: PostgresUrl,
        durability: Durability,
        deliver: Deliver,
        broke: Callable[[], None],
        db: WritingDatabase,
        operations: PostgresOperations,
        epoch: int | None,
        committed: Callable[[], None],
        sharing: Sharing | None = None,
    ) -> None:
        self._url = url
        self._durability = durability
        self._deliver = deliver
        self._broke = broke
        self._db = db
        self._operations = operations
        self._epoch = epoch
        self._committed = committed
        self._sharing = sharing
        self._since = 0.0
        self._tries = 0
        self._ends: Ends = {}  # of the logs, at the last commit
        self._moved_ends: Ends = {}  # those that the commits of the group have moved
        self._durable: Ends = {}  # likewise, where commits wait for a barrier: at the last outage
        self._barrier: Barrier | None = None
        self.times = WriterTimes()
        self.failure: str | None = None
        self.final = False
        if durability == "barrier":
            self._barrier = self._new_barrier(open_barrier(url, db.session))

    def refusal(self) -> StoreError | Unavailable | None:
        """See `Writer.refusal`."""
        failure = self.failure
        if failure is None:
            return None
        message = f"the store takes no writes: {failure}"
        return StoreError(message) if self.final else Unavailable(message)

    def commit(self, group: list[Queued]) -> list[Answer]:
        """See `Writer.commit`."""
        self._require_barrier()
        if self.failure is not None:
            return [(each.done, None, self.refusal()) for each in group]
        started = time.perf_counter()
        try:
            answers = self._run_beside_others(group) if self._sharing else self._run_all(group)
        except Exception as error:  # the top of the writer's loop
            if self._failed(error, group) is not Fault.OPERATION:
                return [(each.done, None, self.refusal()) for each in group]
            if len(group) > 1:
                return [answer for each in group for answer in self.commit([each])]
            if group[0].num > 1:
                return [self._in_parts(group[0])]
            log.error("an unexpected error in a write; it alone fails", exc_info=error)
            return [(group[0].done, None, StoreError("an unforeseen error; it is in the log"))]
        self.times.operations.observe(sum(each.num for each in group))
        self.times.commit.observe(time.perf_counter() - started)
        return answers

    def _run_all(self, group: list[Queued]) -> list[Answer]:
        return self._run_together(group) if self._goes_together(group) else self._run(group)

    def _run_beside_others(self, group: list[Queued]) -> list[Answer]:
        """Run a group; again, by what is stored then, where another server was faster."""
        assert self._sharing is not None
        for tries in range(MOST_TRIES):
            for bandit, head in self._sharing.moved():
                if self._ends.get(bandit, (0, b""))[0] < head:
                    self._operations.others_appended(bandit)
            try:
                return self._run_all(group)
            except Exception as error:
                if not is_overtaken(error):
                    raise
                self._sharing.overtaken += 1
                self._undo(group)
            time.sleep(random.uniform(0.0, min(tries * OVERTAKEN_S, MOST_OVERTAKEN_S)))
        busy = Unavailable(f"other servers wrote to the same logs, {MOST_TRIES} times before this")
        return [(queued.done, None, busy) for queued in group]

    def _undo(self, group: list[Queued]) -> None:
        self._db.roll_back()
        self._operations.forget_heads()
        for queued in group:
            if queued.undo is not None:
                queued.undo()

    def _in_parts(self, queued: Queued) -> Answer:
        """Run what an operation consists of, each by itself."""
        found: list[Any] = []
        for each in queued.item:
            ((_, result, error),) = self.commit([replace(queued, item=[each])])
            found += result if error is None else [error]
        return queued.done, found, None

    def _goes_together(self, group: list[Queued]) -> bool:
        """Whether the operations of a group can be stored in one statement, and looked up behind.

        Look-ups come last then, and decisions behind steps: none may concern a decision that comes
        in the other order, or twice.
        """
        operations = self._operations
        kept, stepped, found = set[str](), set[str](), set[str | int]()
        for each in group:
            names: list[str | int] = []
            if each.many in (operations.decisions, operations.decision_groups):
                for record in _records(each):
                    name, key = record.decision_id, record.key
                    if name in kept or name in stepped or record.imported is not None:
                        return False
                    kept.add(name)
                    names += name, key
            elif each.many == operations.steps:
                name, key = each.item.decision.id, each.item.decision.key
                if name in kept or each.item.change.amended:
                    return False
                stepped.add(name)
                names += name, key
            elif each.many == operations.finds:
                found.add(each.item[0])
            elif each.many == operations.confirms:
                continue
            else:
                return False
            if not found.isdisjoint(names):
                return False
        return True

    def _run_together(self, group: list[Queued]) -> list[Answer]:
        """Store steps, then decisions, in one statement; look up behind it."""
        operations = self._operations
        placed = list(enumerate(group))
        steps = [each for each in placed if each[1].many == operations.steps]
        keeping = (operations.decisions, operations.decision_groups)
        keeps = [each for each in placed if each[1].many in keeping]
        finds = [each for each in placed if each[1].many == operations.finds]
        records = [record for _, each in keeps for record in _records(each)]
        found = _by_place(steps, operations.steps([each.item for _, each in steps]))
        kept = operations.keep(records)
        refused = self._commit()
        if refused or any(each.many == operations.confirms for each in group):
            self._confirm()
        if refused:
            stored = operations.answers(records, refused)
            pairs = zip(records, kept, stored, strict=True)
            kept = [there if d.key in refused else known for d, known, there in pairs]
        answers = iter(kept)
        found |= _by_place(
            keeps,
            [
                list(islice(answers, each.num)) if each.in_parts else next(answers)
                for _, each in keeps
            ],
        )
        found |= _by_place(finds, operations.finds([each.item for _, each in finds]))
        for place, each in placed:
            if each.many == operations.confirms:
                found[place] = (each.done, None, None)
        return [found[place] for place in range(len(group))]

    def _run(self, group: list[Queued]) -> list[Answer]:
        """Run operations in order, in one transaction."""
        if self._sharing is not None:
            self._sharing.require(self._db)
        answers = run_all(group)
        if any(each.many is not None for each in group):
            self._confirm(commits=False)
        self._commit()
        return answers

    def _confirm(self, *, commits: bool = True) -> None:
        """Make durable what was read: other servers may have committed it without waiting.

        Where this one does not wait either, its barrier does it.
        """
        if self._sharing is not None and self._durability == "commit":
            self._db.barrier()
            if commits:
                self._db.commit()

    def _commit(self) -> frozenset[int]:
        self._operations.finish()
        written = time.perf_counter()
        refused = self._db.commit()
        if self._barrier is None:
            self.times.sync.observe(time.perf_counter() - written)
        self._ends.update(self._db.moved)
        self._moved_ends.update(self._db.moved)
        if self._sharing is not None and self._barrier is None:  # else it may be lost
            self._sharing.wrote(self._db.moved)
        self._committed()
        return refused

    # -- answers that wait for the barrier ----------------------------------------------------

    def acknowledge(self, group: list[Queued], answers: list[Answer]) -> None:
        """Deliver the answers of the last group, once they are durable.

        What was looked up is delivered at once: who answers by that alone asks for `confirms`.
        """
        finds = self._operations.finds
        moved, self._moved_ends = self._moved_ends, {}
        at_once, waiting = list[Answer](), list[Answer]()
        for queued, answer in zip(group, answers, strict=True):
            (at_once if queued.many == finds else waiting).append(answer)
        if self._durability == "barrier" and waiting:
            if self._barrier is None:  # it was lost within the group
                at_once += [in_doubt(answer, self.failure) for answer in waiting]
            else:
                self._barrier.wait(Waiting(waiting, moved, self._db.is_durable))
        else:
            at_once = answers
        if at_once:
            self._deliver(lambda: answer_all(at_once))

    def end(self) -> None:
        """Wait until all answers are delivered; nothing is committed any more."""
        if self._barrier is not None:
            self._barrier.end()
            self._barrier = None

    def _new_barrier(self, session: Session) -> Barrier:
        return Barrier(session, self._deliver, self.times.sync.observe, self._broke)

    def _require_barrier(self) -> None:
        """Begin anew where the barrier has failed: what was committed may be lost."""
        if self._barrier is None or self._barrier.failure is None or self.failure is not None:
            return
        with suppress(*ERRORS):
            self._db.roll_back()
        self._operations.forget_heads()
        self._begin_outage(self._barrier.failure)

    # -- failures -----------------------------------------------------------------------------

    def _failed(self, error: Exception, group: list[Queued]) -> Fault:
        """Roll back after `error`, and decide whether anything may be written from now on."""
        fault = fault_of(error)
        try:
            self._db.roll_back()
        except Exception as second:  # the connection is lost
            if fault is Fault.OPERATION:
                error, fault = second, Fault.OUTAGE
        self._operations.forget_heads()
        for queued in group:
            if queued.undo is not None:
                queued.undo()
        if fault is Fault.OPERATION:
            return fault
        if fault is Fault.FINAL:
            if is_diverged(error):
                log.critical("nothing more is stored: %s: %s", describe(error), WHY_LOST)
                self._diverged()
            else:
                log.critical("another process has written to the store; only a restart finds out"
                             " what is in it: %s", describe(error))  # fmt: skip
            self.final = True
            self.failure = describe(error)
        else:
            self._begin_outage(describe(error))
        return fault

    def _begin_outage(self, reason: str) -> None:
        """Take no writes until the database is back; what waits for the barrier is in doubt."""
        log.error("the store takes no writes until the database is back: %s", reason)
        self._since, self._tries = time.monotonic(), 0
        self.failure = reason
        if self._barrier is not None:
            self._barrier.abandon(reason)
            self._durable.update(self._barrier.ends)
            self._barrier = None
            # What was committed behind these may be lost, and other rows have its place.
            self._ends = dict(self._durable)
            self._operations.forget_committed()

    def probe_after_s(self) -> float:
        """See `Writer.probe_after_s`: it grows, and is not the same for all servers."""
        longest = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0**self._tries)
        return random.uniform(longest / 2, longest)

    def probe(self) -> bool:
        """Connect again; see `Writer.probe`."""
        self._require_barrier()
        if self.failure is None or self.final:
            return False
        self._tries += 1
        barrier: Session | None = None
        try:
            self._db.session.close()
            session = reopened(
                self._url, waits=self._durability == "commit", shared=self._sharing is not None
            )
            self._db.session = session
            if self._durability == "barrier":
                barrier = open_barrier(self._url, session)
            moved = self._moved(session)
        except Exception as error:  # the top of the writer's loop
            self.failure = describe(error)
            if barrier is not None:
                barrier.close()
            return False
        if barrier is not None:
            self._barrier = self._new_barrier(barrier)
        if moved is not None:
            log.critical("%s", moved)
            self.failure, self.final = moved, True
            return False
        log.warning("the store takes writes again, after %.1f s", time.monotonic() - self._since)
        self.failure = None
        return True

    def _moved(self, session: Session) -> str | None:
        """Return why the models of this process are not of the database's logs; None: they are.

        What was acknowledged is there, and perhaps what was under way.
        """
        if self._epoch is not None and (epoch := current_epoch(session)) != self._epoch:
            return f"another server has used the database meanwhile (opening {epoch})"
        ends = list(self._ends.items())
        if self._sharing is not None:  # a model may have rows that others have appended
            ends += self._sharing.seen().items()
        lost = lost_row(session, ends)
        if lost is None:
            return None
        self._diverged()
        return (
            f"the database has lost row {lost} of a log, or another one is in its place: {WHY_LOST}"
        )

    def _diverged(self) -> None:
        """Count that models of this process are of another branch of a log."""
        if self._sharing is not None:
            self._sharing.diverged.inc()


def _records(queued: Queued) -> Sequence[DecisionRecord]:
    """Return the decisions of an operation that stores some."""
    return queued.item if queued.in_parts else [queued.item]


def _by_place(part: list[Placed], results: Sequence[Any]) -> dict[int, Answer]:
    """Return answers by the places of their operations."""
    return {
        place: (queued.done, None, result)
        if isinstance(result, BandexaError)
        else (queued.done, result, None)
        for (place, queued), result in zip(part, results, strict=True)
    }
