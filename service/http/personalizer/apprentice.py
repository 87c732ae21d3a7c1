"""What is reported of the learning mode Apprentice: how often the bandit would choose the same.

The caller's own action is served, and the bandit learns from its rewards. Beside each decision it
is asked which action it expects most of; equal ones are ordered at random, so that a bandit that
knows nothing does not seem to imitate. Counts are those since the server's start.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bandexa_core.ids import BanditUid, DecisionId
from service.http.personalizer.configuration import instant
from service.serving.engine import Engine
from service.serving.select.commands import SelectCommand
from service.store.records import RewardReport

BATCH = 1000  # events of `lastBatchMetrics`
REMEMBERED = 100_000  # decisions whose rewards may come
_TIE = 1e-12


@dataclass(slots=True)
class Counts:
    """Events, those with the same choice, and the rewards of both."""

    events: int = 0
    imitated: int = 0
    rewards: float = 0.0
    imitated_rewards: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return them by Personalizer's names."""
        return {
            "numberOfEvents": self.events, "numberOfImitatedEvents": self.imitated,
            "sumOfRewards": self.rewards, "sumOfImitatedRewards": self.imitated_rewards,
        }  # fmt: skip


@dataclass(slots=True)
class Imitation:
    """The counts of one bandit."""

    started: float
    last: float
    all: Counts = field(default_factory=Counts)
    batch: Counts = field(default_factory=Counts)
    waiting: OrderedDict[DecisionId, bool] = field(default_factory=OrderedDict)
    rewarded: OrderedDict[DecisionId, None] = field(default_factory=OrderedDict)


class Apprentices:
    """The counts of all bandits that are, or were, apprentices."""

    def __init__(self) -> None:
        self._known: dict[BanditUid, Imitation] = {}

    def metrics(self, uid: BanditUid) -> dict[str, Any] | None:
        """Return what was counted of a bandit; None where nothing was."""
        found = self._known.get(uid)
        if found is None:
            return None
        return found.all.to_json() | {
            "startTime": instant(found.started),
            "lastProcessedEventTime": instant(found.last),
            "lastBatchMetrics": found.batch.to_json(),
        }

    async def decided(self, engine: Engine, command: SelectCommand) -> None:
        """Count a decision that served the caller's own action, once however often it is asked."""
        uid, decision = engine.bandit(command.bandit).record.uid, command.decision_id
        now = time.time()
        known = self._known.setdefault(uid, Imitation(now, now))
        assert decision is not None, "each has an id"
        if decision in known.waiting:
            return
        known.waiting[decision] = False  # before anything is waited for
        scores = await engine.selecting.score(command.bandit, command.context, command.candidates)
        best = np.flatnonzero(scores.means >= scores.means.max() - _TIE)
        place = int(random.Random(str(decision)).choice(best.tolist()))
        same = scores.ids[place] == command.served
        known.waiting[decision] = same
        if len(known.waiting) > REMEMBERED:
            known.waiting.popitem(last=False)
        if known.batch.events == BATCH:
            known.batch = Counts()
        for counts in (known.all, known.batch):
            counts.events += 1
            counts.imitated += same
        known.last = now

    def rewarded(self, uid: BanditUid, report: RewardReport) -> None:
        """Count a reward of such a decision: its first one."""
        known = self._known.get(uid)
        if known is None or report.decision_id in known.rewarded:
            return
        same = known.waiting.get(report.decision_id)
        if same is None or not isinstance(report.reward, float | int):
            return
        known.rewarded[report.decision_id] = None
        if len(known.rewarded) > REMEMBERED:
            known.rewarded.popitem(last=False)
        for counts in (known.all, known.batch):
            counts.rewards += report.reward
            counts.imitated_rewards += report.reward if same else 0.0
