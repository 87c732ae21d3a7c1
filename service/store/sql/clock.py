"""Stores the state of the service's clock, in the table `meta`."""

from __future__ import annotations

import time

from service.store.clock import ClockState, ServiceClock
from service.store.sql.database import Database

STORED_EVERY_S = 60.0  # after a killed process, service time may be behind by this much
_KEY = "clock"


class ClockNotes:
    """Notes the clock's time on the writer thread, inside its transaction.

    Args:
        connection: The writing connection.
        clock: Goes on from what is stored.
    """

    def __init__(self, connection: Database, clock: ServiceClock) -> None:
        self._db = connection
        self._clock = clock
        self._stored = -float("inf")
        if (before := stored_clock(connection)) is not None:
            clock.resume(before)

    def note(self) -> float:
        """Compare the clocks, store their state at times, and return service time."""
        jumped = self._clock.note()
        if jumped or time.monotonic() - self._stored >= STORED_EVERY_S:
            self.store()
        return self._clock()

    def store(self) -> None:
        """Store the state of the clock."""
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (_KEY, self._clock.state().packed()),
        )
        self._stored = time.monotonic()

    def undo(self) -> None:
        """Store the state again at the next note: the transaction was rolled back."""
        self._stored = -float("inf")


def stored_clock(db: Database) -> ClockState | None:
    """Return the state of the clock as it was stored last, None where none was."""
    found = db.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    return None if found is None else ClockState.unpacked(found[0])
