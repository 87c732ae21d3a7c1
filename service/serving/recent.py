"""The decisions that were made or reported on last, with the state that reports led to.

A reward usually follows its decision soon, and then nothing has to be read. What is here is only a
copy: a step that was computed from an outdated state is refused by the store, and computed again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from bandexa_core.ids import DecisionId
from bandexa_core.log.contract import DecisionState
from service.store.protocol import FoundDecision, Logged, Reportable, Step
from service.store.records import BanditRecord, ChosenAction, DecisionRecord

MAX_DECISIONS = 256  # more would leave the second-level cache, and slow every select down
MAX_ARRAY_BYTES = 4096  # decisions with a larger context or larger features are read when needed
MAX_BYTES = 16 << 20  # of the reward ids
_ID_BYTES = 128
Rows = tuple[Logged, ...]


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
        # A decision that nothing was reported about is held as it was made.
        self._entries: OrderedDict[
            DecisionId, RecentDecision | tuple[DecisionRecord, BanditRecord]
        ] = OrderedDict()
        self._id_bytes = 0

    def made(self, record: DecisionRecord, bandit: BanditRecord) -> None:
        """Add a decision that was just stored."""
        if record.context.nbytes <= MAX_ARRAY_BYTES and _is_small(record.chosen):
            self._entries[record.decision_id] = record, bandit
            if len(self._entries) > MAX_DECISIONS:
                self._drop_oldest()

    def found(self, found: FoundDecision) -> RecentDecision:
        """Add a decision that was looked up."""
        entry = RecentDecision(found)
        decision = found.decision
        self.drop(decision.id)
        if decision.context.nbytes <= MAX_ARRAY_BYTES and _is_small(decision.chosen):
            self._entries[decision.id] = entry
            self._id_bytes += entry.id_bytes
            while len(self._entries) > MAX_DECISIONS or self._id_bytes > MAX_BYTES:
                self._drop_oldest()
        return entry

    def _drop_oldest(self) -> None:
        _, oldest = self._entries.popitem(last=False)
        if isinstance(oldest, RecentDecision):
            self._id_bytes -= oldest.id_bytes

    def get(self, decision_id: DecisionId) -> RecentDecision | None:
        """Return a decision, None where it is not here."""
        entry = self._entries.get(decision_id)
        if entry is None:
            return None
        if not isinstance(entry, RecentDecision):
            entry = self._entries[decision_id] = _reportable(*entry)
        self._entries.move_to_end(decision_id)
        return entry

    def note_reward(self, entry: RecentDecision, item: int, reward_id: str, reward: float) -> None:
        """Note a reward that can be repeated."""
        if entry.rewards is not None:
            entry.rewards.setdefault((item, reward_id), []).append(reward)
            entry.id_bytes += _ID_BYTES
            if self._entries.get(entry.decision.id) is entry:
                self._id_bytes += _ID_BYTES

    def drop(self, decision_id: DecisionId, entry: RecentDecision | None = None) -> None:
        """Forget a decision, or only this entry for it."""
        found = self._entries.get(decision_id)
        if found is not None and (entry is None or found is entry):
            del self._entries[decision_id]
            if isinstance(found, RecentDecision):
                self._id_bytes -= found.id_bytes


def _is_small(chosen: tuple[ChosenAction, ...]) -> bool:
    return len(chosen) * chosen[0].features.nbytes <= MAX_ARRAY_BYTES


def _reportable(record: DecisionRecord, bandit: BanditRecord) -> RecentDecision:
    new = DecisionState.of(len(record.chosen), activated=record.activated)
    decision = Reportable(
        record.key, record.decision_id, bandit, record.context, record.chosen, new
    )
    return RecentDecision(FoundDecision(decision, {}))
