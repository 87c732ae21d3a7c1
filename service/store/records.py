"""What the store holds: bandits, decisions, reported rewards, training rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, ActionSlot, BanditUid, DecisionId, LogPosition
from bandexa_core.ids import SnapshotVersion as Version
from bandexa_core.spec import BanditSpec

RewardStatus = Literal["applied", "duplicate", "ignored", "aggregated", "late"]


@dataclass(frozen=True, slots=True)
class BanditRecord:
    """A bandit as the store knows it; `key` is its row in `bandits`."""

    key: int
    uid: BanditUid
    name: str
    spec: BanditSpec
    created: float


@dataclass(frozen=True, slots=True)
class ChosenAction:
    """One picked action: what its reward will teach, kept with the decision.

    Attributes:
        index: Its place among the candidates as the client sent them, else its slot.
        features: Raw features, float32 (A,).
        score: Its sampled value.
    """

    id: ActionId
    index: int
    slot: ActionSlot
    features: NDArray[np.float32]
    score: float


class DecisionRecord(NamedTuple):
    """One answered select.

    Attributes:
        body_hash: Digest of the decoded request, None when the server made the id.
        candidates: Ids offered (or retrieved); None: all enabled at `position`.
        features: Features (K, A) of inline candidates, None where the catalogue has them or they
            were too large to keep (then the decision cannot be explained).
        explored, std: See `Choice`.
    """

    decision_id: DecisionId
    bandit: int
    time: float
    body_hash: bytes | None
    context: NDArray[Any]
    chosen: tuple[ChosenAction, ...]
    candidates: tuple[ActionId, ...] | None
    features: NDArray[np.float32] | None
    snapshot: Version
    position: LogPosition
    propensity: float | None
    activated: bool
    explored: bool | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A training round that ended, for people to look at.

    Attributes:
        time: When it was served, or had failed; seconds since the epoch.
        version, position: Of the snapshot it made; None where it failed.
        seconds: How long it took, with the swap.
        swap_s: How long its snapshot took to be served, once it was there.
        loss_before, loss_after: Mean squared errors, where an encoder was trained.
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


@dataclass(frozen=True, slots=True)
class Trim:
    """Where a log begins.

    Attributes:
        position: Learn rows up to it were removed; 0: none were.
        hash: Of the log up to it.
        learned: How many values those rows learned for the first time.
    """

    position: LogPosition
    hash: bytes
    learned: int


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What of a decision answers a repeated select."""

    body_hash: bytes | None
    chosen: tuple[ChosenAction, ...]
    snapshot: Version
    position: LogPosition
    propensity: float | None


@dataclass(frozen=True, slots=True)
class RewardReport:
    """A reward as it arrived. `action` picks one of several chosen actions."""

    decision_id: DecisionId
    reward: float
    reward_id: str | None
    action: ActionId | None
    time: float


@dataclass(frozen=True, slots=True)
class ReportedReward:
    """A reward as it was reported; `item`: for which of the chosen actions."""

    item: int
    time: float
    reward: float
    reward_id: str | None
    status: str


@dataclass(frozen=True, slots=True)
class LearnedValue:
    """A row of the log that taught a value of a decision, or corrected it."""

    item: int
    position: int
    time: float
    before: float | None
    after: float


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision and what became of it.

    Attributes:
        closes, closed: When its reward window closes, and was seen to have closed.
        activated_at: When it was activated afterwards.
    """

    record: DecisionRecord
    closes: float | None
    closed: float | None
    activated_at: float | None
    rewards: tuple[ReportedReward, ...]
    learned: tuple[LearnedValue, ...]


@dataclass(frozen=True, slots=True)
class DecisionSummary:
    """A decision in a list. `row` is where the next part of the list begins."""

    row: int
    decision_id: str
    time: float
    actions: tuple[str, ...]
    propensity: float | None
    explored: bool | None
    snapshot: int
    position: int
    value: float | None
