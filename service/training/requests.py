"""Requests for rounds: who waits for which bandit's, and how the last ones ended.

What trains, the child of this server or trainers elsewhere, builds on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from typing import Protocol

from bandexa_core.ids import BanditUid
from service.observe.counters import Metrics
from service.training.errors import BanditGone, RoundDropped, RoundFailed, ServerEnds
from service.training.messages import Event, Failed, Gone, Published, RoundOrder

log = logging.getLogger(__name__)


class RoundSource(Protocol):
    """What training requires of the service."""

    async def order_for(self, uid: BanditUid) -> RoundOrder | None:
        """Fix what the next round of a bandit covers; None: the bandit was deleted."""

    async def published(self, uid: BanditUid, event: Published) -> None:
        """Swap in what the round published."""

    def failed(self, uid: BanditUid, error: str, seconds: float) -> None:
        """Record a round that failed."""


class RoundRequests(ABC):
    """Rounds that are asked for; runs on the event loop.

    Args:
        source: Orders rounds and swaps their models in.
        metrics: Counts completed and failed rounds.

    Attributes:
        rounds: Completed rounds.
        replays: (rows, bytes) of the last replay of each bandit.
        failures: (rounds that failed in a row, the last error) of each bandit.
    """

    def __init__(self, source: RoundSource, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics
        self._waiting: dict[BanditUid, list[asyncio.Future[Published]]] = {}
        self._closed = False
        self.rounds = 0
        self.replays: dict[BanditUid, tuple[int, int]] = {}
        self.failures: dict[BanditUid, tuple[int, str]] = {}

    def request(self, uid: BanditUid) -> asyncio.Future[Published]:
        """Queue a round; requests for a bandit that is queued already share its round."""
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        if self._closed:
            future.set_exception(ServerEnds())
            return future
        is_new = uid not in self._waiting
        self._waiting.setdefault(uid, []).append(future)
        if is_new:
            self._queue(uid)
        return future

    @abstractmethod
    def _queue(self, uid: BanditUid) -> None:
        """Have `_answer` called for a bandit; it may be in a round."""

    @abstractmethod
    async def _round(self, uid: BanditUid) -> Published:
        """Run a round to its swap.

        Raises:
            RoundFailed: It failed, or is not needed any longer.
        """

    async def _answer(self, uid: BanditUid) -> None:
        """Run a round of a bandit, and answer all who wait for it."""
        waiting = self._waiting.pop(uid)
        started = time.monotonic()
        try:
            result = await self._round(uid)
        except BanditGone as error:
            _reject(waiting, error)
        except RoundDropped as error:
            log.info("the training round of %s is not served: %s", uid, error)
            _reject(waiting, error)
        except RoundFailed as error:
            log.error("training round of %s failed: %s", uid, error)
            self._failed(uid, error, started)
            _reject(waiting, error)
        except Exception as error:  # the top of a loop: one round must not end all others
            log.exception("training round of %s failed", uid)
            failure = RoundFailed(f"{type(error).__name__}: {error}")
            self._failed(uid, failure, started)
            _reject(waiting, failure)
        else:
            self.rounds += 1
            self._metrics.rounds.inc()
            self.failures.pop(uid, None)
            for future in waiting:
                if not future.done():
                    future.set_result(result)
        finally:
            _reject(waiting, ServerEnds())  # where the loop was cancelled

    def _failed(self, uid: BanditUid, error: RoundFailed, started: float) -> None:
        self._metrics.rounds_failed.inc()
        before, _ = self.failures.get(uid, (0, ""))
        self.failures[uid] = before + 1, str(error)
        self._source.failed(uid, str(error), time.monotonic() - started)

    def _reject_all(self, error: RoundFailed) -> None:
        for waiting in self._waiting.values():
            _reject(waiting, error)
        self._waiting.clear()

    def _forget(self, uid: BanditUid) -> None:
        self.replays.pop(uid, None)
        self.failures.pop(uid, None)


def published_by(event: Event) -> Published:
    """Return the last event of a round where it published a snapshot.

    Raises:
        RoundFailed: It did not.
    """
    if isinstance(event, Gone):
        raise BanditGone("the bandit was deleted")
    if isinstance(event, Failed):
        raise RoundFailed(event.error)
    assert isinstance(event, Published), event
    return event


def _retrieve(future: asyncio.Future[Published]) -> None:
    """Mark the outcome as retrieved: nobody awaits background rounds, and failures are logged."""
    if not future.cancelled():
        future.exception()


def _reject(waiting: list[asyncio.Future[Published]], error: RoundFailed) -> None:
    """Fail those who still wait."""
    for future in waiting:
        if not future.done():
            future.set_exception(error)
