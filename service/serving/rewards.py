"""Rewards, activations and windows that close: kept, then applied in log order.

Runs on the event loop. Committed rows come back from the store in log order and are applied, and
only then are the waiting answers given. After a crash the same rows are applied from the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from bandexa_core.ids import BanditUid, DecisionId
from bandexa_core.log.rows import LearnRow
from service.observe.counters import Metrics
from service.observe.logs import DECISIONS, about
from service.serving.bandit import Bandit
from service.serving.select.batcher import DrawingDesk
from service.store.errors import StoreError, Unavailable
from service.store.protocol import Activation, ActivationStatus, Closed, RewardOutcome
from service.store.records import RewardReport, RewardStatus
from service.store.sqlite.store import SqliteStore

log = logging.getLogger(__name__)
WINDOWS_LOOKED_AT_S = 1.0


class Committed(Protocol):
    """Appends to the store and waits for the commit."""

    async def __call__(
        self,
        append: Callable[..., None],
        *args: Any,
        then: Callable[[Any], None] | None = None,
    ) -> Any:
        """See `Engine.committed`."""


class Rewarding:
    """Takes what decisions were worth.

    Args:
        metrics: Counted into.
        find: Returns the live bandit of a uid, or None.
        store: Keeps what is reported.
        committed: Waits for it.
        drawing: Has drawn the decisions that are reported on.
        round_is_due: Hears of bandits whose next training round is due.
    """

    def __init__(
        self,
        metrics: Metrics,
        find: Callable[[BanditUid], Bandit | None],
        store: SqliteStore,
        committed: Committed,
        drawing: DrawingDesk,
        round_is_due: Callable[[Bandit], None],
    ) -> None:
        self._metrics = metrics
        self._find = find
        self._store = store
        self._committed = committed
        self._drawing = drawing
        self._round_is_due = round_is_due
        self._windows: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Close reward windows from here on."""
        self._windows = asyncio.create_task(self._watch_windows())

    def close(self) -> None:
        """Close no more windows."""
        if self._windows is not None:
            self._windows.cancel()

    async def reward(self, report: RewardReport) -> tuple[RewardStatus, bool]:
        """Keep a reward and learn from it; returns its status and whether a round is due.

        Raises:
            UnknownDecision, InvalidRequest: Nothing was kept.
        """
        started = time.perf_counter()
        about(report.decision_id)
        self._drawing.draw_before(report.decision_id)
        outcome = await self._committed(self._store.append_reward, report, then=self._learn)
        bandit = self._find(outcome.uid)
        if bandit is not None and outcome.row is not None:
            await bandit.applied(outcome.row.position)
            self._train_if_due(bandit)
        self._metrics.reward_seconds.observe(time.perf_counter() - started)
        if bandit is None:
            return outcome.status, False
        bandit.vitals.rewarded(outcome.status)
        if DECISIONS.isEnabledFor(logging.DEBUG):
            told = {"reward": report.reward, "status": outcome.status}
            DECISIONS.debug("reward", extra={"bandit": bandit.record.name, **told})
        return outcome.status, bandit.model.round_due()

    def _learn(self, outcome: RewardOutcome) -> None:
        if outcome.row is not None:
            self._apply(outcome.uid, outcome.row, reported=True)

    def _apply(self, uid: BanditUid, row: LearnRow, *, reported: bool) -> None:
        bandit = self._find(uid)
        if bandit is not None:
            bandit.apply(row)
            bandit.vitals.learned(row.before, row.after, bandit.record.spec.reward_range)
            if reported and row.before is None:
                bandit.vitals.joined(row.time)
            self._train_if_due(bandit)  # here, too: the caller may have gone away

    async def activate(self, decision_id: DecisionId) -> ActivationStatus:
        """Count a decision that was made with `activate` false, and learn its rewards.

        Raises:
            UnknownDecision: Nothing was kept.
        """
        now = time.time()

        def learn(found: Activation) -> None:
            bandit = self._find(found.uid)
            if bandit is not None and found.status == "applied":
                bandit.vitals.activated(now, found.num_actions)
            for row in found.rows:
                self._apply(found.uid, row, reported=True)

        self._drawing.draw_before(decision_id)
        found: Activation = await self._committed(
            self._store.append_activation, decision_id, now, then=learn
        )
        bandit = self._find(found.uid)
        if bandit is not None and found.rows:
            await bandit.applied(found.rows[-1].position)
        return found.status

    async def close_windows(self) -> None:
        """Close the reward windows that are over, and learn the default rewards."""

        def learn(closed: Closed) -> None:
            for learned in closed.learned:
                self._apply(learned.uid, learned.row, reported=False)

        more = True
        while more:
            more = (await self._committed(self._store.close_windows, then=learn)).more

    async def _watch_windows(self) -> None:
        told = False
        while True:
            await asyncio.sleep(WINDOWS_LOOKED_AT_S)
            try:
                await self.close_windows()
                told = False
            except (StoreError, Unavailable) as error:  # the time until it works does not count
                if not told:  # once an outage, not every second
                    log.warning("reward windows cannot be closed: %s", error)
                told = True

    def _train_if_due(self, bandit: Bandit) -> None:
        if bandit.model.spec.training.mode == "background" and bandit.round_due():
            self._round_is_due(bandit)
