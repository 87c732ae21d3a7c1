"""Publishes what the follower has counted: how arms stand, what actions earn, what values say.

Used by the follower's thread. Nothing is published that has not changed, but for everything at the
start, and what takes long rests as long as it took many times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bandexa_core.ids import BanditUid
from service.observe.dashboard.judging import Judging
from service.observe.dashboard.standings import by_bandit, standing
from service.observe.dashboard.sums import top_actions
from service.observe.evidence import Evidence
from service.serving.standing import EarnedByAction, Standing
from service.store.errors import StoreDamaged
from service.store.reading import CountingReader
from service.store.records import Newest
from service.store.sqlite.aggregates import AggregateReader, AggregateWriter

EVERY_S = 1.0
ACTIONS = 10  # of a bandit, whose rewards are in memory: those with the most values
EARNING_S = 0.02
RESTS = 50
LONGEST_REST_S = 5.0


@dataclass(frozen=True, slots=True)
class Receivers:
    """Who receives what was counted.

    Attributes:
        stood: How the arms of a bandit stand.
        judged: What the recent values of a bandit say.
        earned: What the actions of a bandit earned that have the most values.
    """

    stood: Callable[[BanditUid, Standing], None] = lambda uid, found: None
    judged: Callable[[BanditUid, Evidence], None] = lambda uid, found: None
    earned: Callable[[BanditUid, tuple[EarnedByAction, ...]], None] = lambda uid, found: None


class Publishing:
    """What is to be published.

    Args:
        store: Reads configurations.
        path: The file of counts.
        judging: The recent values of bandits.
        receivers: Who receives it.
    """

    def __init__(
        self, store: CountingReader, path: Path, judging: Judging, receivers: Receivers
    ) -> None:
        self._store = store
        self._path = path
        self._judging = judging
        self._receivers = receivers
        self._arms: dict[int, BanditUid] | None = None  # to be published; None: all of them
        self._actions: dict[BanditUid, None] | None = None  # likewise
        self._arms_at = -math.inf
        self._actions_from = -math.inf

    def changed(self, arms: Mapping[int, BanditUid], actions: Iterable[BanditUid]) -> None:
        """Note the bandits whose sums of arms, and of actions, have changed."""
        if self._arms is not None:
            self._arms.update(arms)
        if self._actions is not None:
            self._actions.update(dict.fromkeys(actions))

    def publish(self, stored: AggregateWriter, newest: Mapping[int, Newest]) -> None:
        """Publish what has changed, about once a second: an interval takes some milliseconds."""
        now = time.monotonic()
        if newest and now - self._arms_at >= EVERY_S:
            self._arms_at = now
            self._publish_evidence(stored, newest)
            self._publish_standings(stored, newest)
        if newest and now >= self._actions_from:
            self._publish_earned(stored, newest)

    def _publish_standings(self, stored: AggregateWriter, newest: Mapping[int, Newest]) -> None:
        waiting = self._arms
        if waiting is None:
            keys = {found.uid: key for key, found in newest.items()}
            uids = by_bandit(stored.arms())
            waiting = {keys[BanditUid(uid)]: BanditUid(uid) for uid in uids if uid in keys}
        self._arms = {}
        for key, uid in waiting.items():
            with suppress(KeyError, StoreDamaged):  # deleted meanwhile; or damaged, and not served
                known = self._store.configurations(key)
                rows = by_bandit(stored.arms(uid)).get(uid, {})
                self._receivers.stood(uid, standing(known, rows))

    def _publish_evidence(self, stored: AggregateWriter, newest: Mapping[int, Newest]) -> None:
        live, changed = {found.uid for found in newest.values()}, self._judging.changed
        if not changed:
            return
        with AggregateReader(self._path) as reader:
            for uid in sorted(changed):
                found = self._judging.evidence(uid, stored, reader, time.time())
                if BanditUid(uid) in live:
                    self._receivers.judged(BanditUid(uid), found)

    def _publish_earned(self, stored: AggregateWriter, newest: Mapping[int, Newest]) -> None:
        """Publish what actions earned, of as many bandits as take some milliseconds.

        A catalogue may have thousands of actions, so that this rests as long as it took many times.
        """
        if self._actions is None:
            self._actions = {found.uid: None for found in newest.values()}
        begun = spent_s = time.thread_time()
        while self._actions and spent_s - begun < EARNING_S:
            uid = next(iter(self._actions))
            del self._actions[uid]
            if rows := stored.actions(uid):
                self._receivers.earned(uid, tuple(top_actions(rows, ACTIONS)[1]))
            spent_s = time.thread_time()
        rests_s = min(RESTS * (spent_s - begun), LONGEST_REST_S)
        self._actions_from = time.monotonic() + max(EVERY_S, rests_s)
