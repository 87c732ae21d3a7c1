"""Rewards delivered in the background: what `put` has taken is delivered, or named at `close`.

A thread of the caller's process sends what waits, oldest first, in batches. While the service is
away, or refuses the key, it tries on with growing pauses and keeps everything. Each reward carries
an id, so that one sent twice counts once. Nothing is on disk: what waits goes with the process.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bandexa_client.answers import RewardStatus
from bandexa_client.errors import BanditError, Rejected
from bandexa_client.requests import RewardReport, is_fallback, new_id
from bandexa_client.retrying import Retry

if TYPE_CHECKING:
    from bandexa_client.client import BanditClient

log = logging.getLogger(__name__)
_LATER = (401, 403, 429, 503)  # the key, or the moment, is wrong: not the reward
_PAUSES = Retry(first_wait_s=0.2, max_wait_s=10.0)


class QueueFull(Exception):
    """As many rewards wait as may: this one was not taken."""


class QueueClosed(Exception):
    """The queue takes no more rewards."""


class Undelivered(Exception):
    """Rewards were left when the queue was closed; `reports` holds them, to be sent again."""

    def __init__(self, reports: Sequence[RewardReport]) -> None:
        super().__init__(f"{len(reports)} rewards were not delivered")
        self.reports = tuple(reports)


class RewardQueue:
    """A queue of rewards; use it as a context manager, or close it.

    Args:
        client: a `BanditClient`, which may be in use elsewhere, too; the caller closes it, after
            the queue.
        max_waiting: most rewards that wait.
        max_batch: most rewards sent in one call, up to 1000.
        on_rejected: called on the queue's thread for each reward that the service refused for good
            (say, an unknown decision); None: logged.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        client: BanditClient,
        *,
        max_waiting: int = 100_000,
        max_batch: int = 100,
        on_rejected: Callable[[RewardReport, Rejected], None] | None = None,
    ) -> None:
        if max_waiting < 1:
            raise ValueError(f"max_waiting must be at least 1, not {max_waiting}")
        if not 1 <= max_batch <= 1000:
            raise ValueError(f"max_batch must be 1 to 1000, not {max_batch}")
        self.num_delivered = 0
        self.num_rejected = 0
        self.num_fallback = 0
        self._client = client
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._on_rejected = on_rejected
        self._waiting: deque[RewardReport] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._hurry = threading.Event()  # closing: cut a pause short
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._deliver, name="reward-queue", daemon=True)
        self._thread.start()

    def put(
        self,
        decision_id: str,
        reward: float,
        *,
        reward_id: str | None = None,
        action: str | None = None,
        wait_s: float = 0.0,
    ) -> None:
        """Take a reward; see `BanditClient.reward` for the fields.

        Args:
            decision_id: of a fallback decision, it is counted and dropped: see `num_fallback`.
            reward: what it was worth.
            reward_id: the caller's; None: one is made, so that every `put` is an outcome.
            action: which of several chosen actions.
            wait_s: how long to wait for room.

        Raises:
            ValueError: `reward` is not a finite number.
            QueueFull: there was no room.
            QueueClosed: the queue is closed.
        """
        if is_fallback(decision_id):
            self.num_fallback += 1
            return
        if not math.isfinite(reward):
            raise ValueError(f"reward: must be a finite number, not {reward}")
        report = RewardReport(decision_id, float(reward), reward_id or new_id(), action)
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or len(self._waiting) < self._max_waiting, wait_s
            )
            if self._closing:
                raise QueueClosed("the reward queue is closed")
            if len(self._waiting) >= self._max_waiting:
                raise QueueFull(f"{self._max_waiting} rewards are waiting")
            self._waiting.append(report)
            self._changed.notify_all()

    @property
    def num_waiting(self) -> int:
        """How many rewards were taken and are not delivered yet."""
        return len(self._waiting)

    def flush(self, within_s: float) -> bool:
        """Wait until nothing waits; False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, within_s)

    def close(self, within_s: float = 30.0) -> None:
        """Deliver what waits and end the thread; a second call does nothing.

        Raises:
            Undelivered: it took longer; the rewards left are in it.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._deadline = time.monotonic() + within_s
            self._changed.notify_all()
        self._hurry.set()
        self._thread.join(within_s)
        if self._waiting:
            raise Undelivered(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- the thread -----------------------------------------------------------------------------

    def _deliver(self) -> None:
        failures, size = 0, self._max_batch
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                batch = list(self._waiting)[:size]
                if not batch or time.monotonic() > self._deadline:
                    return
            try:
                settled = self._send(batch)
            except BanditError as error:
                if isinstance(error, Rejected) and error.status not in _LATER:
                    size = len(batch) // 2  # too large, or one of them spoils the call
                    continue
                failures += 1
                if failures == 1:
                    log.warning("rewards wait: %s", error)
                self._pause(failures, error)
                continue
            if settled and failures:
                log.warning("rewards are delivered again")
            failures, size = (0, self._max_batch) if settled else (failures + 1, size)
            if not settled:
                self._pause(failures, BanditError())

    def _send(self, batch: list[RewardReport]) -> int:
        """Send a batch; returns how many of its first rewards are settled."""
        try:
            results: list[RewardStatus | Rejected] = self._client.reward_batch(batch)
        except Rejected as error:
            if error.status in _LATER or len(batch) > 1:
                raise
            results = [error]
        settled = 0
        for report, result in zip(batch, results, strict=True):
            if isinstance(result, Rejected):
                if result.status in _LATER or result.status >= 500:
                    break  # the rest waits behind it, in order; what it repeats counts once
                self.num_rejected += 1
                self._refused(report, result)
            else:
                self.num_delivered += 1
            settled += 1
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()
        return settled

    def _refused(self, report: RewardReport, result: Rejected) -> None:
        if self._on_rejected is None:
            log.error("a reward of decision %s was refused: %s", report.decision_id, result)
            return
        try:
            self._on_rejected(report, result)
        except Exception:  # the caller's code, on our thread: the others must get through
            log.exception("on_rejected failed")

    def _pause(self, failures: int, error: BanditError) -> None:
        pause = _PAUSES.pause_s(failures, error)
        if self._hurry.is_set():
            time.sleep(min(pause, 0.2))
        else:
            self._hurry.wait(pause)
