"""What the process that has the store open does for the others, which serve beside it.

It is the *keeper*: it alone trains, closes windows, applies retention and administers bandits. Here
it counts what the others decide and learn as if it had done it itself, so that states, metrics and
alarms are those of all processes, and it announces what changes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from service.serving.bandit import Bandit
from service.serving.live import Bandits
from service.serving.observed import named_inputs
from service.serving.rewards import Rewards
from service.store.protocol import Step
from service.store.records import BanditRecord, DecisionRecord
from service.store.sharing import Changes, FollowedStore
from service.store.socket.hub import Hub
from service.store.socket.messages import Counted


class Keeping:
    """Follows the hub, and announces to it what changes here.

    Args:
        hub: The other processes; None: there are none.
    """

    def __init__(self, hub: Hub | None) -> None:
        self._hub = hub
        self._live: Bandits | None = None
        self._rewards: Rewards | None = None
        self._checks: dict[Bandit, asyncio.Task[None]] = {}

    def begin(self, live: Bandits, rewards: Rewards) -> None:
        """Count what others do from now on, and apply what they have appended meanwhile."""
        if self._hub is None:
            return
        self._live, self._rewards = live, rewards
        self._hub.listener = self
        for bandit in live.all():
            bandit.applier.follow(self._hub.head(bandit.record.key))

    def follow(self, store: FollowedStore, live: Bandits, rewards: Rewards) -> None:
        """Apply from now on what servers append that share the database."""
        self._live, self._rewards = live, rewards
        store.watch(self._appended, lambda: None)

    def _appended(self, changes: Changes) -> None:
        assert self._live is not None
        for key, head in changes.heads.items():
            bandit = self._live.at(key)
            if bandit is not None and head > bandit.applier.head:
                bandit.applier.follow(head)
                self._check(bandit)

    def _check(self, bandit: Bandit) -> None:
        if bandit not in self._checks:
            self._checks[bandit] = asyncio.create_task(self._order_when_due(bandit))

    def close(self) -> None:
        """Order no more rounds."""
        for task in self._checks.values():
            task.cancel()

    # -- what changes here ----------------------------------------------------------------------

    def serves(self, bandit: Bandit) -> None:
        """Announce a bandit that is live from now on, and from then on its rows."""
        if self._hub is None:
            return
        hub, key = self._hub, bandit.record.key
        bandit.applier.grown = lambda head: hub.grown(key, head)
        hub.remember(bandit.record)
        hub.grown(key, bandit.applier.head)
        hub.serves(bandit.record.uid, bandit.model.version)

    def deleted(self, record: BanditRecord) -> None:
        """Announce that a bandit was deleted."""
        if self._hub is not None:
            self._hub.forget(record)

    def swapped(self, uid: BanditUid, version: SnapshotVersion) -> None:
        """Announce a snapshot that is served from now on."""
        if self._hub is not None:
            self._hub.serves(uid, version)

    def clock_moved(self) -> None:
        """Announce the clock."""
        if self._hub is not None:
            self._hub.clock_moved()

    async def everywhere(self) -> None:
        """Return once all processes serve what has changed; those that are slow follow later."""
        if self._hub is not None:
            await self._hub.settle()

    async def shows(self) -> dict[int, bytes]:
        """Return the metrics of the other processes, by their numbers."""
        return {} if self._hub is None else await self._hub.shows()

    # -- what others do -------------------------------------------------------------------------

    def decided(self, record: DecisionRecord) -> None:
        """Count a decision; see `Listener`."""
        assert self._live is not None
        bandit = self._live.at(record.bandit)
        if bandit is None:
            return
        listed = record.candidates
        num = len(bandit.model.enabled_candidates()) if listed is None else len(listed)
        bandit.vitals.decided(
            record.time, [chosen.id for chosen in record.chosen], record.propensity,
            choice=num > 1, activated=record.activated,
        )  # fmt: skip
        if bandit.has_objects:
            named = named_inputs(bandit.model.policy)
            bandit.inputs.selected(named, record.context, record.chosen[0].features)

    def stepped(self, step: Step, rows: tuple[Any, ...]) -> None:
        """Learn the rows of a step; see `Listener`."""
        assert self._rewards is not None
        assert self._live is not None
        decision, before = step.decision, step.decision.state
        bandit = self._live.at(decision.bandit.key)
        if bandit is not None and step.change.state.activated and not before.activated:
            bandit.vitals.activated(step.time, len(decision.actions))
        self._rewards.stepped_elsewhere(step, rows)
        if bandit is not None and rows:
            self._check(bandit)

    async def _order_when_due(self, bandit: Bandit) -> None:
        """Order a round where one is due once all committed rows are applied."""
        assert self._rewards is not None
        applier = bandit.applier
        try:
            applied = LogPosition(-1)
            while applied < applier.head:
                applied = applier.head
                if not await applier.applied(applied):
                    return
                self._rewards.train_if_due(bandit)
        finally:
            self._checks.pop(bandit, None)

    def counted(self, counts: list[Counted]) -> None:
        """Add what a process has answered; see `Listener`."""
        assert self._live is not None
        for each in counts:
            bandit = self._live.at(each.bandit)
            if bandit is None:
                continue
            bandit.vitals.selects += each.selects
            for status, num in each.rewards.items():
                bandit.vitals.rewards[status] = bandit.vitals.rewards.get(status, 0) + num
