"""The decisions that were reported on last, with the state that reports led to.

Also new decisions under callers' own ids: a reward usually follows soon, and then nothing has to be
read. (The ids that servers make say enough themselves, see `steps`.) What is here is only a copy:
a step that was computed from another state is refused by the store, and computed again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from bandexa_core.ids import ActionId, DecisionId, DecisionKey
from bandexa_core.log.contract import DecisionState, Outcome
from bandexa_core.spec import RewardSpec
from service.store.protocol import FoundDecision, Logged, Reportable, Step
from service.store.records import BanditRecord, DecisionRecord

MAX_NEW = 32_768  # decisions that nothing was reported about: about 400 bytes each
MAX_REPORTED = 256
MAX_CHOSEN = 16  # a decision with more chosen actions is read when needed
MAX_BYTES = 16 << 20  # of the reward ids
_ID_BYTES = 128
Rows = tuple[Logged, ...]
_New = tuple[DecisionKey, int, bool, tuple[ActionId, ...], RewardSpec | None]


class RecentDecision:
    """A decision in memory.

    Attributes:
        decision: Its state is the newest one, although its steps may not be committed yet.
        rewards: See `FoundDecision.rewards`.
        newest: The newest step; None once it is committed.
        waiting: Resolved when the newest step is: its rows, or None where the decision moved on.
        id_bytes: The size of the reward ids.
        lock: Held while its rewards are looked up in the store; None before the first time.
    """

    __slots__ = ("decision", "id_bytes", "lock", "newest", "rewards", "waiting")

    def __init__(self, found: FoundDecision) -> None:
        self.decision, self.rewards = found
        self.id_bytes = len(self.rewards or ()) * _ID_BYTES
        self.newest: Step | None = None
        self.waiting: list[asyncio.Future[Rows | None]] = []
        self.lock: asyncio.Lock | None = None


class RecentDecisions:
    """The newest decisions, up to a number and a size; used on the event loop."""

    def __init__(self) -> None:
        # Plain values alone: the garbage collector does not visit them.
        self._new: OrderedDict[DecisionId, _New] = OrderedDict()
        self._reported: OrderedDict[DecisionId, RecentDecision] = OrderedDict()
        self._bandits: dict[int, BanditRecord] = {}
        self._id_bytes = 0

    def made(
        self, record: DecisionRecord, bandit: BanditRecord, changed: RewardSpec | None = None
    ) -> None:
        """Add a decision that was just stored under a caller's id; `changed`: see `Reportable`."""
        chosen = record.chosen
        if len(chosen) > MAX_CHOSEN:
            return
        if record.decision_id in self._reported:  # of a bandit that was deleted meanwhile
            self.drop(record.decision_id)
        self._bandits[bandit.key] = bandit
        actions = (chosen[0].id,) if len(chosen) == 1 else tuple([each.id for each in chosen])
        self._new[record.decision_id] = (
            record.key, bandit.key, record.activated, actions, changed,
        )  # fmt: skip
        if len(self._new) > MAX_NEW:
            self._new.popitem(last=False)

    def found(self, found: FoundDecision) -> RecentDecision:
        """Add a decision that was looked up."""
        entry = RecentDecision(found)
        decision = found.decision
        self.drop(decision.id)
        if len(decision.actions) <= MAX_CHOSEN:
            self._reported[decision.id] = entry
            self._id_bytes += entry.id_bytes
            while len(self._reported) > MAX_REPORTED or self._id_bytes > MAX_BYTES:
                _, oldest = self._reported.popitem(last=False)
                self._id_bytes -= oldest.id_bytes
        return entry

    def get(self, decision_id: DecisionId) -> RecentDecision | None:
        """Return a decision, None where it is not here."""
        entry = self._reported.get(decision_id)
        if entry is not None:
            self._reported.move_to_end(decision_id)
            return entry
        new = self._new.pop(decision_id, None)
        if new is None:
            return None
        key, bandit, activated, actions, changed = new
        state = DecisionState.of(len(actions), activated=activated)
        decision = Reportable(key, decision_id, self._bandits[bandit], actions, state, changed)
        return self.found(FoundDecision(decision, {}))

    def note_reward(
        self, entry: RecentDecision, item: int, reward_id: str, reward: Outcome
    ) -> None:
        """Note a reward that can be repeated."""
        if entry.rewards is not None:
            entry.rewards.setdefault((item, reward_id), []).append(reward)
            entry.id_bytes += _ID_BYTES
            if self._reported.get(entry.decision.id) is entry:
                self._id_bytes += _ID_BYTES

    def drop(self, decision_id: DecisionId, entry: RecentDecision | None = None) -> None:
        """Forget a decision, or only this entry for it."""
        self._new.pop(decision_id, None)
        found = self._reported.get(decision_id)
        if found is not None and (entry is None or found is entry):
            del self._reported[decision_id]
            self._id_bytes -= found.id_bytes
