"""How a server's scheduled backups stand, for metrics and findings."""

from __future__ import annotations

import math
from dataclasses import dataclass

LATE = 1.5  # of the time between two backups
LATE_S = 3600.0  # at least, that a backup is late by


@dataclass(slots=True)
class BackupStanding:
    """What is known of the scheduled backups.

    Attributes:
        folder: Where they are written.
        between_s: How much time is between two of them.
        begun: When the server started, seconds since the epoch.
        last_good: When the newest complete backup was begun; None: there is none.
        error: Why the last attempt failed; None: it did not.
        seconds: How long the newest one took that this process made.
        bytes: How large it is.
        made, failed: How many were made, and failed, since the start.
    """

    folder: str
    between_s: float
    begun: float
    last_good: float | None = None
    error: str | None = None
    seconds: float = 0.0
    bytes: int = 0
    made: int = 0
    failed: int = 0

    def age_s(self, now: float) -> float:
        """Return the age of the newest complete backup; infinite where there is none."""
        return math.inf if self.last_good is None else max(0.0, now - self.last_good)

    def late_s(self, now: float) -> float:
        """Return how old what is not in a backup may be at most, beyond what was asked for; or 0.

        Without any backup the time counts from the start.
        """
        age = now - (self.begun if self.last_good is None else self.last_good)
        return age if age > max(LATE * self.between_s, self.between_s + LATE_S) else 0.0
