"""Measures how long the reward windows were watched: other time does not count towards a window.

Runs on the writer thread, inside its transaction. A server calls `tick` about once a second; longer
gaps, an outage or the time between two servers, postpone every open window.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from service.store.sqlite.outcomes import Outcomes

UNWATCHED_S = 3.0  # a longer gap between two ticks means that the service was not ready
STORED_EVERY_S = 5.0  # after a killed process, windows may close this much later than they should
_KEY = "windows_looked"  # in the table `meta`


@dataclass(slots=True)
class Tick:
    """One call of `tick`, and the time of the one before it, in case it is rolled back."""

    was_made: bool = False
    before: float | None = None


class WindowClock:
    """Holds the time of the last tick in memory, and stores it every few seconds."""

    def __init__(self, connection: sqlite3.Connection, outcomes: Outcomes) -> None:
        self._db = connection
        self._outcomes = outcomes
        self._last: float | None = None  # None: no tick yet, in this opening of the store
        self._stored = -float("inf")

    def undo(self, tick: Tick) -> None:
        """Undo a tick whose transaction was rolled back; one that never ran has no effect."""
        if tick.was_made:
            self._last = tick.before
            self._stored = -float("inf")

    def tick(self, now: float, tick: Tick) -> None:
        """Postpone the open windows by the time that passed unwatched."""
        is_first = self._last is None
        last = self._last_before_opening() if self._last is None else self._last
        unwatched = 0.0 if last is None else now - last
        if unwatched > (0.0 if is_first else UNWATCHED_S):
            self._outcomes.postpone(unwatched)
        tick.was_made, tick.before, self._last = True, self._last, now
        if now - self._stored >= STORED_EVERY_S and self._outcomes.any_open():
            self._store(now)

    def end(self) -> None:
        """Store the time of the last tick: the store is being closed."""
        if self._last is not None and self._outcomes.any_open():
            self._store(self._last)

    def _store(self, last: float) -> None:
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (_KEY, last),
        )
        self._stored = last

    def _last_before_opening(self) -> float | None:
        """Return when an earlier opening certainly still ran; None where no window is open.

        The stored time may be older than the newest decision: that opening ran at least until then.
        """
        newest = self._outcomes.last_opened()
        if newest is None:
            return None
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
        return newest if found is None else max(newest, float(found[0]))
