"""Delivers rewards in the background: what `put` accepts is delivered, or listed at `close`.

A thread of the caller's process sends the waiting rewards, oldest first, in batches. While the
service does not answer or refuses the key, the thread retries with growing pauses and drops
nothing. Each reward carries an id, so that one sent twice counts once. Only the service itself
refuses a reward for good: a page of a proxy, whatever its status, is no answer.

Without a spool nothing is on disk: rewards that wait are lost with the process. An ordinary exit
delivers them first, for a few seconds, and logs how many are left. In a child that was forked the
queue begins empty, with a thread of its own: what waited is the parent's. With a spool
(`spool.Spool`) the next queue on the same folder delivers what is left.
"""

from __future__ import annotations

import atexit
import encodings.idna  # noqa: F401  # a fork in the midst of its first use breaks it in the child
import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bandexa_client.answers.decisions import RewardStatus
from bandexa_client.errors import BanditError, Rejected
from bandexa_client.requests import RewardReport, is_fallback, new_id
from bandexa_client.retrying import Retry
from bandexa_client.spool import Spool

if TYPE_CHECKING:
    from bandexa_client.client import BanditClient

log = logging.getLogger(__name__)
_LATER = (401, 403, 429, 503)  # the key is wrong, or the service is busy: not the reward's fault
_AT_EXIT_S = 5.0
_LONGEST_S = 1e9  # of a wait: threading takes no infinite time
_PAUSES = Retry(first_wait_s=0.2, max_wait_s=10.0)


class QueueFull(Exception):
    """The most rewards are waiting; this one was not accepted."""


class QueueClosed(Exception):
    """The queue is closed and accepts no more rewards."""


class Undelivered(Exception):
    """The queue was closed before all rewards were delivered.

    Attributes:
        reports: The rewards that were left; the caller can send them again.
    """

    def __init__(self, reports: Sequence[RewardReport]) -> None:
        super().__init__(f"{len(reports)} rewards were not delivered")
        self.reports = tuple(reports)


class RewardQueue:
    """A queue of rewards; use it as a context manager, or close it.

    Args:
        client: Sends the rewards. It may be used elsewhere, too; the caller closes it, after the
            queue.
        max_waiting: The most rewards that wait.
        max_batch: The most rewards sent in one call, up to 1000.
        on_rejected: Called on the queue's thread for each reward that the service refused for good,
            such as one of an unknown decision. None: such rewards are logged.
        spool: A folder for the rewards that wait, which queues of other processes may share. What
            this process leaves there, also when it is killed, the next queue on the folder
            delivers. None: they are in memory only.

    Attributes:
        num_delivered: Rewards that the service has accepted.
        num_rejected: Rewards that the service has refused for good.
        num_fallback: Rewards of fallback decisions, which are not sent.
        num_damaged: Lines that earlier processes left in the spool and that are no rewards.

    Raises:
        ValueError: A number is out of range, or the system cannot have a spool.
        OSError: The folder of the spool cannot be used.
    """

    def __init__(
        self,
        client: BanditClient,
        *,
        max_waiting: int = 100_000,
        max_batch: int = 100,
        on_rejected: Callable[[RewardReport, Rejected], None] | None = None,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        if max_waiting < 1:
            raise ValueError(f"max_waiting must be at least 1, not {max_waiting}")
        if not 1 <= max_batch <= 1000:
            raise ValueError(f"max_batch must be 1 to 1000, not {max_batch}")
        self._client = client
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._on_rejected = on_rejected
        self._closing = False
        self._folder = None if spool is None else Path(spool).absolute()
        self._spool: Spool | None = None
        self._begin()
        if self._folder is not None:
            self._open_spool(self._folder)
        _queues.add(self)

    def _begin(self) -> None:
        """Begin with nothing waiting, and without thread or spool: the first `put` has both."""
        self._spool = None
        self.num_delivered = self.num_rejected = self.num_fallback = self.num_damaged = 0
        self._waiting: deque[RewardReport] = deque()
        self._failing: set[str | None] = set()  # reward ids that the service failed on
        self._changed = threading.Condition()
        self._hurry = threading.Event()  # set at the close, to end a pause early
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None

    def _open_spool(self, folder: Path) -> Spool:
        """Open a file in the spool, and take over what waits there.

        Raises:
            OSError: The folder cannot be used; the queue is without a spool as before.
        """
        spool = Spool(folder)
        try:
            self._waiting.extend(spool.adopt())
        except OSError:
            spool.close()
            raise
        self.num_damaged = spool.num_damaged
        self._spool = spool
        if self._waiting:
            self._start()
        return spool

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="reward-queue", daemon=True)
        self._thread.start()

    def put(
        self,
        decision_id: str,
        reward: float | None = None,
        *,
        metrics: Mapping[str, float] | None = None,
        reward_id: str | None = None,
        action: str | None = None,
        wait_s: float = 0.0,
    ) -> None:
        """Accept a reward for delivery.

        Args:
            decision_id: The decision. A reward of a fallback decision is counted and dropped.
            reward: A finite number; or
            metrics: several of them by name.
            reward_id: Distinguishes several outcomes of a decision. None: the queue makes an id, so
                that every `put` is an outcome.
            action: The action that the reward is for, needed when k > 1.
            wait_s: How long to wait for room, in seconds.

        Raises:
            ValueError: A number is not finite, or both or none of `reward` and `metrics` is given.
            TypeError: An id, the action or a name is no string, or a reward no number.
            QueueFull: There was no room.
            QueueClosed: The queue is closed.
            OSError: The spool cannot be written; the reward was not accepted.
        """
        named = {"decision_id": decision_id, "reward_id": reward_id, "action": action}
        for name, text in named.items():
            if not isinstance(text, str) and (text is not None or name == "decision_id"):
                raise TypeError(f"{name}: must be a string, not {type(text).__name__}")
        if is_fallback(decision_id):
            self.num_fallback += 1
            return
        if (reward is None) == (not metrics):
            raise ValueError("reward: give either `reward` or `metrics`")
        number = None if reward is None else _finite("reward", reward)
        several = None
        if metrics is not None:
            several = {name: _finite(f"metrics.{name}", each) for name, each in metrics.items()}
            if not all(isinstance(name, str) for name in several):
                raise TypeError("metrics: a name must be a string")
        report = RewardReport(decision_id, number, reward_id or new_id(), action, metrics=several)
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or len(self._waiting) < self._max_waiting,
                min(wait_s, _LONGEST_S),
            )
            if self._closing:
                raise QueueClosed("the reward queue is closed")
            if len(self._waiting) >= self._max_waiting:
                raise QueueFull(f"{self._max_waiting} rewards are waiting")
            if self._folder is not None:
                spool = self._spool or self._open_spool(self._folder)  # a child has none yet
                spool.add(report)
            self._waiting.append(report)
            self._changed.notify_all()
            if self._thread is None:
                self._start()

    @property
    def num_waiting(self) -> int:
        """The number of accepted rewards that are not delivered yet."""
        return len(self._waiting)

    def flush(self, within_s: float) -> bool:
        """Wait until every accepted reward is settled; return False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, min(within_s, _LONGEST_S))

    def close(self, within_s: float = 30.0) -> None:
        """Deliver the waiting rewards and end the thread; a second call does nothing.

        With a spool, what is left after `within_s` seconds waits there for the next queue.

        Raises:
            Undelivered: Rewards were left, and there is no spool.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._deadline = time.monotonic() + within_s
            self._changed.notify_all()
        self._hurry.set()
        if self._thread is not None:
            self._thread.join(min(within_s, _LONGEST_S))
        with self._changed:
            spool, self._spool = self._spool, None
            left = list(self._waiting)
        if spool is not None:
            spool.close()
            if left:
                log.warning("%d rewards wait in %s for the next queue", len(left), self._folder)
        elif left:
            raise Undelivered(left)

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

    def _run(self) -> None:
        """Deliver until the queue is closed, whatever happens."""
        while True:
            try:
                self._deliver()
                return
            except Exception:  # the top of the thread: rewards that wait need it
                log.exception("the reward queue begins again")
                self._pause(1, BanditError())

    def _deliver(self) -> None:
        failures, size = 0, self._max_batch
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                batch = list(islice(self._waiting, size))
                if not batch or time.monotonic() > self._deadline:
                    return
            try:
                settled = self._send(batch)
            except BanditError as error:
                if isinstance(error, Rejected) and error.status not in _LATER and len(batch) > 1:
                    size = len(batch) // 2  # too large, or one reward makes the call invalid
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
        """Send a batch; return how many of its first rewards are settled."""
        try:
            results: list[RewardStatus | Rejected] = self._client.reward_batch(batch)
        except Rejected as error:
            if error.status in _LATER or len(batch) > 1 or not _is_verdict(error):
                raise
            results = [error]
        answered = 0
        failed: list[RewardReport] = []
        for report, result in zip(batch, results, strict=True):
            if isinstance(result, Rejected):
                if result.status in _LATER:
                    break  # the others wait behind it, in order; a repeated one counts once
                if result.status >= 500:
                    if report.reward_id not in self._failing:  # once, however often it is tried
                        log.warning("a reward of decision %s waits: %s", report.decision_id, result)
                    failed.append(report)
                else:
                    self.num_rejected += 1
                    self._refused(report, result)
            else:
                self.num_delivered += 1
            answered += 1
        tried = {report.reward_id for report in batch[:answered]}
        self._failing = (self._failing - tried) | {report.reward_id for report in failed}
        self._settle(answered, failed)
        return answered - len(failed)

    def _settle(self, num: int, failed: list[RewardReport]) -> None:
        """Remove the first rewards; those that the service failed on wait behind all others.

        So they block none. Later ones of the same decisions wait behind them: the order of a
        decision's rewards counts.
        """
        decisions = {report.decision_id for report in failed}
        with self._changed:
            left = list(islice(self._waiting, num, None))
            self._waiting.clear()
            self._waiting.extend(report for report in left if report.decision_id not in decisions)
            self._waiting.extend(failed)
            self._waiting.extend(report for report in left if report.decision_id in decisions)
            self._changed.notify_all()
            if self._spool is not None:
                self._spool.settled(self._waiting)

    def _refused(self, report: RewardReport, result: Rejected) -> None:
        if self._on_rejected is None:
            log.error("a reward of decision %s was refused: %s", report.decision_id, result)
            return
        try:
            self._on_rejected(report, result)
        except Exception:  # the caller's code must not end the thread that delivers
            log.exception("on_rejected failed")

    def _pause(self, failures: int, error: BanditError) -> None:
        pause = _PAUSES.pause_s(failures, error)
        if self._hurry.is_set():
            time.sleep(min(pause, 0.2))
        else:
            self._hurry.wait(pause)


def _finite(field: str, value: float) -> float:
    """Return a number as a float.

    Raises:
        ValueError: It is not finite.
        TypeError: It is none.
    """
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        is_finite = False
    if not is_finite:
        raise ValueError(f"{field}: must be a finite number, not {str(value)[:30]}")
    return float(value)


def _is_verdict(error: Rejected) -> bool:
    """Whether the service itself refused, and not something on the way to it."""
    return str(error.problem.get("type", "")).startswith("urn:bandexa:")


_queues: weakref.WeakSet[RewardQueue] = weakref.WeakSet()


def _close_at_exit() -> None:
    for queue in list(_queues):
        try:
            queue.close(_AT_EXIT_S)
        except Undelivered as error:
            log.error("at the exit of the process %s", error)


def _begin_in_child() -> None:
    for queue in list(_queues):
        spool = queue._spool
        queue._begin()
        if spool is not None:
            spool.abandon()


atexit.register(_close_at_exit)
if hasattr(os, "register_at_fork"):  # threads and locks stay with the parent
    os.register_at_fork(after_in_child=_begin_in_child)
