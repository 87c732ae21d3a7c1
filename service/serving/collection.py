"""Exempt imported modules from garbage collection.

A full collection visits every object; of the several hundred thousand that libraries bring along
none ever becomes garbage, and no request is answered meanwhile (60 ms with torchvision). Building
models triggers such collections.
"""

from __future__ import annotations

import gc
import sys


class ImportedModules:
    """Remembers how many modules were imported at the last freeze."""

    def __init__(self) -> None:
        self._num_modules = 0

    def freeze(self) -> None:
        """Exempt everything alive from collections, if modules were imported since the last call.

        Objects are still freed when nothing refers to them; only cycles among them stay. The old
        ones are not collected first, which would itself be such a stop (70 ms once torch is here).
        """
        if len(sys.modules) != self._num_modules:
            gc.collect(1)
            gc.freeze()
            self._num_modules = len(sys.modules)
