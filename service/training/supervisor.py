"""Runs the trainer process: one child, one round at a time, a fair queue over bandits.

Lives on the event loop. The child is asked over its standard input and answers over its standard
output, a JSON object per line; when its input closes, it exits, so it never outlives the server.
A child that dies is started again with backoff, and the round it was in is asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from bandexa_core.ids import BanditUid
from service import BLAS_THREADS
from service.observe.counters import Metrics
from service.training.errors import BanditGone, RoundFailed

log = logging.getLogger(__name__)
MAX_TRIES = 3
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 30.0
STOP_TIMEOUT_S = 5.0
# What the trainer is doing: a child's own words (see `heartbeat`) stand between the others.
PHASES = (
    "stopped", "starting", "idle", "replay", "optimizer", "rebuild", "publish", "swap",
)  # fmt: skip


class Rounds(Protocol):
    """What the supervisor asks of the engine."""

    async def order(self, uid: BanditUid) -> dict[str, Any] | None:
        """Fix what the next round of a bandit covers; None: the bandit is gone."""

    async def published(self, uid: BanditUid, event: dict[str, Any]) -> None:
        """Swap in what the round published."""

    def failed(self, uid: BanditUid, error: str, seconds: float) -> None:
        """Hear of a round that came to nothing."""


@dataclass(slots=True)
class _Waiting:
    futures: list[asyncio.Future[dict[str, Any]]] = field(default_factory=list)


class TrainerSupervisor:
    """Keeps the trainer alive and feeds it rounds.

    Args:
        configuration: The child's configuration, JSON-able.
        metrics: Counts restarts and failed rounds.
    """

    def __init__(self, configuration: dict[str, Any], metrics: Metrics) -> None:
        self._configuration = configuration
        self._metrics = metrics
        self._queue: asyncio.Queue[BanditUid] = asyncio.Queue()
        self._waiting: dict[BanditUid, _Waiting] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._backoff_s = FIRST_BACKOFF_S
        self._starts = 0
        self._phase = ""
        self._beat_at: float | None = None
        self._down_since: float | None = None
        self.busy_with: BanditUid | None = None
        self.rounds = 0
        self.resident_bytes = 0
        self.replays: dict[BanditUid, tuple[int, int]] = {}
        self.failures: dict[BanditUid, tuple[int, str]] = {}

    @property
    def pid(self) -> int | None:
        """The child's process id, None while it is down."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    @property
    def state(self) -> str:
        """One of stopped, starting, idle, training."""
        if self._task is None or self._task.done():
            return "stopped"
        if self.pid is None:
            return "starting"
        return "training" if self.busy_with else "idle"

    @property
    def phase(self) -> str:
        """One of `PHASES`."""
        state = self.state
        if state == "idle" and self._down_since is not None:
            return "starting"
        return self._phase or "replay" if state == "training" else state

    @property
    def waiting(self) -> int:
        """How many bandits wait for their round."""
        return len(self._waiting)

    @property
    def silent_s(self) -> float:
        """For how long the child has told nothing while it had a round to do; 0 between rounds."""
        return 0.0 if self._beat_at is None else time.monotonic() - self._beat_at

    @property
    def down_s(self) -> float:
        """For how long there has been no child that is ready; 0: there is one."""
        return 0.0 if self._down_since is None else time.monotonic() - self._down_since

    def start(self, rounds: Rounds) -> None:
        """Start the child and serve the queue."""
        self._down_since = time.monotonic()
        self._task = asyncio.create_task(self._run(rounds), name="trainer-supervisor")

    async def close(self) -> None:
        """End the child and fail what waits; calling it again does nothing."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._stop()
        self._fail_all(RoundFailed("the server is shutting down"))

    def request(self, uid: BanditUid) -> asyncio.Future[dict[str, Any]]:
        """Ask for a round; requests for a bandit that is queued already share its round."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        waiting = self._waiting.get(uid)
        if waiting is None:
            waiting = self._waiting[uid] = _Waiting()
            self._queue.put_nowait(uid)
        waiting.futures.append(future)
        return future

    def is_queued(self, uid: BanditUid) -> bool:
        """Whether a round of the bandit is waiting or under way."""
        return uid in self._waiting or uid == self.busy_with

    # -- the loop -----------------------------------------------------------------------------

    async def _run(self, rounds: Rounds) -> None:
        while True:
            uid = await self._next()
            waiting = self._waiting.pop(uid)
            self.busy_with = uid
            started = time.monotonic()
            try:
                result = await self._round(uid, rounds)
            except BanditGone as error:
                _reject(waiting, error)
            except RoundFailed as error:
                log.error("training round of %s failed: %s", uid, error)
                self._failed(uid, error)
                rounds.failed(uid, str(error), time.monotonic() - started)
                _reject(waiting, error)
            except Exception as error:  # the top of the loop: one round must not end all others
                log.exception("training round of %s failed", uid)
                failure = RoundFailed(f"{type(error).__name__}: {error}")
                self._failed(uid, failure)
                rounds.failed(uid, str(failure), time.monotonic() - started)
                _reject(waiting, failure)
            else:
                self.rounds += 1
                self._metrics.rounds.inc()
                self.failures.pop(uid, None)
                _resolve(waiting, result)
            finally:
                self.busy_with = None
                if not all(future.done() for future in waiting.futures):
                    _reject(waiting, RoundFailed("the server is shutting down"))

    def _failed(self, uid: BanditUid, error: RoundFailed) -> None:
        self._metrics.rounds_failed.inc()
        before, _ = self.failures.get(uid, (0, ""))
        self.failures[uid] = before + 1, str(error)

    async def _next(self) -> BanditUid:
        """Wait for the next bandit in the queue; a child that dies meanwhile is started again."""
        while True:
            try:
                await self._ensure_started()
            except RoundFailed as error:
                log.error("%s", error)
                continue
            assert self._process is not None
            asked = asyncio.create_task(self._queue.get())
            ended = asyncio.create_task(self._process.wait())
            try:
                await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    return asked.result()
                log.error("the trainer process ended with %s while idle", ended.result())
            finally:
                asked.cancel()
                ended.cancel()

    async def _round(self, uid: BanditUid, rounds: Rounds) -> dict[str, Any]:
        """Run one round to its swap, starting the child again where it dies."""
        for _ in range(MAX_TRIES):
            await self._ensure_started()
            order = await rounds.order(uid)
            if order is None:
                raise BanditGone("the bandit was deleted")
            event = await self._work(uid, {"do": "round", **order})
            if event is None:
                continue
            if event["event"] == "gone":
                raise BanditGone("the bandit was deleted")
            if event["event"] == "failed":
                raise RoundFailed(event["error"])
            self._phase = "swap"
            await rounds.published(uid, event)
            self._backoff_s = FIRST_BACKOFF_S
            return event
        raise RoundFailed(f"the trainer died {MAX_TRIES} times in this round")

    async def _work(self, uid: BanditUid, order: dict[str, Any]) -> dict[str, Any] | None:
        """Have the child do a round and return its event; None: it died."""
        self._phase, self._beat_at = "", time.monotonic()
        started = self._beat_at
        try:
            event = await self._ask(order)
            while event is not None and event["event"] == "heartbeat":
                self._hear(uid, event)
                event = await self._read()
        finally:
            self._beat_at = None
        if event is not None and event["event"] == "published":
            self._metrics.round_seconds.observe(time.monotonic() - started)
        return event

    def _hear(self, uid: BanditUid, beat: dict[str, Any]) -> None:
        self._phase, self._beat_at = beat["phase"], time.monotonic()
        self.resident_bytes = beat["resident_bytes"]
        if "replay_rows" in beat:
            self.replays[uid] = beat["replay_rows"], beat["replay_bytes"]

    async def forget(self, uid: BanditUid) -> None:
        """Have the child close what it holds of a deleted bandit."""
        self.replays.pop(uid, None)
        self.failures.pop(uid, None)
        if self.pid is not None:
            await self._send({"do": "forget", "uid": uid})

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Send a message and return its answer; None: the child died."""
        if not await self._send(message):
            return None
        return await self._read()

    async def _send(self, message: dict[str, Any]) -> bool:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def _read(self) -> dict[str, Any] | None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            code = await process.wait()
            log.error("the trainer process %d ended with %d", process.pid, code)
            return None
        event: dict[str, Any] = json.loads(line)
        return event

    async def _ensure_started(self) -> None:
        """Start the child where it is down.

        Raises:
            RoundFailed: It did not start several times over; told to all who wait.
        """
        for _ in range(MAX_TRIES):
            if self.pid is not None:
                return
            if self._down_since is None:
                self._down_since = time.monotonic()
            if self._starts:
                self._metrics.trainer_restarts.inc()
                await asyncio.sleep(self._backoff_s)
                self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
            self._starts += 1
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "service.training.worker",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20,
                    env=os.environ | {BLAS_THREADS: str(self._configuration.get("threads", 1))},
                )  # fmt: skip
            except OSError as error:
                log.error("the trainer process cannot be started: %s", error)
                continue
            if await self._ask(self._configuration) is not None:
                self._down_since = None
                return
        failure = RoundFailed("the trainer process does not start; see the log")
        self._fail_all(failure)
        raise failure

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _fail_all(self, error: RoundFailed) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()
        for waiting in self._waiting.values():
            _reject(waiting, error)
        self._waiting.clear()


def _retrieve(future: asyncio.Future[dict[str, Any]]) -> None:
    """Mark the outcome as seen: background rounds have nobody waiting, failures are logged."""
    if not future.cancelled():
        future.exception()


def _resolve(waiting: _Waiting, result: dict[str, Any]) -> None:
    for future in waiting.futures:
        if not future.done():
            future.set_result(result)


def _reject(waiting: _Waiting, error: RoundFailed) -> None:
    for future in waiting.futures:
        if not future.done():
            future.set_exception(error)
