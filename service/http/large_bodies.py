"""Large bodies are decoded in one thread, one after the other, while the event loop goes on.

One thread: what decoding takes beside the body itself is then taken once, not by every request. The
decoders hold the interpreter's lock within a call, so callers refuse early what would take long.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

LARGE_BYTES = 1 << 16  # the worst body of this size takes about 5 ms
T = TypeVar("T")


class LargeBodies:
    """The thread for large bodies; an asynchronous context manager that ends it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._thread.shutdown()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in the thread and return its result, or raise what it raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _without_collections, work)


def _without_collections(work: Callable[[], T]) -> T:
    """Call `work` while the garbage collector rests.

    It would search all of a large body again and again while that is decoded, which takes
    longer than decoding it, and nothing in a body refers to itself.
    """
    gc.disable()
    try:
        return work()
    finally:
        gc.enable()
