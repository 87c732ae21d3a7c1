"""Void values and correct them, for an administrator: what was reported turned out to be wrong.

Runs on the event loop. Each decision is a step of its own, as with rewards, so that it is void as a
whole or not at all, whatever is reported meanwhile. A row of the log says of each learned value
that it is void; a model that has learned it is then rebuilt without it, which `Relearner` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bandexa_core.ids import ActionId, DecisionId, DecisionKey, LogPosition
from bandexa_core.log.contract import Outcome
from service.serving.amendments import Corrected, Voided
from service.serving.bandit import Bandit
from service.serving.relearner import Relearner
from service.serving.rewards import Rewards
from service.store.errors import Erased, UnknownDecision
from service.store.protocol import EventStore
from service.store.records import BanditRecord

log = logging.getLogger(__name__)
AT_ONCE = 100  # decisions


class Selection(NamedTuple):
    """Whose values become void.

    Attributes:
        ids: These decisions; None: all that the rest describes.
        since: Decisions made at or after this wall time, in seconds since the epoch; None: all.
        until: Decisions made before this wall time; None: all.
        action: Only the values of this chosen action; None: of all.
    """

    ids: Sequence[DecisionId] | None
    since: float | None
    until: float | None
    action: ActionId | None


@dataclass(slots=True)
class VoidReport:
    """What became void.

    Attributes:
        decisions: How many decisions had such values.
        values: How many values.
        rewards: How many rewards had made these values.
        learned: How many of the values had been learned.
        unknown: Listed ids of no decision of the bandit, or of an erased one.
        pending: Whether a model is served that contains void values, until it is rebuilt.
    """

    decisions: int = 0
    values: int = 0
    rewards: int = 0
    learned: int = 0
    unknown: tuple[DecisionId, ...] = ()
    pending: bool = False

    def add(self, voided: Voided) -> None:
        """Count a decision."""
        self.decisions += bool(voided.values)
        self.values += len(voided.values)
        self.rewards += sum(num for _, num in voided.values)
        self.learned += len(voided.rows)


class Amending:
    """Voids and corrects values.

    Args:
        store: Finds decisions.
        rewards: Takes the steps.
        relearner: Rebuilds models.
    """

    def __init__(self, store: EventStore, rewards: Rewards, relearner: Relearner) -> None:
        self._store = store
        self._rewards = rewards
        self._relearner = relearner
        self._tasks: set[asyncio.Task[VoidReport]] = set()

    def _ended(self, task: asyncio.Task[VoidReport]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("not all values that were asked for are void: %s", error)

    async def void(
        self, bandit: Bandit, selection: Selection, *, dry_run: bool, wait: bool
    ) -> VoidReport:
        """Void values; repeating it is safe.

        It goes on where the caller goes away. What a killed server had not voided, a repeated call
        does.

        Args:
            bandit: The bandit.
            selection: Whose values.
            dry_run: Change nothing, and say what would be void.
            wait: Return once a model without the values is served, or could not be built.

        Raises:
            Unavailable, StoreError: The store takes no writes; some values may be void.
        """
        task = asyncio.create_task(self._void(bandit, selection, dry_run=dry_run), name="voiding")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        report = await asyncio.shield(task)
        if wait and report.pending and not dry_run:
            await asyncio.shield(self._relearner.begin(bandit))
            report.pending = bandit.model.void_from is not None
        return report

    async def _void(self, bandit: Bandit, selection: Selection, *, dry_run: bool) -> VoidReport:
        report, last = VoidReport(), LogPosition(0)
        try:
            async for ids in self._chunks(bandit.record, selection):
                last = max(last, await self._void_some(bandit, ids, selection, report, dry_run))
        finally:  # also where the store failed in the middle of it
            is_applied = not last or await bandit.applier.applied(last)
            report.pending = bandit.model.void_from is not None or not is_applied
            if bandit.model.void_from is not None and not dry_run:
                self._relearner.begin(bandit)
        if report.values and not dry_run:
            log.info(
                "bandit %s: %d values of %d decisions are void", bandit.record.name, report.values,
                report.decisions,
            )  # fmt: skip
        return report

    async def _void_some(
        self,
        bandit: Bandit,
        ids: Sequence[DecisionId],
        selection: Selection,
        report: VoidReport,
        dry_run: bool,
    ) -> LogPosition:
        """Void the values of some decisions; returns the position of the last row of them, or 0.

        Raises:
            Unavailable, StoreError: The store takes no writes; the others are counted.
        """
        last, failed = LogPosition(0), None
        done = await asyncio.gather(
            *(self._rewards.void(bandit, each, selection.action, dry_run=dry_run) for each in ids),
            return_exceptions=True,
        )
        for decision_id, found in zip(ids, done, strict=True):
            if isinstance(found, Voided):
                report.add(found)
                last = max([last, *(row.position for row in found.rows)])
            elif not isinstance(found, UnknownDecision | Erased):
                failed = found
            elif selection.ids is not None:  # else it was removed meanwhile
                report.unknown = (*report.unknown, decision_id)
        if failed is not None:
            raise failed
        return last

    async def _chunks(
        self, record: BanditRecord, selection: Selection
    ) -> AsyncIterator[Sequence[DecisionId]]:
        """Yield the decisions whose values may become void, some at once."""
        if selection.ids is not None:
            ids = list(dict.fromkeys(selection.ids))
            for first in range(0, len(ids), AT_ONCE):
                yield ids[first : first + AT_ONCE]
            return
        after: DecisionKey | None = DecisionKey(0)
        while after is not None:
            found, after = await asyncio.to_thread(self._page, record, selection, after)
            if found:
                yield found

    def _page(
        self, record: BanditRecord, selection: Selection, after: DecisionKey
    ) -> tuple[list[DecisionId], DecisionKey | None]:
        with self._store.history() as history:
            return history.valued(record, selection.since, selection.until, after, AT_ONCE)

    async def correct(
        self, bandit: Bandit, decision_id: DecisionId, action: ActionId | None, reward: Outcome
    ) -> Corrected:
        """Replace the value of a decision, or of a chosen action; see `contract.correct`.

        Raises:
            UnknownDecision, Erased, InvalidRequest: Nothing was stored.
        """
        return await self._rewards.correct(bandit, decision_id, action, reward)
