"""Reads the file of API keys anew when it changes, and on SIGHUP, while the server serves.

A file that cannot be read, or is wrong, changes nothing: the keys that were read last stay good.
Runs on the event loop; the file is read on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from service.http.keys import Keys, load_keys
from service.settings import Settings

log = logging.getLogger(__name__)
CHECKED_S = 1.0


@contextlib.asynccontextmanager
async def keys_read_anew(keys: Keys, settings: Settings) -> AsyncIterator[None]:
    """Follow the file of keys until the exit; SIGHUP reads it at once, and ends nothing.

    Without such a file SIGHUP ends the server, as the end of its terminal should.
    """
    path = settings.keys_file
    if path is None:
        yield
        return
    asked = asyncio.Event()
    with contextlib.suppress(ValueError, RuntimeError):  # not the main thread
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    task = asyncio.create_task(_follow(keys, settings, path, asked), name="keys")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _follow(keys: Keys, settings: Settings, path: Path, asked: asyncio.Event) -> None:
    asked.set()  # the file may have changed since the start read it
    seen = None
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), CHECKED_S)
        version = await asyncio.to_thread(_version, path)
        if version == seen and not asked.is_set():
            continue
        asked.clear()
        seen = version
        if version is None:
            log.error("the API keys stay as they are: %s is no file that can be read", path)
            continue
        try:
            read = await asyncio.to_thread(load_keys, settings.keys, path)
        except ValueError as error:
            log.error("the API keys stay as they are: %s", error)
            continue
        except Exception:  # the top of the task: whatever it is, later changes must still count
            log.exception("the API keys stay as they are")
            continue
        keys.replace(read)
        log.info("the API keys were read anew; their holders: %s", ", ".join(keys.names))
        for line in keys.ending(datetime.now(UTC)):
            log.warning(line)


def _version(path: Path) -> tuple[int, int, int, int] | None:
    """Return what differs when a file has changed; None: it is no file that can be read again."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
