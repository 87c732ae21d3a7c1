"""Reports how far a verification is."""

from __future__ import annotations

import sys
import time

_REPORT_EVERY_S = 2.0


class Progress:
    """Reports progress on standard error every few seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._next = time.monotonic() + _REPORT_EVERY_S

    def __call__(self, text: str) -> None:
        """Print a report, unless one was printed a moment ago."""
        now = time.monotonic()
        if not self._quiet and now >= self._next:
            self._next = now + _REPORT_EVERY_S
            print(f"bandexa verify: {text}", file=sys.stderr, flush=True)
