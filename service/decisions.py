"""Decisions: what was asked, what is decided, what is kept of it and answered."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.model import ServingModel
from bandexa_core.policies import Choice, EncodedContext
from service.bandit import Bandit, CandidateInput, InlineCandidates, Offer
from service.exceptions import Conflict, InvalidRequest
from service.store import ChosenAction, DecisionRecord, StoredAnswer


@dataclasses.dataclass(frozen=True, slots=True)
class SelectCommand:
    """A select, decoded, which took `decode_s`. `body_hash`: of the body of a caller's own id."""

    bandit: str
    context: Any
    candidates: CandidateInput
    retrieve: int | None
    decision_id: DecisionId | None
    num: int
    activate: bool
    body_hash: bytes | None
    decode_s: float = 0.0


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


class Decided(NamedTuple):
    """A decision that was drawn.

    Attributes:
        record: What to keep.
        late: Works out a propensity that takes too long for the answer; None: it is there.
        choice: Whether there was more than one candidate.
        encode_s: Seconds spent on features.
    """

    record: DecisionRecord
    late: Callable[[], float] | None
    choice: bool
    encode_s: float


def decide(
    bandit: Bandit,
    command: SelectCommand,
    context: NDArray[Any],
    ready: NDArray[Any] | EncodedContext,
    max_inline_bytes: int,
) -> Decided:
    """Draw: model and position are read in this one synchronous step.

    Raises:
        UnknownAction, InvalidRequest: The request asks for what is not there.
    """
    offer = bandit.offer(command.candidates)
    num = command.num
    if num > len(offer.candidates):
        raise InvalidRequest("k", f"only {len(offer.candidates)} candidates are offered")
    if command.retrieve is not None and command.retrieve < num:
        raise InvalidRequest("retrieve", f"must be at least k = {num}")
    decision_id = command.decision_id or DecisionId(os.urandom(16).hex())
    model = bandit.model
    try:
        choice = model.select(
            decision_id, ready, offer.candidates, num=num, retrieve=command.retrieve
        )
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "candidates") from error
    record = DecisionRecord(
        decision_id=decision_id,
        bandit=bandit.record.key,
        time=time.time(),
        body_hash=command.body_hash,
        context=context,
        chosen=chosen_actions(model, offer, choice),
        candidates=offered_ids(model, offer, choice),
        features=_inline_features(command, offer, choice, max_inline_bytes),
        snapshot=model.version,
        position=model.position,
        propensity=choice.propensity,
        activated=command.activate,
        explored=choice.explored,
        std=choice.std,
    )
    return Decided(record, choice.late_propensity, len(offer.candidates) > 1, choice.encode_s)


def _inline_features(
    command: SelectCommand, offer: Offer, choice: Choice, max_bytes: int
) -> NDArray[np.float32] | None:
    if not isinstance(command.candidates, InlineCandidates):
        return None
    features = offer.candidates.features
    if choice.retrieved is not None:
        features = features[choice.retrieved]
    return features if features.nbytes <= max_bytes else None


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


def told_of(bandit: str, decision: Decision) -> dict[str, Any]:
    """Return what a log line says of a decision."""
    return {
        "bandit": bandit,
        "action": [chosen.id for chosen in decision.chosen],
        "propensity": decision.propensity,
        "snapshot": decision.snapshot,
        "position": decision.position,
    }


def repeated(decision_id: DecisionId, body_hash: bytes | None, kept: StoredAnswer) -> Decision:
    """Answer a select whose id is there already."""
    if kept.body_hash is None or kept.body_hash != body_hash:
        raise Conflict(f"decision {decision_id!r} was made for another request")
    return Decision(decision_id, kept.chosen, kept.propensity, kept.snapshot, kept.position)
