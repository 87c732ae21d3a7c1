"""Rewards, activations and reward windows: stored, then applied in log order.

Runs on the event loop. The store hands committed rows back in log order; each goes to its bandit's
applier, and only then do the waiting callers get their answers. After a crash the same rows are
applied from the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

from bandexa_core.ids import ActionId, BanditUid, DecisionId, LogPosition
from bandexa_core.log.contract import (
    ActivationStatus,
    DecisionState,
    ImportStatus,
    Outcome,
    RewardStatus,
)
from bandexa_core.spec import RewardSpec
from service.observe import spans
from service.observe.counters import Metrics
from service.observe.logs import DECISIONS, about
from service.serving.amendments import Corrected, Voided
from service.serving.bandit import Bandit
from service.serving.commits import Committer
from service.serving.recent import RecentDecisions, Rows
from service.serving.reported_metrics import ReportedMetrics
from service.serving.select.batcher import DecisionBatcher
from service.serving.steps import Steps
from service.store.errors import OutOfRange, StoreError, Unavailable
from service.store.identity import made_at
from service.store.protocol import EventStore, Step
from service.store.records import BanditRecord, DecisionRecord, RewardReport

log = logging.getLogger(__name__)
WINDOWS_CHECKED_S = 1.0
AnsweredStatus = RewardStatus | Literal["stored"]


class Rewards:
    """Takes reports of how decisions went.

    Args:
        metrics: Counts.
        find: Returns the live bandit of a uid, or None.
        record: See `Steps`.
        store: Stores reports.
        commit: Waits for commits.
        recent: The decisions in memory.
        max_rewards: The largest number of rewards of a decision.
        batcher: Draws the decisions that are reported on.
        order_round: Receives each bandit whose next training round is due.
        reported_metrics: See `Steps`.
        is_aside: Whether a bandit exists and cannot be served.
    """

    def __init__(
        self,
        metrics: Metrics,
        find: Callable[[BanditUid], Bandit | None],
        record: Callable[[int], BanditRecord | None],
        store: EventStore,
        commit: Committer,
        recent: RecentDecisions,
        max_rewards: int,
        batcher: DecisionBatcher,
        order_round: Callable[[Bandit], None],
        reported_metrics: Callable[[int], ReportedMetrics | None],
        is_aside: Callable[[BanditUid], bool],
    ) -> None:
        self._metrics = metrics
        self._find = find
        self._is_aside = is_aside
        self._steps = Steps(
            store,
            commit,
            recent,
            record,
            max_rewards,
            self._reward_range,
            self._learn,
            reported_metrics,
        )
        self._clock = store.clock
        self._batcher = batcher
        self._order_round = order_round
        self._ages: dict[BanditUid, float] = {}  # the learned ones

    async def reward(self, report: RewardReport) -> tuple[AnsweredStatus, bool]:
        """Store a reward and learn from it; returns its status and whether a round is due.

        The status is "stored" where the bandit has failed, or is frozen: it learns the reward once
        it is recovered, or learns again. A server that is still loading the bandit serves it with
        the reward: to its callers that is as good as learned.

        Raises:
            UnknownDecision, InvalidRequest: Nothing was stored.
        """
        started = time.perf_counter()
        about(report.decision_id)
        if self._batcher.may_be_coming(report.decision_id):
            await self._batcher.arrived(report.decision_id)
        try:
            decision, reported, rows = await self._steps.reward(report)
        except OutOfRange as error:
            if error.uid is not None and (bandit := self._find(error.uid)) is not None:
                bandit.vitals.rewarded("refused")
            raise
        committed = time.perf_counter()
        bandit = self._find(decision.bandit.uid)
        status: AnsweredStatus = reported
        if rows:
            last = rows[-1].position
            if bandit is None:
                status = "stored" if self._is_aside(decision.bandit.uid) else status
            elif bandit.model.position >= last or await bandit.applier.applied(last):
                status = "stored" if bandit.model.holds else status
                self.train_if_due(bandit)
            else:
                status = "stored"
        ended = time.perf_counter()
        self._metrics.reward_seconds.observe(ended - started)
        if spans.active is not None:
            attributes = {
                "bandexa.bandit": decision.bandit.name, "bandexa.decision_id": report.decision_id,
                "bandexa.status": status,
            }  # fmt: skip
            stages = {"commit": committed - started, "apply": ended - committed}
            spans.active.ended("reward", stages, attributes)
        if bandit is None:
            return status, False
        bandit.vitals.rewarded(status)
        if DECISIONS.isEnabledFor(logging.DEBUG):
            reward = report.reward
            shown = {"metrics": dict(reward)} if isinstance(reward, tuple) else {"reward": reward}
            fields = shown | {"status": status}
            DECISIONS.debug("reward", extra={"bandit": bandit.record.name, **fields})
        return status, bandit.model.round_due()

    def _reward_range(self, record: BanditRecord) -> tuple[float, float] | None:
        bandit = self._find(record.uid)
        return record.spec.reward_range if bandit is None else bandit.model.spec.reward_range

    def _learn(self, step: Step, rows: Rows) -> None:
        decision = step.decision
        bandit = self._find(decision.bandit.uid)
        if bandit is None:
            return
        vitals = bandit.vitals
        num_rewarded = _num_rewarded(step.change.state) - _num_rewarded(decision.state)
        if num_rewarded > 0 and not step.imported:
            delay_s = _delay_s(step, self._clock.offset)
            for _ in range(num_rewarded):
                vitals.joined(step.time, delay_s)  # also where its value is learned later
        bandit.metrics.add(step)
        if not rows:
            return
        bandit.applier.follow(rows[-1].position)
        spec = bandit.model.spec
        expected, clips = spec.expected_rewards, spec.clipped_to is not None
        for row in () if step.imported else rows:  # what was served elsewhere is no sign of health
            if row.after is None or row.learned is None:  # it became void
                continue
            vitals.learned(row.before, row.after, expected)
            learned = spec.learned_as(row.learned) if clips else row.learned
            if learned != row.after:
                vitals.clipped(row.after, learned, expected)
        self.train_if_due(bandit)  # here as well: the caller may have gone away

    async def activate(
        self, decision_id: DecisionId, check: Callable[[str], None] | None = None
    ) -> ActivationStatus:
        """Count a decision that was made with `activate` false, and learn from its rewards.

        `check`: see `RewardReport`.

        Raises:
            UnknownDecision: Nothing was stored.
        """
        now = time.time()
        await self._batcher.arrived(decision_id)
        decision, status, rows = await self._steps.activate(decision_id, now, check)
        bandit = self._find(decision.bandit.uid)
        if bandit is not None and status == "applied":
            bandit.vitals.activated(now, len(decision.actions))
        if bandit is not None and rows:
            await bandit.applier.applied(rows[-1].position)
        return status

    async def check(self, report: RewardReport) -> RewardStatus:
        """Return the status that a reward would get; nothing is stored.

        Raises:
            UnknownDecision, Erased, InvalidRequest: It would be refused.
        """
        return await self._steps.check(report)

    async def void(
        self, bandit: Bandit, decision_id: DecisionId, action: ActionId | None, *, dry_run: bool
    ) -> Voided:
        """Void the values of a decision of a bandit; see `Steps.void`.

        Raises:
            UnknownDecision, Erased: There is no such decision.
        """
        await self._batcher.arrived(decision_id)
        return await self._steps.void(
            decision_id, bandit.record, action, time.time(), dry_run=dry_run
        )

    async def correct(
        self, bandit: Bandit, decision_id: DecisionId, action: ActionId | None, reward: Outcome
    ) -> Corrected:
        """Replace a value of a decision of a bandit; returns once that is learned.

        Raises:
            UnknownDecision, Erased, InvalidRequest: Nothing was stored.
        """
        about(decision_id)
        await self._batcher.arrived(decision_id)
        done = await self._steps.correct(decision_id, bandit.record, action, reward, time.time())
        if done.rows and not await bandit.applier.applied(done.rows[-1].position):
            return done._replace(status="stored")
        return done

    def imported(self, bandit: Bandit, made: DecisionRecord) -> None:
        """Note an imported decision that was just stored: its values follow, by `teach`."""
        self._steps.imported(made, bandit.record, _changed_rules(bandit, made))

    def check_taught(
        self, bandit: Bandit, made: DecisionRecord, values: Sequence[Outcome | None]
    ) -> None:
        """Check the values of a decision that is to be imported, one for each chosen action.

        Raises:
            InvalidRequest: One cannot be taken.
        """
        self._steps.check_taught(made, bandit.record, _changed_rules(bandit, made), values)

    async def teach(
        self, bandit: Bandit, made: DecisionRecord, item: int, value: Outcome, now: float
    ) -> tuple[ImportStatus, LogPosition]:
        """Learn a value of an imported decision; returns the position of its last row, or 0.

        Raises:
            UnknownDecision, Erased, InvalidRequest: Nothing was stored.
        """
        status, rows = await self._steps.teach(made, bandit.record, item, value, now)
        return status, rows[-1].position if rows else LogPosition(0)

    async def close_windows(self) -> None:
        """Learn from the decisions that are mature, and close the windows that are over."""
        more = True
        while more:
            due = await self._steps.close_windows(time.time)
            self._ages.update(due.ages)
            more = due.more

    def maturity_s(self, bandit: Bandit) -> float | None:
        """Return the age in seconds at which the next decisions of a bandit are learned.

        None: their rewards are learned as they are reported.
        """
        rules = bandit.model.spec.rewards
        window, age = rules.reward_window_s, rules.maturity
        if window is None or not rules.waits:
            return None
        if age == "auto":
            age = self._ages.get(bandit.record.uid)
        return min(age, window) if isinstance(age, int | float) else window

    @asynccontextmanager
    async def closing_windows(self) -> AsyncIterator[None]:
        """Close reward windows as they end, until the exit."""
        await self.close_windows()  # the time since the server stopped does not count
        task = asyncio.create_task(self._watch_windows(), name="reward-windows")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch_windows(self) -> None:
        reported = False
        while True:
            await asyncio.sleep(WINDOWS_CHECKED_S)
            try:
                await self.close_windows()
                reported = False
            except (StoreError, Unavailable) as error:  # the time until it works does not count
                if not reported:  # the log reports it once in an outage
                    log.warning("reward windows cannot be closed: %s", error)
                reported = True

    def stepped_elsewhere(self, step: Step, rows: Rows) -> None:
        """Note a step that another process has stored, and learn its rows."""
        self._steps.stepped_elsewhere(step.decision.id)
        self._learn(step, rows)

    def train_if_due(self, bandit: Bandit) -> None:
        """Order the round of a bandit, where one is due and is not the client's to order."""
        if bandit.model.spec.training.mode == "background" and bandit.applier.round_due():
            self._order_round(bandit)


def _delay_s(step: Step, offset_s: float) -> float:
    """Return how long after its decision a step was, in service time.

    Steps have wall time, which is `offset_s` ahead of that. An old key without a time counts as 0.
    """
    now = step.time - offset_s
    return max(0.0, now - made_at(step.decision.key, now))


def _changed_rules(bandit: Bandit, made: DecisionRecord) -> RewardSpec | None:
    """Return the rules of a decision, where its bandit's have changed; see `Reportable`."""
    known = bandit.configurations
    return known.rules(made.position) if known.rules_changed else None


def _num_rewarded(state: DecisionState) -> int:
    """Return how many chosen actions have a reward that counts."""
    if not state.activated or not state.num_rewards:
        return 0
    if len(state.items) == 1:
        return 1 if state.items[0].num else 0
    return sum(item.num > 0 for item in state.items)
