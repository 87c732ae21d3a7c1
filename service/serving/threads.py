"""Work on a thread of its own: for what may wait for a network or a slow disk for minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


async def in_own_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run `work` off the event loop; nothing else waits for the thread."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=work.__name__)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)
    finally:
        executor.shutdown(wait=False)
