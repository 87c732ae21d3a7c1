"""Counts what is in the store into the aggregates: a thread, behind everything else.

It reads a few hundred rows at a time in short transactions and rests between them, so that a select
never waits for more than a fraction of a millisecond. After a crash it goes on where the last
committed addition ended: counts and cursors are one transaction.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bandexa_core.ids import BanditUid
from service.observe.counters import Metrics, Tally
from service.observe.dashboard.aggregates import Part, Seen
from service.settings import Settings
from service.store.errors import StoreError
from service.store.sqlite.aggregates import DECISIONS, AggregateReader, AggregateWriter, Cursor
from service.store.sqlite.counting import CountingReader

log = logging.getLogger(__name__)
CHUNK = 250
REST_S = 0.02  # between chunks while there is more
PAUSE_S = 1.0
PRUNE_EVERY_S = 600.0
PROPENSITY_WAIT_S = 5.0  # one that is worked out behind the answer is there long before
BYTES = 64 << 10  # of picks, as they are packed, in one reading; one decision may have more


@asynccontextmanager
async def following(settings: Settings, metrics: Metrics) -> AsyncIterator[Follower]:
    """Run a follower until the exit; it leaves the rest to the next start."""
    follower = Follower(settings.database, settings.aggregates, metrics.stages.total)
    follower.start()
    try:
        yield follower
    finally:
        await asyncio.get_running_loop().run_in_executor(None, follower.close)


class Follower:
    """Keeps the aggregates up to date.

    Args:
        database: The store's file.
        path: The aggregates' file; made anew where it is not usable.
        times: How long selects took since the start.
    """

    def __init__(self, database: Path, path: Path, times: Tally) -> None:
        self.path = path
        self._database = database
        self._times = times
        self._told = [0] * len(times.counts)
        self._told_at = time.time()
        self._pruned_at = -math.inf
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._store = CountingReader(database)
        self._kept = AggregateWriter(path)
        self.behind = True

    def start(self) -> None:
        """Begin to count."""
        self._thread.start()

    def close(self) -> None:
        """Stop, leaving the rest to the next start; calling it again does nothing."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._store.close()
        self._kept.close()

    def aggregates(self) -> AggregateReader:
        """Return a new reader of the aggregates; the caller closes it."""
        return AggregateReader(self.path)

    def _run(self) -> None:
        failed = False
        while not self._ending.is_set():
            pause = PAUSE_S
            try:
                if self.step():
                    pause = REST_S
                failed = False
            except StoreError as error:
                # Selects and rewards do not depend on it, and the store tells of its own damage.
                if not failed:
                    log.warning("the dashboard does not follow: %s", error)
                failed = True
            self._ending.wait(pause)

    def step(self) -> bool:
        """Count some more; whether there is more."""
        live = self._store.bandits()
        heads = self._store.heads(live)
        self._begin_anew_if_older(live, heads)
        part = Part()
        cursors: dict[str, Cursor] = {}
        more = self._decisions(live, part, cursors)
        for key, uid in live.items():
            more |= self._learned(key, uid, heads[key], part, cursors)
        if cursors:
            self._kept.add(part, cursors)
        self.behind = more
        now = time.time()
        if now - self._told_at >= 10.0:
            self._tell_times(now)
        if now - self._pruned_at >= PRUNE_EVERY_S:
            self._kept.prune(now, live.values())
            self._pruned_at = now
        return more

    def _begin_anew_if_older(self, live: dict[int, BanditUid], heads: dict[int, int]) -> None:
        """Drop what was counted of a store that was replaced by an older one (a backup)."""
        for key, uid in live.items():
            if self._kept.cursor(uid).at > heads[key]:
                log.warning("%s knows more than the log: it is made anew", self.path.name)
                self._kept.close()
                AggregateWriter.remove(self.path)
                self._kept = AggregateWriter(self.path)
                return

    def _decisions(
        self, live: dict[int, BanditUid], part: Part, cursors: dict[str, Cursor]
    ) -> bool:
        cursor = self._resumed(self._kept.cursor(DECISIONS))
        rows = self._store.decisions(cursor.at, CHUNK, BYTES)
        before, now = cursor, time.time()
        for row in rows:
            if row.propensity is None and abs(now - row.time) < PROPENSITY_WAIT_S:
                rows = []
                break
            cursor = Cursor(row.row, row.decision_id, max(row.time, cursor.time))
            if row.bandit in live:
                seen = Seen(row.time, row.actions(), row.propensity, row.explored, row.std)
                part.decided(live[row.bandit], seen)
        if cursor is not before:
            cursors[DECISIONS] = cursor
        return len(rows) == CHUNK or sum(len(row.packed) for row in rows) >= BYTES

    def _resumed(self, cursor: Cursor) -> Cursor:
        """Return where to go on: the row that was counted last may be gone."""
        if cursor.mark is None:
            return cursor
        at = self._store.resume_after(cursor.at, cursor.mark, cursor.time)
        return cursor if at == cursor.at else Cursor(at, None, cursor.time)

    def _learned(
        self, key: int, uid: str, head: int, part: Part, cursors: dict[str, Cursor]
    ) -> bool:
        cursor = self._kept.cursor(uid)
        if cursor.at >= head:
            return False
        rows = self._store.learned(key, cursor.at, head, CHUNK)
        for position, learned, before, after, decided, origin in rows:
            if before is None:
                delay = None if decided is None else max(0.0, learned - decided)
                part.learned(uid, learned, after, delay)
            elif origin is not None:  # else the corrected value has left the log
                part.corrected(uid, origin, before, after)
            cursors[uid] = cursor = Cursor(position, None, learned)
        if len(rows) < CHUNK:  # past other rows, too: changes of a catalogue are megabytes to read
            cursors[uid] = Cursor(head, None, cursor.time)
        return len(rows) == CHUNK

    def _tell_times(self, now: float) -> None:
        counts = list(self._times.counts)
        new = [count - told for count, told in zip(counts, self._told, strict=True)]
        if any(new):
            self._kept.timed(now, new)
        self._told, self._told_at = counts, now
