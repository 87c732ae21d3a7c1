"""What the benchmark of scale asks of stores: one side in turns, and many writers of one bandit."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from bandexa_core.ids import ActionId, ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log import contract
from bandexa_core.log.contract import Reported
from bandexa_core.spec import BanditSpec, ContextSpec
from service.observe.counters import SharedCount
from service.store.address import PostgresUrl, StoreAddress
from service.store.opening import join, open_shared, open_store
from service.store.postgres.connection import Session
from service.store.protocol import Durability, EventStore, FoundDecision, Step
from service.store.records import BanditRecord, ChosenAction, DecisionRecord
from service.store.sharing import Changes, FollowedStore

MOST_REWARDS = 1000
SERVERS = 16
MOST_PER_WRITER = 2048  # decisions that a writer has ready
READY_S = 60.0
NAME = "shop"
_FORK = multiprocessing.get_context("fork")


@contextmanager
def schema(url: str, name: str, *settings: str) -> Iterator[str]:
    """Yield the URL of an empty schema, removed at the exit, with settings of its sessions."""
    session = Session(PostgresUrl.of(url), own_loop=True)
    try:
        session.script(f"DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}")
        mark = "&" if "?" in url else "?"
        yield url + mark + "&".join((f"search_path={name}", *settings))
        session.script(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    finally:
        session.close()


class Asked:
    """A store, and what is asked of it in the turns of one thread.

    Args:
        outstanding: How many appends are made before their answers are waited for.
    """

    store: EventStore
    bandit: BanditRecord

    def __init__(self, outstanding: int) -> None:
        self._outstanding = outstanding
        self.answers: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.handed: list[Callable[[], None]] = []
        self._count = itertools.count()
        self._context = np.arange(16, dtype=np.float32)
        self._features = np.arange(4, dtype=np.float32)

    def create(self) -> None:
        """Create the bandit."""
        spec = BanditSpec(policy="linear_ts", context=ContextSpec(shape=(16,)), action_dim=4)
        with self.store.reader() as reader:
            uid = reader.next_uid(NAME)
        self.bandit = self.wait([(self.store.create_bandit, (uid, NAME, spec))])[0]

    def decide(self, num: int) -> list[DecisionId]:
        """Store decisions, and return their ids."""
        made = [self._decision() for _ in range(num)]
        for part in self._parts(made):
            self.wait([(self.store.append_decision, (record,)) for record in part])
        return [record.decision_id for record in made]

    def learn(self, ids: Sequence[DecisionId]) -> None:
        """Report a reward for each decision."""
        for part in self._parts(ids):
            done = self.wait([(self.store.append_step, (each,)) for each in self.steps(part)])
            assert all(rows for rows in done), "each reward is learned"

    def steps(self, ids: Sequence[DecisionId]) -> list[Step]:
        """Look decisions up, and return the steps by which they learn their first reward."""
        found = self.wait([(self.store.find_decision, (each,)) for each in ids])
        return [self._step(each) for each in found]

    def wait(self, asked: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> list[Any]:
        """Ask in one turn of a loop, and wait for all answers."""
        found: dict[int, Any] = {}

        def done(place: int, result: Any, error: Exception | None) -> None:
            found[place] = result if error is None else error

        for place, (append, given) in enumerate(asked):
            append(*given, lambda result, error, at=place: done(at, result, error))
        while self.handed:
            self.handed.pop(0)()
        while len(found) < len(asked):
            self.answers.get()()
        for each in found.values():
            if isinstance(each, Exception):
                raise each
        return [found[place] for place in range(len(asked))]

    def _parts(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        for first in range(0, len(items), self._outstanding):
            yield items[first : first + self._outstanding]

    def _decision(self) -> DecisionRecord:
        key = self.store.ids.new_key(self.bandit.key)
        chosen = ChosenAction(ActionId("a"), 0, ActionSlot(0), self._features, 0.5)
        return DecisionRecord(
            self.store.ids.text(key), key, self.bandit.key, time.time(), None, self._context,
            (chosen,), None, None, SnapshotVersion(0), LogPosition(0), 0.5, True, False, 0.1,
            log_hash=b"",
        )  # fmt: skip

    def _step(self, found: FoundDecision) -> Step:
        decision, reported = found.decision, Reported(0, 0.5, None, ())
        _, change = contract.report(decision.state, reported, decision.rules, MOST_REWARDS)
        assert change is not None, "the first reward of a decision changes it"
        return Step(decision, change, time.time(), reported)


class Side(Asked):
    """A store that one server has alone, with a new bandit.

    Args:
        address: Where it is.
        outstanding: See `Asked`.
        durability: See `EventStore`.
    """

    def __init__(
        self, address: StoreAddress, outstanding: int, durability: Durability = "commit"
    ) -> None:
        super().__init__(outstanding)
        self.store = open_store(address, durability, self.answers.put, self.handed.append)
        self.create()


class SharedSide(Asked):
    """A server's store that shares its database, with the bandit that is there.

    Args:
        url: The database.
        number: Tells the servers apart.
        outstanding: See `Asked`.
        durability: See `EventStore`.
    """

    followed: FollowedStore

    def __init__(
        self, url: str, number: int, outstanding: int, durability: Durability = "commit"
    ) -> None:
        super().__init__(outstanding)
        address = PostgresUrl.of(url)
        self._member = join(
            address, SERVERS, f"writer{number}", "http://127.0.0.1:1", 120.0, SharedCount()
        )
        self.store = self.followed = open_shared(
            address, self._member, durability, self.answers.put, self.handed.append
        )
        with self.store.reader() as reader:
            (self.bandit,) = reader.bandits()

    def follow(self, changed: Callable[[Changes], None]) -> None:
        """Ask for what others append, as a server does."""
        self.followed.watch(changed, _nothing)

    def close(self) -> None:
        """Close the store, and give the number back."""
        self.store.close()
        self._member.end()


def _nothing() -> None: ...


def learned_per_s(
    url: str, writers: int, outstanding: int, seconds: float, durability: Durability = "commit"
) -> float:
    """Return the rewards that several servers together have learned in one bandit, per second.

    Each server is a process. It has decisions for as long as it is measured, and reads each before
    it learns its reward, as for a caller's own id. This process must have no threads.
    """
    creates = _FORK.Process(target=_create, args=(url,))
    creates.start()
    creates.join()
    ready, counts = _FORK.Barrier(writers), _FORK.SimpleQueue()
    given = (url, outstanding, seconds, durability, ready, counts)
    processes = [
        _FORK.Process(target=_learn_for, args=(number, *given)) for number in range(writers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, "a writer failed"
    return sum(float(counts.get()) for _ in processes)


def _create(url: str) -> None:
    Side(PostgresUrl.of(url), 1, "os").store.close()


def _learn_for(
    number: int,
    url: str,
    outstanding: int,
    seconds: float,
    durability: Durability,
    ready: Any,
    counts: Any,
) -> None:
    side = SharedSide(url, number, outstanding, durability)
    with closing(side):
        side.follow(lambda changes: None)
        ids = side.decide(MOST_PER_WRITER)
        ready.wait(READY_S)
        begin, done = time.perf_counter(), 0
        while time.perf_counter() < begin + seconds and done < len(ids):
            side.learn(ids[done : done + outstanding])
            done += outstanding
        counts.put(done / (time.perf_counter() - begin))
        ready.wait(READY_S)  # nobody closes while another one writes


def follow_lag_ms(url: str, rows_per_s: float, seconds: float) -> tuple[float, float]:
    """Return how long after its answer a row is decoded elsewhere: median and 99th percentile."""
    _create(url)
    writes, follows = SharedSide(url, 0, 32), SharedSide(url, 1, 32)
    with closing(writes), closing(follows), closing(follows.store.follower()) as reader:
        num = int(rows_per_s * seconds)
        steps = writes.steps(writes.decide(num))
        answered: dict[int, float] = {}
        decoded: dict[int, float] = {}
        reached = LogPosition(0)

        def changed(changes: Changes) -> None:
            nonlocal reached
            head = changes.heads.get(follows.bandit.key, reached)
            for group in reader.follow(follows.bandit, reached, head):
                now = time.perf_counter()
                decoded.update((row.position, now) for row in group.rows)
                reached = group.position

        follows.follow(changed)

        def done(rows: Any, error: Exception | None) -> None:
            assert error is None, error
            answered[rows[0].position] = time.perf_counter()

        begin = time.perf_counter()
        for number, step in enumerate(steps):
            due = begin + number / rows_per_s
            while (left := due - time.perf_counter()) > 0:
                time.sleep(min(left, 0.001))
                _run(writes, follows)
            writes.store.append_step(step, done)
            _run(writes, follows)
        until = time.perf_counter() + READY_S
        while len(decoded) < num and time.perf_counter() < until:
            time.sleep(0.001)
            _run(writes, follows)
    lags = [1e3 * (decoded[position] - answered[position]) for position in answered]
    return statistics.median(lags), float(np.percentile(lags, 99))


def _run(*sides: Asked) -> None:
    """Run what waits for the event loop of a server."""
    for side in sides:
        while side.handed:
            side.handed.pop(0)()
        while not side.answers.empty():
            side.answers.get()()
