"""Keeps what was imported out of the garbage collector's way.

A full collection looks through every object there is; of some hundred thousand that libraries bring
along, none ever becomes garbage, and no request is answered meanwhile (60 ms with torchvision).
Building models sets such collections off.
"""

from __future__ import annotations

import gc
import sys


class Imported:
    """Remembers how much was imported when it was last set aside."""

    def __init__(self) -> None:
        self._num_modules = 0

    def set_aside(self) -> None:
        """Exempt all that is alive from collections, if anything was imported since last time.

        Objects are freed as ever when nothing refers to them; only cycles among them stay.
        """
        if len(sys.modules) != self._num_modules:
            gc.collect()
            gc.freeze()
            self._num_modules = len(sys.modules)
