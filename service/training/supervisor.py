"""The supervisor of the trainer process: one child, one round at a time, a fair queue over bandits.

It runs on the event loop. It starts the child at the first round, so that a server whose bandits
never train has none. Orders go to the child's standard input and events come from its standard
output, a JSON object per line (`messages`). The child exits when its input closes, so it never
outlives the server. The supervisor restarts a child that dies, with backoff, and orders the round
it was in again; a child that hangs, in a round or as it starts, is ended first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Awaitable

import msgspec

from bandexa_core.ids import BanditUid
from service import BLAS_THREADS
from service.observe.counters import Metrics
from service.training.errors import BanditGone, RoundFailed, ServerEnds
from service.training.messages import (
    Configuration,
    Event,
    ForgetOrder,
    Heartbeat,
    Order,
    Published,
    RoundOrder,
    event_in,
    line_of,
)
from service.training.requests import RoundRequests, RoundSource, published_by

log = logging.getLogger(__name__)
MAX_TRIES = 3
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 30.0
STOP_TIMEOUT_S = 5.0
# The phases of the trainer; those that its heartbeats name stand between the others.
PHASES = (
    "stopped", "starting", "idle", "replay", "optimizer", "rebuild", "publish", "swap",
)  # fmt: skip


class TrainerSupervisor(RoundRequests):
    """Runs the trainer and feeds it rounds.

    Args:
        configuration: The child's configuration.
        rounds: Orders rounds and swaps their models in.
        metrics: Counts restarts and failed rounds.
        hung_s: A child that reports nothing for so long, in a round or as it starts, is ended; the
            round is ordered again from a new one.

    Attributes:
        busy_with: The bandit of the round under way, None between rounds.
        resident_bytes: Memory of the child, as of its last heartbeat.
    """

    def __init__(
        self, configuration: Configuration, rounds: RoundSource, metrics: Metrics, hung_s: float
    ) -> None:
        super().__init__(rounds, metrics)
        self._configuration = configuration
        self._hung_s = hung_s
        self._queued: asyncio.Queue[BanditUid] = asyncio.Queue()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._backoff_s = FIRST_BACKOFF_S
        self._starts = 0
        self._phase = ""
        self._beat_at: float | None = None
        self._down_since: float | None = None
        self.busy_with: BanditUid | None = None
        self.resident_bytes = 0

    # -- state --------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The child's process id; None while it is down, or was not needed yet."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    @property
    def state(self) -> str:
        """One of stopped, starting, idle, training."""
        if self._task is None or self._task.done():
            return "stopped"
        if self.pid is None and (self._starts or self.busy_with):
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
        """Number of bandits in the queue."""
        return len(self._waiting)

    @property
    def silent_s(self) -> float:
        """Seconds since the child's last heartbeat in a round; 0 between rounds."""
        return 0.0 if self._beat_at is None else time.monotonic() - self._beat_at

    @property
    def down_s(self) -> float:
        """Seconds for which a child was needed and none was ready; 0 when one is."""
        return 0.0 if self._down_since is None else time.monotonic() - self._down_since

    def is_queued(self, uid: BanditUid) -> bool:
        """Whether a round of the bandit is queued or under way."""
        return uid in self._waiting or uid == self.busy_with

    # -- for the service ----------------------------------------------------------------------

    def start(self) -> None:
        """Serve the queue."""
        self._task = asyncio.create_task(self._run(), name="trainer-supervisor")

    async def close(self) -> None:
        """End the child and fail everything queued; calling it again does nothing."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._stop()
        self._fail_all(ServerEnds())

    def _queue(self, uid: BanditUid) -> None:
        self._queued.put_nowait(uid)

    async def forget(self, uid: BanditUid) -> bool:
        """Make the child remove the files of a deleted bandit; False: there is no child."""
        self._forget(uid)
        return self.pid is not None and await self._send(ForgetOrder(uid))

    # -- the loop -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                uid = await self._next()
            except Exception:  # the top of the loop: without it no round would ever come again
                log.exception("the trainer process cannot be supervised; it is tried again")
                await asyncio.sleep(self._backoff_s)
                continue
            self.busy_with = uid
            try:
                await self._answer(uid)
            finally:
                self.busy_with = None

    async def _next(self) -> BanditUid:
        """Wait for the next bandit in the queue; restart a child that dies meanwhile."""
        if not self._starts:
            return await self._queued.get()
        while True:
            try:
                await self._ensure_started()
            except RoundFailed as error:
                log.error("%s", error)
                continue
            assert self._process is not None
            requested = asyncio.create_task(self._queued.get())
            ended = asyncio.create_task(self._process.wait())
            try:
                await asyncio.wait({requested, ended}, return_when=asyncio.FIRST_COMPLETED)
                if requested.done():
                    return requested.result()
                log.error("the trainer process ended with %s while idle", ended.result())
            finally:
                requested.cancel()
                ended.cancel()

    async def _round(self, uid: BanditUid) -> Published:
        """Run one round to its swap, starting the child again where it dies."""
        for _ in range(MAX_TRIES):
            await self._ensure_started()
            order = await self._source.order_for(uid)
            if order is None:
                raise BanditGone("the bandit was deleted")
            event = await self._work(uid, order)
            if event is None:
                continue
            published = published_by(event)
            self._phase = "swap"
            await self._source.published(uid, published)
            self._backoff_s = FIRST_BACKOFF_S
            return published
        raise RoundFailed(f"the trainer died {MAX_TRIES} times in this round")

    async def _work(self, uid: BanditUid, order: RoundOrder) -> Event | None:
        """Run a round in the child and return its event; None: it died."""
        self._phase, self._beat_at = "", time.monotonic()
        started = self._beat_at
        try:
            event = await self._alive(self._ask(order))
            while isinstance(event, Heartbeat):
                self._take_beat(uid, event)
                event = await self._alive(self._read())
        finally:
            self._beat_at = None
        if isinstance(event, Published):
            self._metrics.round_seconds.observe(time.monotonic() - started)
        return event

    async def _alive(self, event: Awaitable[Event | None]) -> Event | None:
        """Wait for the child's next event; None: it died, or hung and was ended."""
        try:
            async with asyncio.timeout(self._hung_s):
                return await event
        except TimeoutError:
            process = self._process
            assert process is not None
            log.error("the trainer process %d reported nothing for %.0f s: it is ended",
                      process.pid, self._hung_s)  # fmt: skip
            await _kill(process)
            return None

    def _take_beat(self, uid: BanditUid, beat: Heartbeat) -> None:
        self._phase, self._beat_at = beat.phase, time.monotonic()
        self.resident_bytes = beat.resident_bytes
        if beat.replay_rows is not None and beat.replay_bytes is not None:
            self.replays[uid] = beat.replay_rows, beat.replay_bytes

    # -- the child ----------------------------------------------------------------------------

    async def _ask(self, message: Order | Configuration) -> Event | None:
        """Send a message and return the next event; None: the child died."""
        if not await self._send(message):
            return None
        return await self._read()

    async def _send(self, message: msgspec.Struct) -> bool:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(line_of(message))
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def _read(self) -> Event | None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            code = await process.wait()
            log.error("the trainer process %d ended with %d", process.pid, code)
            return None
        return event_in(line)

    async def _ensure_started(self) -> None:
        """Start the child where it is down.

        Raises:
            RoundFailed: It did not start several times over; everything queued fails with it.
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
                    sys.executable, "-P", "-m", "service.training.worker",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20,
                    env=_environment(self._configuration),
                )  # fmt: skip
            except OSError as error:
                log.error("the trainer process cannot be started: %s", error)
                continue
            if await self._alive(self._ask(self._configuration)) is not None:
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
            await _kill(process)

    def _fail_all(self, error: RoundFailed) -> None:
        while not self._queued.empty():
            self._queued.get_nowait()
        self._reject_all(error)


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended just now
        process.kill()
    await process.wait()


def _environment(configuration: Configuration) -> dict[str, str]:
    """Return the child's environment: it imports from where this process does.

    `-P` leaves the current folder out of its path, which may hold another package `service`.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {BLAS_THREADS: str(configuration.threads), "PYTHONPATH": path}
