"""When the garbage collector looks at what: full collections stop the event loop.

A full collection visits every object; of the several hundred thousand that libraries bring along
none ever becomes garbage, and no request is answered meanwhile (60 ms with torchvision). Building
models triggers such collections, so imported modules are exempt. What is left, bandits and the
requests under way, takes some milliseconds, so that waits for a moment without requests.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LOOK_EVERY_S = 1.0
WORTH = 50  # collections of the younger objects since the last full one
AT_LATEST_S = 60.0
IDLE_S = 0.0005  # in which the loop comes around as often as this:
IDLE_TURNS = 3
NEVER = 1 << 30
MIDDLE = 4  # collections of new objects before one of those that survived one: some 3,000 objects
GROWN = 1.25


class LastingObjects:
    """Remembers how many modules and bandits there were at the last freeze."""

    def __init__(self) -> None:
        self._num_modules = 0
        self._num_bandits = 0

    def freeze(self, num_bandits: int) -> None:
        """Exempt everything alive from collections, if there are more modules or many more bandits.

        Objects are still freed when nothing refers to them; only cycles among them stay. So that
        these do not add up where bandits come and go, it takes a quarter more of them than ever.
        The old ones are not collected first, which would itself be such a stop (70 ms once torch is
        here).
        """
        grown = num_bandits >= GROWN * self._num_bandits
        if len(sys.modules) != self._num_modules or grown:
            gc.collect(1)
            gc.freeze()
            self._num_modules = len(sys.modules)
            self._num_bandits = max(num_bandits, self._num_bandits)


@asynccontextmanager
async def collecting_when_idle() -> AsyncIterator[None]:
    """Let full collections wait until the event loop has nothing to do, for a minute at most.

    Hardly anything needs them: a request leaves no cycles behind. Younger objects are collected at
    once, in smaller portions than usual.
    """
    before = gc.get_threshold()
    gc.set_threshold(before[0], MIDDLE, NEVER)
    looking = asyncio.create_task(_collect_when_idle())
    try:
        yield
    finally:
        looking.cancel()
        gc.set_threshold(*before)


async def _collect_when_idle() -> None:
    collected = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if gc.get_count()[2] < WORTH:
            continue
        if await _is_idle() or time.monotonic() - collected > AT_LATEST_S:
            gc.collect()
            collected = time.monotonic()


async def _is_idle() -> bool:
    """Whether the loop has nothing else to do: it comes around at once."""
    started = time.perf_counter()
    for _ in range(IDLE_TURNS):
        await asyncio.sleep(0)
    return time.perf_counter() - started < IDLE_S
