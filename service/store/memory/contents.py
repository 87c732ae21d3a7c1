"""What the store holds, as plain values.

The operations change it and the readers read it, each under `Contents.lock`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey, LogPosition
from bandexa_core.log.bounds import UNBOUNDED, Bounds
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.contract import DecisionState
from bandexa_core.log.metrics import Totals
from bandexa_core.randomness import bandit_uid
from service.store.identity import DecisionIds, bandit_of
from service.store.memory.log import HeldLog
from service.store.memory.windows import Windows
from service.store.records import (
    Amendment,
    AuditEntry,
    BanditRecord,
    Blanked,
    DecisionRecord,
    Erasure,
    Relearning,
    ReportedReward,
    RoundRecord,
    SampledValue,
    StoredAnswer,
    Trim,
)

MAX_ROUNDS = 10_000  # per bandit; older ones are removed
UNTRIMMED = Trim(LogPosition(0), b"", 0)


class Learned(NamedTuple):
    """Where the value of a chosen action was learned first and last; 0: it was not.

    Of a void one those from before it became void.

    Attributes:
        bounds: Those of the first row.
    """

    origin: LogPosition = LogPosition(0)
    latest: LogPosition = LogPosition(0)
    bounds: Bounds = UNBOUNDED


@dataclass(slots=True)
class HeldDecision:
    """A decision, and what the reports about it led to.

    Attributes:
        record: The decision, with arrays of its own.
        own_id: The caller's id, packed; None where the server made the id.
        state: What the next step starts from.
        learned: One per chosen action.
        rewards: Every reward, in the order of the reports.
        amendments: What administrators changed, in order.
        activated_at, closed_at: When a report activated it, when its window was closed.
        matured_at: When its values were learned at an age within the window.
    """

    record: DecisionRecord
    own_id: str | bytes | None
    state: DecisionState
    learned: list[Learned]
    rewards: list[ReportedReward] = field(default_factory=list)
    amendments: list[Amendment] = field(default_factory=list)
    activated_at: float | None = None
    closed_at: float | None = None
    matured_at: float | None = None

    @property
    def is_erased(self) -> bool:
        """Whether it was erased: no context is empty."""
        return not self.record.context.size

    def answer(self) -> StoredAnswer:
        """Return what answered its select."""
        r = self.record
        return StoredAnswer(
            r.body_hash, r.chosen, r.snapshot, r.position, r.propensity, r.propensities, r.arm,
            r.candidates,
        )  # fmt: skip

    def num_bytes(self) -> int:
        """Return about how much memory it takes."""
        r = self.record
        arrays = [r.context, *(picked.features for picked in r.chosen)]
        if r.features is not None:
            arrays.append(r.features)
        if r.propensities is not None:
            arrays += [r.propensities.indexes, r.propensities.values]
        return sum(array.nbytes for array in arrays) + 100 * (1 + len(self.rewards))


class Sampled(NamedTuple):
    """A row that retention removed, in the sample of such rows.

    Attributes:
        value: The newest one.
        key, own_id, unit: Those of its decision.
    """

    rank: int
    slot: int
    value: SampledValue
    action: NDArray[Any]
    context: NDArray[Any]
    key: DecisionKey
    own_id: str | bytes | None
    unit: str | None


@dataclass(slots=True)
class HeldBandit:
    """All that is stored of a bandit.

    Attributes:
        decisions: By key.
        log: Its log.
        trim: Where the log begins.
        catalogue: The oldest known actions and their position; None: there were none at first.
        sample: A sample of the rows that left the log, by their position.
        rounds: Training rounds, oldest first.
        erased: Where erased decisions taught values first, in the log.
        blanked: When these were blanked; see `LogReader.blanked`.
        num_imported: How many decisions were imported.
        metrics: The totals of metrics, by name.
        challengers: What is noted of each, by name.
    """

    decisions: dict[DecisionKey, HeldDecision] = field(default_factory=dict)
    log: HeldLog = field(default_factory=HeldLog)
    trim: Trim = UNTRIMMED
    catalogue: tuple[LogPosition, Catalogue] | None = None
    sample: dict[LogPosition, Sampled] = field(default_factory=dict)
    rounds: deque[RoundRecord] = field(default_factory=lambda: deque(maxlen=MAX_ROUNDS))
    erased: set[LogPosition] = field(default_factory=set)
    blanked: list[Blanked] = field(default_factory=list)
    num_imported: int = 0
    metrics: dict[str, Totals] = field(default_factory=dict)
    challengers: dict[str, str] = field(default_factory=dict)

    def in_order(self, after: int = -1) -> list[HeldDecision]:
        """Return the decisions with keys above `after`, oldest first."""
        return [self.decisions[key] for key in sorted(self.decisions) if key > after]


class Contents:
    """Everything.

    Attributes:
        lock: Held by whoever reads or changes what is here.
        ids: Makes the ids of decisions.
        created: Every bandit that ever was, in order; its key is its number, from 1.
        live: The bandits that are not deleted, by key.
        windows: The open reward windows.
        erasures: Those that are not done, by number.
        num_erasures: How many there were.
        relearning: The bandits whose models have to be rebuilt, by key.
    """

    def __init__(self, ids: DecisionIds) -> None:
        self.lock = threading.Lock()
        self.ids = ids
        self.created: list[BanditRecord] = []
        self.audit: list[AuditEntry] = []  # of all bandits, oldest first
        self.live: dict[int, BanditRecord] = {}
        self.windows = Windows()
        self.erasures: dict[int, Erasure] = {}
        self.num_erasures = 0
        self.relearning: dict[int, Relearning] = {}
        self._bandits: dict[int, HeldBandit] = {}
        self._own_ids: dict[str | bytes, DecisionKey] = {}

    def add_bandit(self, record: BanditRecord) -> None:
        """Add a new bandit."""
        self.created.append(record)
        self.live[record.key] = record
        self._bandits[record.key] = HeldBandit()

    def remove_bandit(self, bandit: int) -> None:
        """Remove all of a bandit but the fact that there was one."""
        self.remove_decisions(bandit, list(self.of(bandit).decisions))
        self.live.pop(bandit, None)
        self.relearning.pop(bandit, None)
        self._bandits.pop(bandit, None)

    def next_uid(self, name: str) -> BanditUid:
        """Return the uid of the next bandit of a name."""
        return bandit_uid(name, sum(record.name == name for record in self.created))

    def of(self, bandit: int) -> HeldBandit:
        """Return what is stored of a bandit: nothing where there is none."""
        return self._bandits.get(bandit) or HeldBandit()

    def end_groups(self) -> None:
        """End the open groups of all logs."""
        for bandit in self._bandits.values():
            bandit.log.end_group()

    def add_decision(self, held: HeldDecision) -> None:
        """Add a decision."""
        record = held.record
        self.of(record.bandit).decisions[record.key] = held
        if held.own_id is not None:
            self._own_ids[held.own_id] = record.key

    def remove_decisions(self, bandit: int, keys: Iterable[DecisionKey]) -> None:
        """Remove decisions with all that was reported about them."""
        decisions = self.of(bandit).decisions
        for key in keys:
            held = decisions.pop(key)
            if held.own_id is not None:
                del self._own_ids[held.own_id]
        self.windows.forget(keys)

    def forget_own_id(self, held: HeldDecision) -> None:
        """Forget the caller's id of a decision."""
        if held.own_id is not None:
            del self._own_ids[held.own_id]
            held.own_id = None

    def decision(self, key: DecisionKey | None) -> HeldDecision | None:
        """Return a decision by its key."""
        return None if key is None else self.of(bandit_of(key)).decisions.get(key)

    def find(self, decision_id: DecisionId) -> HeldDecision | None:
        """Return a decision by its id."""
        column, place = self.ids.place(decision_id)
        if column == "key":
            assert isinstance(place, int)
            return self.decision(DecisionKey(place))
        assert not isinstance(place, int)
        return self.decision(self._own_ids.get(place))

    def name(self, held: HeldDecision) -> DecisionId:
        """Return the id of a decision."""
        return self.ids.name(held.record.key, held.own_id)


def is_new_unit(contents: Contents, held: HeldDecision) -> bool:
    """Return whether no earlier decision was made for the same unit."""
    made = held.record
    return made.unit is None or not any(
        other.record.unit == made.unit and other.record.key < made.key
        for other in contents.of(made.bandit).in_order()
    )
