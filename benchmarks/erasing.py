"""The longest wait of a write while a person is erased and while the file shrinks.

A store on the disk holds the decisions of many users; a sixth of them belong to one, and a sixth to
another. A thread appends one write after the other, as a reward does, and measures how long each
takes: beside nothing, beside the erasure of the first user, and beside the return of the free pages
to the disk. With durability "commit" each write waits for the disk and for its share of the
processors, so that the first figures are those of the machine.

What the service adds does not depend on the machine's other load: `*_cpu_ms` is the longest CPU
time of one transaction of an erasure (of the second user), or of one that returns free pages, with
the checkpoint that follows it. No other write waits longer for it than that and one sync.
"""

from __future__ import annotations

import math
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from bandexa_core.ids import ActionId, ActionSlot, DecisionId, DecisionKey, LogPosition
from bandexa_core.ids import SnapshotVersion as Version
from bandexa_core.spec import BanditSpec, ContextSpec
from benchmarks.report import Target, arguments, report
from service.serving.compact import PAGES_AT_ONCE
from service.store.opening import open_store
from service.store.protocol import EventStore
from service.store.records import BanditRecord, ChosenAction, DecisionRecord

DIM, NUM, AT_ONCE = 256, 12_000, 500
ALONE_S = 3.0
HERS = "user-0", "user-1"
Answer = tuple[Any, Exception | None]
TARGETS = {name: Target(50.0, unit="ms") for name in ("erase_cpu_ms", "shrink_cpu_ms")}


class Calls:
    """Calls a store and waits; the answers arrive on a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._answers: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.store: EventStore = open_store(path, "commit", self._answers.put)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while (answer := self._answers.get()) is not None:
            answer()

    def ask(self, append: Callable[..., None], *args: Any) -> queue.SimpleQueue[Answer]:
        """Call an append; returns a queue that its answer comes to."""
        found: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        append(*args, lambda result, error: found.put((result, error)))
        return found

    def __call__(self, append: Callable[..., None], *args: Any) -> Any:
        """Call an append and return its result."""
        result, error = self.ask(append, *args).get()
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Close the store."""
        self.store.close()
        self._answers.put(None)
        self._thread.join()


def fill(calls: Calls) -> BanditRecord:
    """Store decisions with 16 KiB of inline candidates each."""
    store = calls.store
    spec = BanditSpec(policy="uniform", context=ContextSpec(shape=(DIM,)), seed=1)
    with store.reader() as reader:
        uid = reader.next_uid("shop")
    bandit: BanditRecord = calls(store.create_bandit, uid, "shop", spec)
    rng = np.random.default_rng(1)
    for first in range(0, NUM, AT_ONCE):
        units = [f"user-{n if n % 6 > 1 else n % 6}" for n in range(first, first + AT_ONCE)]
        records = [decision(store, bandit, rng, unit) for unit in units]
        for answer in [calls.ask(store.append_decision, record) for record in records]:
            answer.get()
    return bandit


def decision(
    store: EventStore, bandit: BanditRecord, rng: np.random.Generator, unit: str | None
) -> DecisionRecord:
    """Return a new decision of a user."""
    key: DecisionKey = store.ids.new_key(bandit.key)
    action = ChosenAction(ActionId("a"), 0, ActionSlot(0), np.zeros(0, np.float32), 0.0)
    features = rng.random((16, 256)).astype(np.float32)
    return DecisionRecord(
        decision_id=DecisionId(store.ids.text(key)), key=key, bandit=bandit.key, time=time.time(),
        body_hash=None, context=rng.random(DIM).astype(np.float32), chosen=(action,),
        candidates=tuple(ActionId(f"a{n}") for n in range(16)), features=features,
        snapshot=Version(0), position=LogPosition(0), propensity=None, activated=True, unit=unit,
    )  # fmt: skip


def erase(calls: Calls, unit: str) -> float:
    """Erase a user; returns the longest CPU time of a part, in ms."""
    erasure = calls(calls.store.begin_erasure, None, unit, ())
    start, more, longest = 0, True, 0.0
    while more:
        before = time.process_time()
        part = calls(calls.store.erase, erasure, start)
        longest = max(longest, time.process_time() - before)
        start, more = part.next, part.more
    return longest * 1e3


def shrink(calls: Calls, most: float = math.inf) -> float:
    """Return free pages, `most` or all; returns the longest CPU time of a part, in ms."""
    left, done, longest = 1, 0, 0.0
    while left and done < most:
        before = time.process_time()
        left = calls(calls.store.shrink, PAGES_AT_ONCE)
        longest = max(longest, time.process_time() - before)
        done += PAGES_AT_ONCE
    return longest * 1e3


class Probe:
    """Writes again and again on a thread, and measures each wait."""

    def __init__(self, calls: Calls, bandit: BanditRecord) -> None:
        self.waits_ms: list[float] = []
        self._calls, self._bandit = calls, bandit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        store, rng = self._calls.store, np.random.default_rng(2)
        while not self._stop.is_set():
            record = replace(decision(store, self._bandit, rng, None), features=None)
            started = time.perf_counter()
            self._calls(store.append_decision, record)
            self.waits_ms.append((time.perf_counter() - started) * 1e3)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


def measure(folder: Path) -> dict[str, float]:
    """Return the longest and the 99th percentile of the waits, in ms, and sizes in MiB."""
    path = folder / "bandexa.db"
    calls = Calls(path)
    results: dict[str, float] = {}
    try:
        bandit = fill(calls)
        calls(calls.store.empty_wal)
        results["database_mib"] = path.stat().st_size / 2**20
        with Probe(calls, bandit) as probe:
            time.sleep(ALONE_S)
        _note(results, "alone", probe)
        started = time.perf_counter()
        with Probe(calls, bandit) as probe:
            erase(calls, HERS[0])
            while not calls(calls.store.empty_wal):
                pass
        results["erase_s"] = time.perf_counter() - started
        _note(results, "erase", probe)
        results["erase_cpu_ms"] = erase(calls, HERS[1])
        started = time.perf_counter()
        with Probe(calls, bandit) as probe:
            shrink(calls, most=results["database_mib"] * 2**20 / 4096 / 12)
            while not calls(calls.store.empty_wal):
                pass
        results["shrink_s"] = time.perf_counter() - started
        _note(results, "shrink", probe)
        results["shrink_cpu_ms"] = shrink(calls)
        while not calls(calls.store.empty_wal):
            pass
        results["shrunk_mib"] = path.stat().st_size / 2**20
    finally:
        calls.close()
    return results


def _note(results: dict[str, float], name: str, probe: Probe) -> None:
    results[f"{name}_writes"] = len(probe.waits_ms)
    results[f"{name}_p99_ms"] = float(np.percentile(probe.waits_ms, 99))
    results[f"{name}_longest_ms"] = max(probe.waits_ms)


def main(argv: Sequence[str]) -> int:
    """Measure, report, and return the exit status."""
    parser = arguments("erasing", __doc__)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bandexa-erasing-") as folder:
        results = measure(Path(folder))
    return report("erasing", results, options.json, targets=TARGETS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
