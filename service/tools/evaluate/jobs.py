"""The evaluations of a server: a queue of jobs, each run in a process of its own, one at a time.

It runs on the event loop. Each evaluation is a file in the data directory, written when its state
changes, so that a start knows what the server before it was doing: what had not ended then is
`interrupted`, and says so. Files are derived: without them only results are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from bandexa_core.ids import BanditUid
from service.settings import Settings
from service.store.errors import Unavailable
from service.tools.evaluate.request import Request
from service.tools.evaluate.worker import Job, Outcome
from service.tools.job_process import JobProcess, NoOutcome, job_process

log = logging.getLogger(__name__)
MAX_WAITING = 8  # that have not begun
MAX_KEPT = 100  # of a bandit; the oldest that have ended go
LIMIT_S = 3600.0  # for one
MAX_RESULT = 64 << 20  # bytes
FOLDER = "evaluations"
State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
OPEN: tuple[State, ...] = ("queued", "running")


class Record(msgspec.Struct, kw_only=True):
    """An evaluation.

    Attributes:
        id: Its id.
        bandit, uid: Of which bandit.
        state: What has become of it.
        requested_at, started_at, ended_at: Seconds since the epoch.
        request: What is asked.
        result: The evaluation as JSON, once it is done.
        error: Why there is none.
    """

    id: str
    bandit: str
    uid: str
    state: State
    requested_at: float
    request: Request
    started_at: float | None = None
    ended_at: float | None = None
    result: dict[str, Any] | None = None
    error: str | None = None


class Evaluations:
    """Runs evaluations.

    Args:
        settings: Where they are stored, and how processes run.
        live: Returns the uids of the bandits that there are.
    """

    def __init__(self, settings: Settings, live: Callable[[], Collection[str]]) -> None:
        self._settings = settings
        self._live = live
        self._folder = settings.data_dir / FOLDER
        self._known: dict[str, Record] = {}  # without results, by id, oldest first
        self._ended: dict[str, asyncio.Event] = {}
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._process: JobProcess | None = None
        self._running: str | None = None
        self._ending = asyncio.Lock()

    # -- for routes -----------------------------------------------------------------------------

    def of(self, uid: BanditUid) -> list[Record]:
        """Return the evaluations of a bandit, newest first, without results."""
        return [each for each in reversed(self._known.values()) if each.uid == uid]

    def find(self, uid: BanditUid, name: str) -> Record | None:
        """Return one without its result; None: there is none."""
        found = self._known.get(name)
        return found if found is not None and found.uid == uid else None

    async def whole(self, record: Record) -> Record:
        """Return one with its result, if it is done."""
        if record.state != "done":
            return record
        return await asyncio.to_thread(_read, self._file(record))

    async def ended(self, record: Record) -> None:
        """Return once it has ended."""
        if (event := self._ended.get(record.id)) is not None:
            await event.wait()

    async def add(self, bandit: str, uid: BanditUid, request: Request) -> Record:
        """Queue an evaluation.

        Raises:
            Unavailable: Too many wait.
        """
        waiting = sum(each.state == "queued" for each in self._known.values())
        if waiting >= MAX_WAITING:  # a cancelled one is in the queue, and waits for nothing
            raise Unavailable(f"{MAX_WAITING} evaluations wait already", retry_after_s=60)
        now = time.time()
        name = f"{int(now * 1000):012x}{os.urandom(4).hex()}"
        record = Record(
            id=name, bandit=bandit, uid=uid, state="queued", requested_at=now, request=request
        )
        self._known[name], self._ended[name] = record, asyncio.Event()
        await self._store(record)
        self._queue.put_nowait(name)
        await self._prune(uid)
        return record

    async def cancel(self, record: Record) -> None:
        """End one that has not ended; remove one that has."""
        if record.state not in OPEN:
            self._known.pop(record.id, None)
            await asyncio.to_thread(self._file(record).unlink, missing_ok=True)
            return
        await self._end(record, "cancelled")
        if self._running == record.id and self._process is not None:
            self._process.kill()

    # -- the queue ------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Evaluations]:
        """Run what is queued, until the exit; what runs then is interrupted."""
        await asyncio.to_thread(self._load)
        task = asyncio.create_task(self._run(), name="evaluations")
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            for record in [each for each in self._known.values() if each.state in OPEN]:
                await self._end(record, "interrupted", error="the server ended")

    async def _run(self) -> None:
        while True:
            record = self._known.get(await self._queue.get())
            if record is None or record.state != "queued":  # it was cancelled
                continue
            try:
                await self._evaluate(record)
            except Exception as error:  # the top of the loop: the next one is to run
                log.exception("evaluation %s failed", record.id)
                await self._end(record, "failed", error=f"{type(error).__name__}: {error}")

    async def _evaluate(self, record: Record) -> None:
        async with self._ending:
            if record.state != "queued":  # cancelled just now
                return
            record.state, record.started_at = "running", time.time()
            await self._store(record)
        self._running = record.id
        try:
            outcome = await self._work(record)
        finally:
            self._process, self._running = None, None
        if outcome.error is not None:
            await self._end(record, "failed", error=outcome.error)
        else:
            await self._end(record, "done", result=outcome.result)

    async def _work(self, record: Record) -> Outcome:
        job = Job.of(self._settings, record.bandit, request=record.request)
        async with job_process(
            "service.tools.evaluate.worker", limit_s=LIMIT_S, max_bytes=MAX_RESULT
        ) as self._process:
            if record.id not in self._ended:
                return Outcome(error="it was cancelled")
            try:
                return await self._process.outcome(job, Outcome)
            except NoOutcome as error:
                return Outcome(error=str(error))

    async def _end(
        self, record: Record, state: State, *, result: Any = None, error: str | None = None
    ) -> None:
        """Note that one has ended, unless it had; its file is written before anybody sees it."""
        async with self._ending:
            if record.state not in OPEN:
                return
            ended = msgspec.structs.replace(
                record, state=state, ended_at=time.time(), result=result, error=error
            )
            problem = await self._store(ended)
            if problem is not None and result is not None:
                ended.state, ended.error = "failed", f"its result cannot be stored: {problem}"
            record.state, record.ended_at, record.error = ended.state, ended.ended_at, ended.error
        if (event := self._ended.pop(record.id, None)) is not None:
            event.set()

    # -- files ----------------------------------------------------------------------------------

    def _file(self, record: Record) -> Path:
        return self._folder / record.uid / f"{record.id}.json"

    async def _store(self, record: Record) -> OSError | None:
        """Write one; returns why it could not be."""
        try:
            await asyncio.to_thread(_write, self._file(record), msgspec.json.encode(record))
        except OSError as error:  # it goes on: only the next start would know nothing of it
            log.warning("evaluation %s cannot be stored: %s", record.id, error)
            return error
        return None

    def _load(self) -> None:
        """Read what there is; what had not ended is interrupted. Others' files are removed."""
        live = set(self._live())
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if folder.name not in live:
                shutil.rmtree(folder, ignore_errors=True)
        for file in sorted(self._folder.glob("*/*.json"), key=lambda each: each.name):
            try:
                record = _read(file)
            except (OSError, msgspec.DecodeError) as error:
                log.warning("%s is no evaluation: %s", file, error)
                continue
            record.result = None
            if record.state in OPEN:
                record.state, record.ended_at = "interrupted", time.time()
                record.error = "the server ended"
                with contextlib.suppress(OSError):  # the next start says the same
                    _write(file, msgspec.json.encode(record))
            self._known[record.id] = record

    async def _prune(self, uid: BanditUid) -> None:
        """Remove the oldest ones of a bandit beyond `MAX_KEPT`, and those of deleted bandits."""
        ended = [each for each in self._known.values() if each.state not in OPEN]
        live = self._live()
        own = [each for each in ended if each.uid == uid]
        old = own[: max(0, len(own) - MAX_KEPT)]
        for record in [*old, *(each for each in ended if each.uid not in live)]:
            await self.cancel(record)


def _read(file: Path) -> Record:
    return msgspec.json.decode(file.read_bytes(), type=Record)


def _write(file: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(data)
    part.replace(file)
