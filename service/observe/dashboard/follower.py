"""Counts new rows of the store into the aggregates: a thread, behind everything else.

It reads a few hundred rows at a time in short transactions and pauses between them, so that a
select never waits for more than a fraction of a millisecond. After a crash it continues where the
last committed addition ended: counts and cursors are one transaction.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from bandexa_core.ids import BanditUid
from bandexa_core.spec import BanditSpec
from service.observe.counters import Metrics, Tally
from service.observe.dashboard.aggregates import Counts
from service.observe.dashboard.comparing import NOTHING_HELD, Comparison
from service.observe.dashboard.judging import Judging
from service.observe.dashboard.publishing import Publishing, Receivers
from service.observe.dashboard.standings import by_bandit
from service.observe.dashboard.sums import SEGMENT, Key, Lift, Sums, packed
from service.settings import Settings
from service.store.errors import StoreDamaged, StoreError
from service.store.identity import first_key
from service.store.opening import open_counting
from service.store.placing import store_of
from service.store.reading import CountingReader
from service.store.records import CountedRow, CountedValue, Newest
from service.store.sqlite.aggregates import (
    DECISIONS,
    AggregateReader,
    AggregateWriter,
    Noted,
    compared_of,
    decisions_of,
)

T = TypeVar("T")
log = logging.getLogger(__name__)
CHUNK = 1000
BANDITS = 250  # of one chunk
SHORT_PAUSE_S = 0.02  # between chunks while there is more
PAUSE_S = 1.0
LONGEST_PAUSE_S = 5.0
# Times the CPU time of what was counted, so that rows of many bandits are read together.
RESTS = 50
MOST_HELD = 5000  # sums in memory
TIMES_EVERY_S = 10.0
PRUNE_EVERY_S = 600.0
# Keys of several processes are stored out of order, but none that is as old as `hub.STALE_S`.
HELD_BACK_S = 10.0
PROPENSITY_WAIT_S = 5.0  # one that is computed after the answer is stored long before
BYTES = 64 << 10  # of packed actions in one chunk; a single decision may have more


@asynccontextmanager
async def following(
    settings: Settings, metrics: Metrics, receivers: Receivers
) -> AsyncIterator[Follower]:
    """Run a follower until the exit; what it has not counted by then, the next one counts.

    The receivers are called on the event loop.
    """
    loop = asyncio.get_running_loop()

    def there(call: Callable[[BanditUid, T], None]) -> Callable[[BanditUid, T], None]:
        def called(uid: BanditUid, found: T) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(call, uid, found)

        return called

    store = store_of(settings.data_dir, settings.store)
    follower = Follower(
        open_counting(store), settings.aggregates, metrics.stages.total,
        Receivers(there(receivers.stood), there(receivers.judged), there(receivers.earned)),
        HELD_BACK_S if settings.workers > 1 else 0.0,
    )  # fmt: skip
    follower.start()
    try:
        yield follower
    finally:
        await asyncio.get_running_loop().run_in_executor(None, follower.close)


class Follower:
    """Brings the aggregates up to date with the store.

    Args:
        store: Reads what is counted; closed with the follower.
        path: The aggregates' file; rebuilt where it is not usable.
        times: Durations of selects since the server's start.
        receivers: Receive what was counted: at the start, and as that changes.
        held_back_s: How old a decision is before it is counted.

    Attributes:
        behind: Whether there are rows that are not counted yet.
    """

    def __init__(
        self,
        store: CountingReader,
        path: Path,
        times: Tally,
        receivers: Receivers = Receivers(),  # noqa: B008
        held_back_s: float = 0.0,
    ) -> None:
        self.path = path
        self.behind = True
        self._times = times
        self._recorded = [0] * len(times.counts)
        self._recorded_at = time.time()
        self._pruned_at = -math.inf
        self._counted_last = 0
        self._newest: dict[int, Newest] = {}
        self._done: dict[int, Newest] = {}  # bandits without rows to count, as of these rows
        self._waiting: set[int] = set()  # the others
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._store = store
        self._aggregates = AggregateWriter(path)
        self._held_back_s = held_back_s
        self._judging = Judging()
        self._noted: deque[Noted] = deque()
        self._sums: dict[str, dict[Key, Sums | Lift]] = {}  # as stored, by uid; some of them
        self._changed: list[tuple[str, dict[Key, Sums | Lift]]] = []  # by the chunk that is counted
        self._publishing = Publishing(store, path, self._judging, receivers)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; calling it again does nothing."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._store.close()
        self._aggregates.close()

    def note(self, changes: Iterable[Noted]) -> None:
        """Have findings stored that began or ended; on any thread."""
        self._noted.extend(changes)

    def aggregates(self) -> AggregateReader:
        """Return a new reader of the aggregates; the caller closes it."""
        return AggregateReader(self.path)

    def _run(self) -> None:
        failed = False
        begun = time.thread_time()
        while not self._ending.is_set():
            pause = PAUSE_S
            try:
                if self.step():
                    pause = SHORT_PAUSE_S
                else:
                    spent_s = time.thread_time() - begun
                    pause = min(max(PAUSE_S, RESTS * spent_s), LONGEST_PAUSE_S)
                    begun += spent_s
                failed = False
            except StoreError as error:
                # Selects and rewards do not depend on it, and the store reports its own damage.
                if not failed:
                    log.warning("the dashboard does not follow: %s", error)
                failed = True
            except Exception:
                # A guard of arms acts on these counts, so that this thread must not end.
                if not failed:
                    log.exception("the dashboard does not follow")
                failed = True
            self._ending.wait(pause)

    def step(self) -> bool:
        """Count one chunk; returns whether there is more."""
        newest = self._store.newest()
        if newest is not self._newest:
            self._newest = newest
            changed = {key for key, found in newest.items() if found != self._done.get(key)}
            self._waiting = changed
        chunk = self._next_chunk()
        more = len(chunk) < len(self._waiting)
        if self._rebuild_if_ahead(chunk):
            return True
        counts = Counts()
        cursors: dict[str, int] = {}
        self._changed = []
        more |= self._decisions(chunk, counts, cursors)
        with_arms, with_actions = {}, set[BanditUid]()
        for key in chunk:
            more |= self._values(key, newest[key].uid, newest[key].head, counts, cursors)
            kinds = {kind for uid, kind, *_ in counts.compared if uid == newest[key].uid}
            if kinds - {"action"}:
                with_arms[key] = newest[key].uid
            if "action" in kinds:
                with_actions.add(newest[key].uid)
        self._store_counts(counts, cursors)
        self._publishing.changed(with_arms, with_actions)
        self._publishing.publish(self._aggregates, self._newest)
        self._store_noted()
        for key in chunk:
            self._note_if_counted(key)
        self.behind = more
        now = time.time()
        if now - self._recorded_at >= TIMES_EVERY_S:
            self._record_times(now)
        if now - self._pruned_at >= PRUNE_EVERY_S:
            self._aggregates.prune(now, [found.uid for found in newest.values()])
            self._pruned_at = now
            self._done = {key: found for key, found in self._done.items() if key in newest}
        return more

    def _store_counts(self, counts: Counts, cursors: dict[str, int]) -> None:
        """Store what a chunk has counted, and hold its sums: the next chunk adds to most of them.

        What is held is what is stored: sums of a chunk that could not be stored are dropped.
        """
        if not cursors:
            return
        try:
            self._aggregates.add(counts, cursors)
        except BaseException:
            self._sums.clear()
            raise
        if sum(map(len, self._sums.values())) > MOST_HELD:
            self._sums.clear()
        for uid, sums in self._changed:
            self._sums.setdefault(uid, {}).update(sums)

    def _next_chunk(self) -> list[int]:
        """Return the next bandits that have rows to count.

        Each chunk begins with the bandit after the one that ended the last chunk.
        """
        last = self._counted_last
        return heapq.nsmallest(BANDITS, self._waiting, key=lambda key: (key <= last, key))

    def _note_if_counted(self, key: int) -> None:
        """Note a bandit all of whose rows are counted: it is skipped until it has new ones."""
        found = self._newest[key]
        is_counted = self._counted(key, found.uid) >= found.decision
        if is_counted and self._aggregates.cursor(found.uid) >= found.head:
            self._done[key] = found
            self._waiting.discard(key)

    def _rebuild_if_ahead(self, keys: list[int]) -> bool:
        """Drop the counts of a store that was replaced by an older one (a backup)."""
        if all(self._aggregates.cursor(self._newest[k].uid) <= self._newest[k].head for k in keys):
            return False
        log.warning("%s is ahead of the log: it is rebuilt", self.path.name)
        self._aggregates.close()
        AggregateWriter.remove(self.path)
        self._aggregates = AggregateWriter(self.path)
        self._done.clear()
        self._sums.clear()
        self._judging.forget()
        self._waiting = set(self._newest)
        return True

    def _decisions(self, keys: list[int], counts: Counts, cursors: dict[str, int]) -> bool:
        """Count one chunk of decisions, of as many bandits as needed; returns if cut."""
        left, left_bytes = CHUNK, BYTES
        for key in keys:
            uid = self._newest[key].uid
            self._counted_last = key
            rows = self._store.decisions(key, self._counted(key, uid), left, left_bytes)
            num = self._count(uid, rows, counts, cursors)
            left -= num
            left_bytes -= sum(row.num_bytes for row in rows[:num])
            if left <= 0 or left_bytes <= 0:
                return True
        return False

    def _counted(self, key: int, uid: BanditUid) -> int:
        """Return the key of the last counted decision of a bandit."""
        at = self._aggregates.cursor(decisions_of(uid))
        # Version 1 counted rows of all bandits; a migrated store has them at these keys.
        return at or first_key(key) + self._aggregates.cursor(DECISIONS)

    def _count(
        self, uid: BanditUid, rows: list[CountedRow], counts: Counts, cursors: dict[str, int]
    ) -> int:
        """Count rows up to the first one that waits for its propensity; returns how many."""
        now = time.time()
        for num, row in enumerate(rows):
            age_s = abs(now - row.time)
            if age_s < self._held_back_s and not row.imported:
                return num
            if row.propensity is None and age_s < PROPENSITY_WAIT_S:
                return num
            cursors[decisions_of(uid)] = row.key
            if row.imported:  # it was not served here
                continue
            counts.add_decision(uid, row)
        return len(rows)

    def _values(
        self, key: int, uid: str, head: int, counts: Counts, cursors: dict[str, int]
    ) -> bool:
        cursor = self._aggregates.cursor(uid)
        if cursor >= head:
            return False
        rows = self._store.learned(
            key, cursor, head, CHUNK, contexts=self._has_segments(key),
            shadows=self._any_spec(key, lambda spec: any(arm.shadow for arm in spec.arms)),
            units=self._any_spec(key, lambda spec: spec.sticky == "action"),
        )  # fmt: skip
        for row in rows:
            cursors[uid] = row.position
            if row.imported:
                continue
            if row.after is None:
                if row.first_learned is not None and row.before is not None:
                    counts.remove_value(uid, row.first_learned, row.before)
            elif row.before is None:
                delay = None if row.decided is None else max(0.0, row.time - row.decided)
                counts.add_value(uid, row.time, row.after, delay)
            elif row.first_learned is not None:  # otherwise the corrected value has left the log
                counts.correct_value(uid, row.first_learned, row.before, row.after)
        own = [row for row in rows if not row.imported]
        self._compare(key, uid, own, counts)
        self._judging.take(uid, own)
        if len(rows) < CHUNK:  # skip the other rows: changes of a catalogue are megabytes to read
            cursors[uid] = head
        return len(rows) == CHUNK

    def _compare(self, key: int, uid: str, rows: list[CountedValue], counts: Counts) -> None:
        """Add rows to the sums of arms and actions."""
        if not rows:
            return
        try:
            known = self._store.configurations(key)
        except (KeyError, StoreDamaged):  # deleted meanwhile; or damaged, and not served either
            return
        segments: set[str] = set()
        if self._has_segments(key):
            stored = by_bandit(self._aggregates.arms(uid)).get(uid, {})
            segments = {of.of.removeprefix(SEGMENT) for of in stored if of.of.startswith(SEGMENT)}
        comparison = Comparison(
            known, lambda of: self._aggregates.sums(uid, of.kind, of.stored), segments,
            begins=self._aggregates.cursor(compared_of(uid)),
            held=self._sums.get(uid, NOTHING_HELD),
        )  # fmt: skip
        comparison.take(rows)
        self._changed.append((uid, comparison.changed))
        counts.compared += [
            (uid, of.kind, of.stored, packed(sums)) for of, sums in comparison.changed.items()
        ]

    def _has_segments(self, key: int) -> bool:
        """Whether arms are, or were, compared by the contexts of decisions."""
        return self._any_spec(key, lambda spec: spec.segment is not None)

    def _any_spec(self, key: int, holds: Callable[[BanditSpec], bool]) -> bool:
        """Whether something holds of a configuration that a bandit has, or had."""
        with suppress(KeyError, StoreDamaged):  # deleted meanwhile, or not served either
            specs = self._store.configurations(key).specs
            return any(map(holds, specs))
        return False

    def _store_noted(self) -> None:
        """Store the findings that began or ended."""
        changes = []
        while self._noted:
            changes.append(self._noted.popleft())
        if changes:
            self._aggregates.note(changes)

    def _record_times(self, now: float) -> None:
        counts = list(self._times.counts)
        new = [count - before for count, before in zip(counts, self._recorded, strict=True)]
        if any(new):
            self._aggregates.timed(now, new)
        self._recorded, self._recorded_at = counts, now
