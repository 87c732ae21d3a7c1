"""Heartbeats of the trainer: how far a round is, reported to the server through the pipe.

Runs in the trainer process and is called by the work itself: a beat says that work was done, not
only that the process exists.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from service.training.messages import Heartbeat

BEAT_S = 1.0


class Heartbeats:
    """Reports each phase as it begins, and within a phase at most once a second.

    Args:
        report: Sends an event to the server. What it raises ends the round: nobody wants it.
    """

    def __init__(self, report: Callable[[Heartbeat], None]) -> None:
        self._report = report
        self._phase = ""
        self._due = 0.0
        self._replay: tuple[int | None, int | None] = (None, None)

    def set_replay(self, num_rows: int, num_bytes: int) -> None:
        """Report the size of the round's replay with the next beats."""
        self._replay = num_rows, num_bytes

    def begin(self) -> None:
        """Begin a round."""
        self._phase, self._replay = "", (None, None)

    def __call__(self, phase: str, share: float = 0.0) -> None:
        """Report that `share` of a phase is done."""
        now = time.monotonic()
        if phase == self._phase and now < self._due:
            return
        self._phase, self._due = phase, now + BEAT_S
        self._report(Heartbeat(phase, round(share, 4), _resident_bytes(), *self._replay))


def _resident_bytes() -> int:
    """Return the resident memory of this process; 0 where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
