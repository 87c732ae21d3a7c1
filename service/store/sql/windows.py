"""The open reward windows, in *watched time*: service time less the time that nobody watched.

Runs on the writer thread, inside its transaction. A server calls `tick` about once a second; longer
gaps, an outage or the time between two servers, do not count towards a window. Such a gap is added
to an offset, one value for all windows, so that it costs the same however many are open. All times
that callers give are service time: no jump of the wall clock ends a window (see `store.clock`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.store.identity import FIRST_TIMED, TICKS_PER_S, TIME_BITS
from service.store.protocol import UNWATCHED_S
from service.store.sql.database import Database

STORED_EVERY_S = 5.0  # after a killed process, windows may close this much later than they should
_LAST, _OFFSET = "windows_looked", "service_time_offset"  # in the table `meta`
_AT_ONCE = 32
_PLACE = f"(w.key & {(1 << TIME_BITS) - 1})"  # see `identity.made_at`


@dataclass(slots=True)
class Tick:
    """One call of `tick`, and what it replaced, in case it is rolled back."""

    was_made: bool = False
    last: float | None = None
    offset: float = 0.0


class Windows:
    """Opens and finds windows; holds the time of the last tick in memory, and stores it at times.

    Args:
        connection: The writing connection.
    """

    def __init__(self, connection: Database) -> None:
        self._db = connection
        self._offset = self._meta(_OFFSET) or 0.0
        self._last: float | None = None  # None: no tick yet, in this opening of the store
        self._stored = -float("inf")

    def read_offset(self) -> None:
        """Take over the offset as another server has stored it."""
        self._offset = self._meta(_OFFSET) or 0.0

    def open(self, opened: Sequence[tuple[int, float]]) -> None:
        """Open windows, given as (key of the decision, service time at which it would close)."""
        self._insert("windows", opened)

    def mature_at(self, times: Sequence[tuple[int, float]]) -> None:
        """Note when decisions with open windows are mature, given as for `open`."""
        self._insert("maturing", times)

    def _insert(self, table: str, times: Sequence[tuple[int, float]]) -> None:
        for first in range(0, len(times), _AT_ONCE):
            part = times[first : first + _AT_ONCE]
            self._db.execute(
                f"INSERT INTO {table} VALUES {', '.join(['(?, ?)'] * len(part))}",
                [value for key, time in part for value in (time - self._offset, key)],
            )

    def due(self, now: float, most: int) -> list[tuple[float, int]]:
        """Return (closes, key) of at most `most` windows that are over."""
        return self._db.execute(
            "SELECT closes, key FROM windows WHERE closes <= ? ORDER BY closes, key LIMIT ?",
            (now - self._offset, most),
        ).fetchall()

    def mature(self, now: float, most: int) -> list[tuple[float, int]]:
        """Return (matures, key) of at most `most` decisions that are mature."""
        return self._db.execute(
            "SELECT matures, key FROM maturing WHERE matures <= ? ORDER BY matures, key LIMIT ?",
            (now - self._offset, most),
        ).fetchall()

    def pass_over(self, maturing: tuple[float, int]) -> None:
        """Remove a decision from the maturing ones without a step."""
        self._db.execute("DELETE FROM maturing WHERE matures = ? AND key = ?", maturing)

    def close(self, window: tuple[float, int]) -> None:
        """Remove a window without a step: of a decision that is gone."""
        self._db.execute("DELETE FROM windows WHERE closes = ? AND key = ?", window)

    def tick(self, now: float, tick: Tick) -> None:
        """Add the time that passed unwatched to the offset."""
        is_first = self._last is None
        last = self._last_before_opening() if self._last is None else self._last
        tick.was_made, tick.last, tick.offset = True, self._last, self._offset
        unwatched = 0.0 if last is None else now - last
        if unwatched > (0.0 if is_first else UNWATCHED_S):
            self._offset += unwatched
            self._store(_OFFSET, self._offset)
        self._last = now
        if now - self._stored >= STORED_EVERY_S and self._any_open():
            self._store(_LAST, now)
            self._stored = now

    def undo(self, tick: Tick) -> None:
        """Undo a tick whose transaction was rolled back; one that never ran has no effect."""
        if tick.was_made:
            self._last, self._offset = tick.last, tick.offset
            self._stored = -float("inf")

    def end(self) -> None:
        """Store the time of the last tick: the store is being closed."""
        if self._last is not None and self._any_open():
            self._store(_LAST, self._last)

    def _any_open(self) -> bool:
        return self._db.execute("SELECT 1 FROM windows LIMIT 1").fetchone() is not None

    def _last_before_opening(self) -> float | None:
        """Return when an earlier opening certainly still ran; None where no window is open.

        The stored time may be older than the newest decision: that opening ran at least until then.
        """
        (newest,) = self._db.execute(
            f"SELECT max(CASE WHEN {_PLACE} < {FIRST_TIMED} THEN d.time"
            f" ELSE {_PLACE} / {TICKS_PER_S}.0 END)"
            " FROM windows AS w JOIN decisions AS d ON d.key = w.key"
        ).fetchone()
        if newest is None:
            return None
        stored = self._meta(_LAST)
        return float(newest) if stored is None else max(newest, stored)

    def _meta(self, key: str) -> float | None:
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else float(found[0])

    def _store(self, key: str, value: float) -> None:
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )
