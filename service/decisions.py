"""Selects and their answers as values: what was asked, what was decided, what is kept of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.model import ServingModel
from bandexa_core.policies import Choice
from service.bandit import CandidateInput, Offer
from service.exceptions import Conflict
from service.store import ChosenAction, DecisionRecord, StoredAnswer


@dataclasses.dataclass(frozen=True, slots=True)
class SelectCommand:
    """A select, decoded. `body_hash` identifies the decoded body of a caller's own id."""

    bandit: str
    context: Any
    candidates: CandidateInput
    retrieve: int | None
    decision_id: DecisionId | None
    num: int
    activate: bool
    body_hash: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """The answer of a select."""

    decision_id: DecisionId
    chosen: tuple[ChosenAction, ...]
    propensity: float | None
    snapshot: SnapshotVersion
    position: LogPosition


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """Posterior mean and standard deviation of each candidate's expected reward."""

    ids: tuple[ActionId, ...]
    indexes: NDArray[np.int64]
    means: NDArray[np.float64]
    stds: NDArray[np.float64]
    snapshot: SnapshotVersion
    position: LogPosition


def chosen_actions(model: ServingModel, offer: Offer, choice: Choice) -> tuple[ChosenAction, ...]:
    """Return the picks of a choice with all that learning from them needs."""
    candidates = offer.candidates
    out = []
    for index, score in zip(choice.chosen.tolist(), choice.scores.tolist(), strict=True):
        slot = int(candidates.slots[index])
        if offer.ids is None:
            action_id, shown = model.catalogue.ids[slot], slot
        else:
            action_id, shown = offer.ids[index], index
        features = candidates.features[index]
        out.append(ChosenAction(action_id, shown, ActionSlot(slot), features, score))
    return tuple(out)


def offered_ids(model: ServingModel, offer: Offer, choice: Choice) -> tuple[ActionId, ...] | None:
    """Return the ids to keep with the decision: what was offered, or of it what was retrieved."""
    if choice.retrieved is None:
        return None if offer.ids is None else tuple(offer.ids)
    if offer.ids is None:
        return tuple(model.catalogue.ids[offer.candidates.slots[i]] for i in choice.retrieved)
    return tuple(offer.ids[i] for i in choice.retrieved)


def decision_of(record: DecisionRecord) -> Decision:
    """Return the answer of a decision that was just kept."""
    return Decision(
        record.decision_id, record.chosen, record.propensity, record.snapshot, record.position
    )


def repeated(decision_id: DecisionId, body_hash: bytes | None, kept: StoredAnswer) -> Decision:
    """Answer a select whose id is there already."""
    if kept.body_hash is None or kept.body_hash != body_hash:
        raise Conflict(f"decision {decision_id!r} was made for another request")
    return Decision(decision_id, kept.chosen, kept.propensity, kept.snapshot, kept.position)
