"""Counts what is in the store into the aggregates: a thread, behind everything else.

It reads a few hundred rows at a time in short transactions and rests between them, so that a select
never waits for more than a fraction of a millisecond. After a crash it goes on where the last
committed addition ended: counts and cursors are one transaction.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic_core import from_json

from service.observe.counters import Metrics, Tally
from service.observe.dashboard.aggregates import DECISIONS, Aggregates, Cursor, Part, Seen
from service.settings import Settings
from service.store.errors import StoreDamaged
from service.store.sqlite.codec import chosen_ids
from service.store.sqlite.schema import connect

log = logging.getLogger(__name__)
CHUNK = 250
REST_S = 0.02  # between chunks while there is more
PAUSE_S = 1.0
PRUNE_EVERY_S = 600.0
PROPENSITY_WAIT_S = 5.0  # one that is worked out behind the answer is there long before
BYTES = 64 << 10  # of picks, as they are packed, in one reading; one decision may have more

# One row: each that is fetched gives up the interpreter lock, which a busy event loop notices. The
# time alone is needed to the last digit, which json_array does not keep.
_DECISIONS = """
SELECT json_group_array(json_array(
  rowid, decision_id, bandit, printf('%!.17g', time), hex(chosen), propensity, explored, std))
FROM (
  SELECT *, sum(length(chosen)) OVER (ORDER BY rowid) - length(chosen) AS before FROM (
    SELECT rowid, decision_id, bandit, time, chosen, propensity, explored, std FROM decisions
    WHERE rowid > ? ORDER BY rowid LIMIT ?))
WHERE before < ?
"""
_LEARNED = """
SELECT l.position, l.time, l.before, l.after, d.time,
  (SELECT o.time FROM log AS o WHERE o.bandit = l.bandit AND o.position = l.origin)
FROM log AS l LEFT JOIN decisions AS d ON d.decision_id = l.decision_id
WHERE l.bandit = ? AND l.position > ? AND l.position <= ? AND l.kind = 1
ORDER BY l.position LIMIT ?
"""


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
        self._store = connect(database, read_only=True)
        self._kept = Aggregates(path)
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

    def _run(self) -> None:
        failed = False
        while not self._ending.is_set():
            pause = PAUSE_S
            try:
                if self.step():
                    pause = REST_S
                failed = False
            except (sqlite3.Error, StoreDamaged) as error:
                # Selects and rewards do not depend on it, and the store tells of its own damage.
                if not failed:
                    log.warning("the dashboard does not follow: %s", error)
                failed = True
            self._ending.wait(pause)

    def step(self) -> bool:
        """Count some more; whether there is more."""
        live = dict(
            self._store.execute("SELECT bandit, uid FROM bandits WHERE deleted IS NULL").fetchall()
        )
        heads = self._heads(live)
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

    def _heads(self, live: dict[int, str]) -> dict[int, int]:
        """Return the last position of each log."""
        last = "SELECT coalesce(max(position), 0) FROM log WHERE bandit = ?"
        return {key: self._store.execute(last, (key,)).fetchone()[0] for key in live}

    def _begin_anew_if_older(self, live: dict[int, str], heads: dict[int, int]) -> None:
        """Drop what was counted of a store that was replaced by an older one (a backup)."""
        for key, uid in live.items():
            if self._kept.cursor(uid).at > heads[key]:
                log.warning("%s knows more than the log: it is made anew", self.path.name)
                self._kept.close()
                Aggregates.remove(self.path)
                self._kept = Aggregates(self.path)
                return

    def _decisions(self, live: dict[int, str], part: Part, cursors: dict[str, Cursor]) -> bool:
        cursor = self._resumed(self._kept.cursor(DECISIONS))
        (found,) = self._store.execute(_DECISIONS, (cursor.at, CHUNK, BYTES)).fetchone()
        try:
            rows = sorted(from_json(found))
        except ValueError as error:
            raise StoreDamaged(f"decisions after row {cursor.at} cannot be read") from error
        before, now = cursor, time.time()
        for rowid, decision_id, bandit, made, chosen, propensity, explored, std in rows:
            made = float(made)
            if propensity is None and abs(now - made) < PROPENSITY_WAIT_S:
                rows = []
                break
            cursor = Cursor(rowid, decision_id, max(made, cursor.time))
            if bandit not in live:
                continue
            actions = chosen_ids(decision_id, bytes.fromhex(chosen))
            seen = Seen(
                made, actions, propensity, None if explored is None else bool(explored), std
            )
            part.decided(live[bandit], seen)
        if cursor is not before:
            cursors[DECISIONS] = cursor
        return len(rows) == CHUNK or sum(len(row[4]) for row in rows) >= 2 * BYTES

    def _resumed(self, cursor: Cursor) -> Cursor:
        """Return where to go on.

        The row that was counted last may be gone, with its bandit or by retention; SQLite then
        gives its number again. What is newer than it was made later.
        """
        if cursor.mark is None:
            return cursor
        found = self._store.execute(
            "SELECT decision_id FROM decisions WHERE rowid = ?", (cursor.at,)
        ).fetchone()
        if found is not None and found[0] == cursor.mark:
            return cursor
        (at,) = self._store.execute(
            "SELECT coalesce(max(rowid), 0) FROM decisions WHERE rowid <= ? AND time <= ?",
            (cursor.at, cursor.time),
        ).fetchone()
        return Cursor(at, None, cursor.time)

    def _learned(
        self, key: int, uid: str, head: int, part: Part, cursors: dict[str, Cursor]
    ) -> bool:
        cursor = self._kept.cursor(uid)
        if cursor.at >= head:
            return False
        rows = self._store.execute(_LEARNED, (key, cursor.at, head, CHUNK)).fetchall()
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
