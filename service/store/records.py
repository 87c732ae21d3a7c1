"""The records that go into the store and come out of it; plain values, no storage format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, ActionSlot, BanditUid, DecisionId, DecisionKey, LogPosition
from bandexa_core.ids import SnapshotVersion as Version
from bandexa_core.log.bounds import clip
from bandexa_core.log.contract import Outcome
from bandexa_core.log.metrics import Weights, weighted
from bandexa_core.log.rows import Metrics
from bandexa_core.spec import BanditSpec


@dataclass(frozen=True, slots=True)
class BanditRecord:
    """A stored bandit. `key` is its row in `bandits`; `spec` is as it was created."""

    key: int
    uid: BanditUid
    name: str
    spec: BanditSpec
    created: float


class ChosenAction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One chosen action of a decision, with what a reward for it is learned from.

    Attributes:
        place: Its index among the candidates of the request; its slot without candidates.
        slot: Its slot in the catalogue.
        features: Raw features, float32 (A,); or the bytes of its object, uint8.
        score: Its sampled value.
        propensity: Of several chosen actions, the probability that it stands where it stands among
            them; None for a single one, and where it was not computed.
    """

    id: ActionId
    place: int
    slot: ActionSlot
    features: NDArray[Any]
    score: float
    propensity: float | None = None


class Retrieval(NamedTuple):
    """A decision was made with `retrieve`.

    Attributes:
        num: How many candidates were asked for.
        total: The number of candidates that they were retrieved from.
        listed: Whether the request listed those; False: they were all enabled actions.
    """

    num: int
    total: int
    listed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Propensities:
    """The probabilities of all K candidates of a decision, in their order.

    Attributes:
        indexes: Their places in the list of the request, else their catalogue slots, int32 (K,).
        values: The probability of each, float64 (K,).
    """

    indexes: NDArray[np.int32]
    values: NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Propensities)
            and np.array_equal(self.indexes, other.indexes)
            and np.array_equal(self.values, other.values)
        )


class DecisionRecord(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One answered select.

    Attributes:
        decision_id: Its id: made by the store, or the caller's own.
        key: Its key in the store.
        bandit: The key of its bandit.
        time: Seconds since the epoch.
        body_hash: Digest of the decoded request; None when the server made the id.
        context: As an array of the bandit; or the bytes of an object, uint8.
        chosen: The chosen actions, best first.
        candidates: The candidates' ids (or the retrieved ones); None: all enabled at `position`.
        features: Features (K, A) of inline candidates, objects with their padding; None where the
            catalogue has them, or where they were too large to store (then the decision cannot be
            explained).
        activated: Whether rewards for it count from the start.
        explored, std: See `Choice`.
        unit: The user or session that it was made for; None where the caller named none. A store
            that has only its hash returns that.
        retrieval: What `candidates` were retrieved from; None: nothing was retrieved.
        propensities: Those of all candidates, where they are recorded.
        imported: The id that it had where it was made; None: it was made here.
        arm: The arm that decided; None where there were none, or none could serve the request.
        served: The action that the request named as the caller's own, where there were arms.
        shadows: The action that each shadow would have served, by its name; None without shadows.
        log_hash: The hash of the log up to `position`; None: it is not known. A store that several
            processes write to takes a decision only where the log has that row; it is not stored.
    """

    decision_id: DecisionId
    key: DecisionKey
    bandit: int
    time: float
    body_hash: bytes | None
    context: NDArray[Any]
    chosen: tuple[ChosenAction, ...]
    candidates: tuple[ActionId, ...] | None
    features: NDArray[Any] | None
    snapshot: Version
    position: LogPosition
    propensity: float | None
    activated: bool
    explored: bool | None = None
    std: float | None = None
    unit: str | None = None
    retrieval: Retrieval | None = None
    propensities: Propensities | None = None
    imported: str | None = None
    arm: str | None = None
    served: ActionId | None = None
    shadows: Mapping[str, ActionId] | None = None
    log_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A training round that ended; shown to people, used for nothing else.

    Attributes:
        time: When its model was served, or when it failed; seconds since the epoch.
        version, position: Those of its snapshot; None where it failed.
        seconds: How long it took, including the swap.
        swap_s: Time from the published snapshot to the served model.
        loss_before, loss_after: Mean squared errors; None where no encoder was trained.
        error: Why it failed.
    """

    time: float
    version: int | None
    position: int | None
    seconds: float
    swap_s: float | None
    loss_before: float | None
    loss_after: float | None
    error: str | None


class SampledValue(NamedTuple):
    """The value of a row that left the log, and the metrics that it was made of; None: of none."""

    value: float
    metrics: Metrics | None
    low: float | None = None
    high: float | None = None

    def learned(self, weights: Weights | None = None) -> float:
        """Return what is learned of it; under these weights of metrics, or as it was reported."""
        value = self.value
        if self.metrics is not None and weights is not None:
            value = weighted(self.metrics, weights)
        return clip(value, self.low, self.high)


class AuditEntry(NamedTuple):
    """What somebody, or a guard, did to a bandit.

    Attributes:
        time: Seconds since the epoch.
        bandit: Its name: the entries outlive the bandit.
        by: The name of the API key; or "(anonymous)", "(guard)", "(settings)".
        what: The call, such as "PUT /bandits/shop/mode".
        changes: JSON: a list of `{key, old, new}`.
        row: Its place among all entries; 0 while it is not stored.
    """

    time: float
    bandit: str
    by: str
    what: str
    changes: str
    row: int = 0


@dataclass(frozen=True, slots=True)
class Trim:
    """Where a log begins.

    Attributes:
        position: Retention removed the learn rows up to it; 0: it removed none.
        hash: The hash of the log up to it.
        learned: How many values those rows learned for the first time.
    """

    position: LogPosition
    hash: bytes
    learned: int


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The part of a decision that answers a repeated select; `candidates`: see the record."""

    body_hash: bytes | None
    chosen: tuple[ChosenAction, ...]
    snapshot: Version
    position: LogPosition
    propensity: float | None
    propensities: Propensities | None = None
    arm: str | None = None
    candidates: tuple[ActionId, ...] | None = None


class Erasure(NamedTuple):
    """What is to be erased.

    Attributes:
        number: Its number in the store.
        bandit: The key of the only bandit concerned; None: all of them.
        unit: All decisions that were made for this user or session up to `until`; or None. As the
            store has it.
        ids: These decisions, where `unit` is None.
        until: Service time, seconds since the epoch.
    """

    number: int
    bandit: int | None
    unit: str | bytes | None
    ids: tuple[DecisionId, ...]
    until: float


class Relearning(NamedTuple):
    """A bandit whose model has to be rebuilt.

    Attributes:
        bandit: Its key.
        first: The position of the first log row that an erased decision taught.
        changes: The number of the last `Blanked` that has led to it.
    """

    bandit: int
    first: LogPosition
    changes: int


class Blanked(NamedTuple):
    """Learn rows of a bandit were blanked.

    Attributes:
        bandit: The key of the bandit.
        number: How often that has happened to this bandit.
        first, last: The first and the last of the rows.
    """

    bandit: int
    number: int
    first: LogPosition
    last: LogPosition


class ErasedPart(NamedTuple):
    """The effect of one part of an erasure.

    Attributes:
        decisions: The erased decisions, by the key of their bandit.
        samples: How many sampled rows were erased whose decision had left the store.
        relearning: The bandits whose models have to be rebuilt.
        next: Where the next part starts.
        more: Whether there should be a next part.
    """

    decisions: dict[int, list[DecisionId]]
    samples: int
    relearning: tuple[Relearning, ...]
    next: int
    more: bool


class RewardReport(msgspec.Struct, frozen=True):
    """A reward as it arrived.

    Attributes:
        decision_id: The decision it is for.
        reward: A finite number, or metrics.
        reward_id: The caller's id of this reward; None without one.
        action: The id of the chosen action that it is for; None where one was chosen.
        time: When it arrived, seconds since the epoch.
        bandit: The name of the bandit, where the caller gave it; it must be the decision's.
        check: Raises where the caller may not report on the bandit of a name.
    """

    decision_id: DecisionId
    reward: Outcome
    reward_id: str | None
    action: ActionId | None
    time: float
    bandit: str | None = None
    check: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class ReportedReward:
    """A reward as it was reported. `item` is the index of the chosen action it is for."""

    item: int
    time: float
    reward: Outcome
    reward_id: str | None
    status: str


@dataclass(frozen=True, slots=True)
class LearnedValue:
    """A learn row of a decision: a value was learned, or corrected (`before` is not None).

    `learned` is what was learned for `after`, which was reported, or made of `metrics`.
    """

    item: int
    position: int
    time: float
    before: float | None
    after: float
    learned: float
    metrics: Metrics | None = None


@dataclass(frozen=True, slots=True)
class Amendment:
    """An administrator changed a value.

    Attributes:
        item: The index of the chosen action.
        time: When, seconds since the epoch.
        before: The value before, learned or not yet; None where it was void or had no reward.
        after: The value from then on; None: it was voided.
        position: The log row that says so; None where nothing had been learned, and is not yet.
    """

    item: int
    time: float
    before: float | None
    after: float | None
    position: int | None


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision with its rewards and learned values.

    Attributes:
        closes: When its reward window closes, or closed; None without one.
        closed: When the store closed the window; None while it is open.
        activated_at: When it was activated after the select; None where it was not.
        amendments: What administrators changed, oldest first.
        void: The indexes of the chosen actions whose values are void.
        matured: When its values were learned at an age within the window; None where they wait for
            the close, or were learned as they came.
    """

    record: DecisionRecord
    closes: float | None
    closed: float | None
    activated_at: float | None
    rewards: tuple[ReportedReward, ...]
    learned: tuple[LearnedValue, ...]
    amendments: tuple[Amendment, ...] = ()
    void: tuple[int, ...] = ()
    matured: float | None = None


class Moment(NamedTuple):
    """A moment of a bandit's log, at which decisions are exported.

    Attributes:
        position: The position of the newest row of the log then.
        newest: The key of the newest decision then; without one, the one before the first.
        time: When it was, seconds since the epoch.
    """

    position: LogPosition
    newest: DecisionKey
    time: float


def to_the_millisecond(time: float) -> float:
    """Return the time of a moment, which is named by it in text, rounded up."""
    return math.ceil(time * 1000.0) / 1000.0


class LoggedDecision(NamedTuple):
    """A decision with what was known of it at a moment.

    Attributes:
        record: The decision.
        rewards: Its rewards, at most 1,000.
        values: The value of each chosen action as it was reported; None where none was learned, or
            where it is void by now.
        void: The indexes of the chosen actions whose values are void by now.
        closed: When its reward window was closed; None while it was open.
        activated_at: When it was activated after the select; None where it was not.
        metrics: What the values were made of; None: of no metrics.
        is_new_unit: Whether no earlier decision was made for the same unit; asked of bandits alone
            that have, or had, `sticky: action`.
    """

    record: DecisionRecord
    rewards: tuple[ReportedReward, ...]
    values: tuple[float | None, ...]
    void: tuple[int, ...]
    closed: float | None
    activated_at: float | None
    metrics: tuple[Metrics | None, ...]
    is_new_unit: bool = True


class LoggedPage(NamedTuple):
    """Some decisions in order.

    Attributes:
        decisions: The decisions, without those that were erased.
        last: Where the page ends: the next page's `after`.
        num_erased: How many were left out because they were erased.
        more: Whether there should be a next page.
    """

    decisions: tuple[LoggedDecision, ...]
    last: DecisionKey
    num_erased: int
    more: bool


@dataclass(frozen=True, slots=True)
class DecisionSummary:
    """A decision in a list. The next page of the list begins before place `row`."""

    row: int
    decision_id: DecisionId
    time: float
    actions: tuple[str, ...]
    propensity: float | None
    explored: bool | None
    snapshot: int
    position: int
    value: float | None


class CountedRow(msgspec.Struct, frozen=True, gc=False):
    """A decision to be counted.

    Attributes:
        key: Its key.
        time: Seconds since the epoch.
        actions: The chosen actions, best first.
        num_bytes: How much it was to read.
        propensity, explored, std: See `DecisionRecord`.
        imported: Whether it was made elsewhere.
    """

    key: int
    time: float
    actions: tuple[ActionId, ...]
    num_bytes: int
    propensity: float | None
    explored: bool | None
    std: float | None
    imported: bool = False


class Newest(NamedTuple):
    """The newest rows of a bandit.

    Attributes:
        uid: The bandit.
        head: The position of the newest row of its log; 0 without one.
        decision: The key of its newest decision; 0 without one.
    """

    uid: BanditUid
    head: int
    decision: int


class CountedValue(msgspec.Struct, frozen=True, gc=False):
    """A learn row to be counted.

    Attributes:
        position: Its position.
        time: Seconds since the epoch.
        before, after: See `LearnRow`; `after` is None where the value became void.
        decided: When its decision was made; None where that was removed.
        first_learned: When its value was learned first; None where that row was removed.
        imported: Whether its decision was made elsewhere.
        made_at: The log position that its decision was made at; None where that was removed.
        place: Which of the chosen actions it is of.
        action: That action; None where the decision was removed.
        arm: The arm that decided; None without arms.
        is_first: Whether no earlier decision with an arm was made for the same unit.
        metrics, metrics_before: Those that `after` and `before` are made of; None: of none.
        context: The context of the decision as it is stored, where it was asked for.
        propensity: How probable the first of its actions was; None where it is not known.
        score: The value by which the action was chosen.
        origin: The position at which its value was learned first.
        explored: Whether another action had the best mean; None where that is not known.
        shadows: What shadows would have served, by name, where it was asked for; None: nothing.
        is_new_unit: Whether no earlier decision was made for the same unit, where it was asked for.
    """

    position: int
    time: float
    before: float | None
    after: float | None
    decided: float | None
    first_learned: float | None
    imported: bool = False
    made_at: int | None = None
    place: int = 0
    action: ActionId | None = None
    arm: str | None = None
    is_first: bool = True
    metrics: Metrics | None = None
    metrics_before: Metrics | None = None
    context: bytes | None = None
    propensity: float | None = None
    score: float | None = None
    origin: int | None = None
    explored: bool | None = None
    shadows: Mapping[str, ActionId] | None = None
    is_new_unit: bool = True
