"""Rows per second of a store on PostgreSQL over those of a file: decisions, and learned rewards.

Both stores commit before they answer. 32 decisions are outstanding at a time, as 32 callers of a
server would have them; rewards are looked up, stepped by the contract, and appended, 32 at a time.
Sides take turns in one process, so that only their ratios mean something. The CPU time is that of
this process alone: of a file it includes the database, which PostgreSQL has in its own processes.

The database at --url must be empty; what is written there stays.
"""

from __future__ import annotations

import itertools
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bandexa_core.ids import ActionId, ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log import contract
from bandexa_core.log.contract import Reported
from bandexa_core.spec import BanditSpec, ContextSpec
from benchmarks.report import Target, arguments, report
from service.store.address import PostgresUrl, StoreAddress
from service.store.opening import open_store
from service.store.protocol import EventStore, FoundDecision, Step
from service.store.records import BanditRecord, ChosenAction, DecisionRecord

OUTSTANDING, TURNS, ROWS, MOST_REWARDS = 32, 5, 640, 1000
TARGETS = {
    "decisions_ratio": Target(0.8, at_most=False, unit="decisions/s, PostgreSQL over a file"),
    "learned_ratio": Target(1.0, at_most=False, unit="learn rows/s, PostgreSQL over a file"),
    "decision_cpu_ratio": Target(None, unit="CPU time of a decision in this process"),
    "learned_cpu_ratio": Target(None, unit="CPU time of a reward in this process"),
}


class Side:
    """A store, and what is asked of it.

    Args:
        address: Where it is.
    """

    def __init__(self, address: StoreAddress) -> None:
        self._answers: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._handed: list[Callable[[], None]] = []
        self.store: EventStore = open_store(
            address, "commit", self._answers.put, self._handed.append
        )
        self._count = itertools.count()
        spec = BanditSpec(policy="linear_ts", context=ContextSpec(shape=(16,)), action_dim=4)
        with self.store.reader() as reader:
            uid = reader.next_uid("shop")
        self.bandit: BanditRecord = self._wait([(self.store.create_bandit, (uid, "shop", spec))])[0]
        self._context = np.arange(16, dtype=np.float32)
        self._features = np.arange(4, dtype=np.float32)

    def decide(self, num: int) -> list[DecisionId]:
        """Store decisions, and return their ids."""
        made = [self._decision() for _ in range(num)]
        for part in _parts(made):
            self._wait([(self.store.append_decision, (record,)) for record in part])
        return [record.decision_id for record in made]

    def learn(self, ids: Sequence[DecisionId]) -> None:
        """Report a reward for each decision."""
        for part in _parts(ids):
            found = self._wait([(self.store.find_decision, (each,)) for each in part])
            done = self._wait([(self.store.append_step, (self._step(each),)) for each in found])
            assert all(rows for rows in done), "each reward is learned"

    def _decision(self) -> DecisionRecord:
        key = self.store.ids.new_key(self.bandit.key)
        chosen = ChosenAction(ActionId("a"), 0, ActionSlot(0), self._features, 0.5)
        return DecisionRecord(
            self.store.ids.text(key), key, self.bandit.key, time.time(), None, self._context,
            (chosen,), None, None, SnapshotVersion(0), LogPosition(0), 0.5, True, False, 0.1,
        )  # fmt: skip

    def _step(self, found: FoundDecision) -> Step:
        decision, reported = found.decision, Reported(0, 0.5, None, ())
        _, change = contract.report(decision.state, reported, decision.rules, MOST_REWARDS)
        assert change is not None, "the first reward of a decision changes it"
        return Step(decision, change, time.time(), reported)

    def _wait(self, asked: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> list[Any]:
        """Ask in one turn of a loop, and wait for all answers."""
        found: dict[int, Any] = {}

        def done(place: int, result: Any, error: Exception | None) -> None:
            found[place] = result if error is None else error

        for place, (append, given) in enumerate(asked):
            append(*given, lambda result, error, at=place: done(at, result, error))
        while self._handed:
            self._handed.pop(0)()
        while len(found) < len(asked):
            self._answers.get()()
        for each in found.values():
            if isinstance(each, Exception):
                raise each
        return [found[place] for place in range(len(asked))]


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), OUTSTANDING):
        yield items[first : first + OUTSTANDING]


def _timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = arguments("scale", __doc__)
    parser.add_argument("--url", required=True, help="an empty PostgreSQL database")
    options = parser.parse_args(argv)
    figures: dict[str, list[tuple[float, float, float, float]]] = {"file": [], "database": []}
    with tempfile.TemporaryDirectory() as folder:
        places: dict[str, StoreAddress] = {
            "file": Path(folder) / "bandexa.db",
            "database": PostgresUrl.of(options.url),
        }
        sides = {name: Side(place) for name, place in places.items()}
        with closing(sides["file"].store), closing(sides["database"].store):
            for turn in range(TURNS + 1):
                for name, side in sides.items():
                    wall, cpu, ids = _timed(lambda side=side: side.decide(ROWS))  # type: ignore[misc]
                    more, spent, _ = _timed(lambda side=side, ids=ids: side.learn(ids))  # type: ignore[misc]
                    if turn:  # the first one warms up
                        figures[name].append((wall, cpu, more, spent))
    results = {}
    for place, name in enumerate(("decisions", "decision_cpu", "learned", "learned_cpu")):
        file, database = (median(row[place] for row in figures[side]) for side in figures)
        is_rate = name in ("decisions", "learned")
        results[f"{name}_ratio"] = file / database if is_rate else database / file
        unit = "per_s" if is_rate else "us"
        for at, seconds in (("file", file), ("database", database)):
            results[f"{name}_{unit}_{at}"] = ROWS / seconds if is_rate else 1e6 * seconds / ROWS
    return report("scale", results, options.json, targets=TARGETS)
