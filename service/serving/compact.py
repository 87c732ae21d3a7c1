"""Return free pages of the database to the file system, a few at a time, while serving."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from service.serving.engine import Engine
from service.store.placing import store_of

PAGES_AT_ONCE = 16  # each may be moved: rewards wait no longer than for that
WAL_TRIES_S = 10.0
WAL_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction has done: the bytes of the database file before and after it.

    `is_done` is false where a reader held an older state of the database for so long that the file
    could not be cut off; it is then cut off later.
    """

    bytes_before: int
    bytes_after: int
    is_done: bool


async def compact(engine: Engine) -> Compacted:
    """Return all free pages of the database to the file system.

    Raises:
        Conflict: The database was made by an earlier release, and cannot shrink while it is served.
        Unavailable, StoreError: The store takes no writes.
    """
    store = engine.store
    file = store_of(engine.settings.data_dir, engine.settings.store)
    if not isinstance(file, Path):
        await engine.commit(store.shrink, PAGES_AT_ONCE)  # it says who returns free space there
        raise AssertionError("a database does not shrink by its server")
    before = file.stat().st_size
    left = await engine.commit(store.shrink, PAGES_AT_ONCE)
    fewest = left + 1
    while 0 < left < fewest:  # other transactions may free pages faster: that is for the next call
        fewest = left
        left = await engine.commit(store.shrink, PAGES_AT_ONCE)
    is_done, deadline = False, time.monotonic() + WAL_TRIES_S
    while not is_done and time.monotonic() < deadline:
        is_done = await engine.commit(store.empty_wal)
        if not is_done:
            await asyncio.sleep(WAL_PAUSE_S)
    return Compacted(before, file.stat().st_size, is_done)
