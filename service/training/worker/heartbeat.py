"""How the trainer tells the server, through its pipe, how far a round is.

Runs in the trainer process, called by the work itself: a beat says that something was done, not
only that the process is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEAT_S = 1.0


class Heartbeat:
    """Reports phases as they begin, and within one at most once a second.

    Args:
        report: Sends an event to the server.
    """

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._phase = ""
        self._due = 0.0
        self._replay: dict[str, int] = {}

    def holds(self, num_rows: int, num_bytes: int) -> None:
        """Tell with the next beats how much the round's replay holds."""
        self._replay = {"replay_rows": num_rows, "replay_bytes": num_bytes}

    def begin(self) -> None:
        """Begin a round."""
        self._phase, self._replay = "", {}

    def __call__(self, phase: str, share: float = 0.0) -> None:
        """Tell that `share` of a phase is done."""
        now = time.monotonic()
        if phase == self._phase and now < self._due:
            return
        self._phase, self._due = phase, now + BEAT_S
        self._report(
            {
                "event": "heartbeat", "phase": phase, "share": round(share, 4),
                "resident_bytes": _resident_bytes(), **self._replay,
            }
        )  # fmt: skip


def _resident_bytes() -> int:
    """Return the memory this process has; 0 where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
