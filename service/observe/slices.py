"""Long work on the event loop in slices, between which requests are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")
SLICE_S = 0.002


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items, and let the event loop go on whenever a slice of time is used up.

    What is done with one item belongs together; between items anything may change.
    """
    begun = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - begun > SLICE_S:
            await asyncio.sleep(0)
            begun = time.perf_counter()
