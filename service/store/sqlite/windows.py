"""How long the reward windows were watched: time in which nobody looked does not count.

Lives on the writer thread, inside its transaction.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from service.store.sqlite.outcomes import Outcomes

UNWATCHED_S = 3.0  # longer between two looks, the service was not ready
NOTED_S = 5.0  # after a killed process, windows may close this much later than they should


@dataclass(slots=True)
class Look:
    """One look at the windows, and the one before it, in case it is rolled back."""

    was_made: bool = False
    before: float | None = None


class Watch:
    """Notes when the windows were last looked at, in memory and now and then in the store."""

    def __init__(self, connection: sqlite3.Connection, outcomes: Outcomes) -> None:
        self._db = connection
        self._outcomes = outcomes
        self._looked: float | None = None  # None: not yet, in this opening of the store
        self._noted = -float("inf")

    def undo(self, look: Look) -> None:
        """Take a look back: its transaction was rolled back, if it came to be made at all."""
        if look.was_made:
            self._looked = look.before
            self._noted = -float("inf")

    def look(self, now: float, look: Look) -> None:
        """Postpone the open windows by the time that passed unwatched."""
        started = self._looked is None
        looked = self._noted_before() if self._looked is None else self._looked
        unwatched = 0.0 if looked is None else now - looked
        if unwatched > (0.0 if started else UNWATCHED_S):
            self._outcomes.postpone(unwatched)
        look.was_made, look.before, self._looked = True, self._looked, now
        if now - self._noted >= NOTED_S and self._outcomes.any_open():
            self._note(now)

    def end(self) -> None:
        """Note the last look: the store is being closed."""
        if self._looked is not None and self._outcomes.any_open():
            self._note(self._looked)

    def _note(self, looked: float) -> None:
        self._db.execute(
            "INSERT INTO meta VALUES ('windows_looked', ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (looked,),
        )
        self._noted = looked

    def _noted_before(self) -> float | None:
        """Return when an earlier opening is known to have been at work, None where nothing waits.

        What it noted may be older than the newest decision: then it lived at least until that.
        """
        opened = self._outcomes.last_opened()
        if opened is None:
            return None
        found = self._db.execute("SELECT value FROM meta WHERE key = 'windows_looked'").fetchone()
        return opened if found is None else max(opened, float(found[0]))
