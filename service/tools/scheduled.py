"""Scheduled backups: when one is due, a process of low priority copies the data directory.

Runs on the event loop of a server. A backup is a folder below `backup.folder`, named after the time
at which it was begun; it gets that name when it is complete. What is there says when the last one
was made, so a restart changes nothing, and one that was missed is made after the next start. Old
ones are removed once a newer one is complete, and only those of this data directory; a failure
removes nothing. What is named after a time to come says nothing of when the next one is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bandexa_core.filesystem import LocalFileSystem
from service.observe.backups import BackupStanding
from service.observe.counters import Metrics
from service.settings import BackupSetting, Settings
from service.tools.backup import MARKER
from service.tools.stored_backups import NAME, NAMED, Found, backups_of, newest_time, num_bytes

log = logging.getLogger(__name__)
CHECKED_S = 30.0
RETRY_S = 900.0
DAY_S = 86400.0
MAX_TOLD = 1 << 20
LAST_LINES = 3  # of a failed command that its error has


def due_at(setting: BackupSetting, last_good: float | None, now: float) -> float:
    """Return when the next backup is due, seconds since the epoch; perhaps in the past.

    Args:
        setting: The schedule.
        last_good: When the newest complete one was begun; None: there is none.
        now: The time.
    """
    if setting.at is None:
        assert setting.every_h is not None, "the settings have one of the two"
        return now if last_good is None else last_good + setting.every_h * 3600.0
    hours, minutes = map(int, setting.at.split(":"))
    day = datetime.fromtimestamp(now, UTC)
    last = day.replace(hour=hours, minute=minutes, second=0, microsecond=0)
    if last > day:
        last -= timedelta(days=1)
    if last_good is None or last_good < last.timestamp():
        return last.timestamp()
    return last.timestamp() + DAY_S


class ScheduledBackups:
    """Makes the backups of a server.

    Args:
        settings: Of the server; without `backup.folder` nothing is done.
        metrics: Gets how they stand.
        store: The name of the server's store.
        now: The wall clock.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        store: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._setting = settings.backup
        self._metrics = metrics
        self._now = now
        self._source = str(settings.data_dir.resolve())
        self._store = store
        own = hashlib.sha256(f"{self._source} {store}".encode()).hexdigest()[:16]
        self._unfinished = f".{NAME}{own}-"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make a backup whenever one is due, until the exit; one under way is given up then."""
        setting = self._setting
        if setting.folder is None:
            yield
            return
        between_s = DAY_S if setting.every_h is None else setting.every_h * 3600.0
        standing = BackupStanding(str(setting.folder), between_s, self._now())
        self._metrics.backups = standing
        task = asyncio.create_task(self._run(setting.folder, standing), name="backups")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, folder: Path, standing: BackupStanding) -> None:
        retry_s = min(RETRY_S, standing.between_s)
        while True:
            try:
                standing.last_good = await asyncio.to_thread(self._last_good, folder)
            except OSError as error:
                self._failed(standing, f"{folder} cannot be read: {error}")
                await asyncio.sleep(retry_s)
                continue
            wait_s = due_at(self._setting, standing.last_good, self._now()) - self._now()
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, CHECKED_S))  # the clock may be set meanwhile
            elif not await self._make(folder, standing):
                await asyncio.sleep(retry_s)

    async def _make(self, folder: Path, standing: BackupStanding) -> bool:
        """Make a backup; returns whether it is complete."""
        begun = self._now()
        # Another folder each time: the command of a server that was killed may still write in one.
        unfinished = folder / f"{self._unfinished}{secrets.token_hex(4)}"
        log.info("a backup is made in %s", folder)
        started = time.monotonic()
        try:
            await asyncio.to_thread(_prepare, folder, self._unfinished)
            error = await self._command("backup", self._source, str(unfinished))
            if error is None and self._setting.verify:
                error = await self._command("verify", str(unfinished))
            if error is None:
                dest = await asyncio.to_thread(give_name, unfinished, folder, begun)
        except OSError as failure:
            error = str(failure)
        except Exception as failure:  # the top of an attempt: the next one must come all the same
            log.exception("the backup failed")
            error = f"{type(failure).__name__}: {failure}"
        if error is not None:
            self._failed(standing, error)
            return False
        standing.last_good, standing.error = begun, None
        standing.seconds = time.monotonic() - started
        standing.made += 1
        try:
            standing.bytes = await asyncio.to_thread(num_bytes, dest)
            removed = await asyncio.to_thread(self._remove_old, folder)
        except OSError as failure:
            log.warning("old backups in %s cannot be removed: %s", folder, failure)
            return True
        log.info(
            "the backup in %s is complete: %d bytes in %.1f s; %d older ones were removed",
            dest, standing.bytes, standing.seconds, removed,
        )  # fmt: skip
        return True

    async def _command(self, name: str, *arguments: str) -> str | None:
        """Run a command of `bandexa`; returns why it failed, None where it did not."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "service.cli", name, *arguments, "--quiet",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, limit=MAX_TOLD, env=self._environment(),
        )  # fmt: skip
        try:
            with contextlib.suppress(OSError):  # it has ended already
                niceness = self._settings.trainer_niceness
                os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == 0:
            return None
        lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
        return f"bandexa {name}: status {process.returncode}: {'; '.join(lines[-LAST_LINES:])}"

    def _failed(self, standing: BackupStanding, error: str) -> None:
        standing.error = error
        standing.failed += 1
        log.error("the backup failed: %s", error)

    def _mine(self, folder: Path) -> list[Found]:
        """Return the backups of this data directory, the oldest first."""
        return backups_of(self._settings.data_dir, self._store, folder, self._now())

    def _last_good(self, folder: Path) -> float | None:
        return newest_time(self._mine(folder), self._now())

    def _remove_old(self, folder: Path) -> int:
        """Remove all but the newest backups of this data directory, and return how many.

        Those that somebody made by hand under another name stay.
        """
        mine = [each for each in self._mine(folder) if each.begun is not None]
        old = mine[: -self._setting.keep]
        for each in old:
            (each.path / MARKER).unlink()  # without it, it is none, should the rest not be done
            shutil.rmtree(each.path)
        return len(old)

    def _environment(self) -> dict[str, str]:
        """Return the environment of a command: of the settings it needs own encoders alone."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("BANDEXA_")}
        weights = {name: str(path) for name, path in self._settings.weights.items()}
        return kept | {
            "BANDEXA_ENCODERS": json.dumps(self._settings.encoders),
            "BANDEXA_WEIGHTS": json.dumps(weights),
        }


def _prepare(folder: Path, unfinished: str) -> None:
    """Make room for a backup: what a server that was killed left of the one before goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{unfinished}*"):
        shutil.rmtree(path, ignore_errors=True)  # its command may still write in it


def give_name(unfinished: Path, folder: Path, begun: float) -> Path:
    """Give a complete backup its name, and return its folder.

    Where another server began one in the same second, it is the next second that is free.
    """
    while True:
        dest = folder / datetime.fromtimestamp(begun, UTC).strftime(NAMED)
        try:
            unfinished.rename(dest)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            begun += 1.0
            continue
        LocalFileSystem().sync_dir(folder)
        return dest
