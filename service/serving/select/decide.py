"""Decisions: what was asked, what is decided, what is kept of it and answered."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import (
    ActionId,
    ActionSlot,
    DecisionId,
    LogPosition,
    SnapshotVersion,
    new_decision_id,
)
from bandexa_core.model import ServingModel
from bandexa_core.policies import Choice, EncodedContext
from service.serving.bandit import Bandit, CandidateInput, InlineCandidates, Offer
from service.store.errors import Conflict, InvalidRequest
from service.store.records import ChosenAction, DecisionRecord, StoredAnswer


class SelectCommand(NamedTuple):
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


class Decision(NamedTuple):
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
        encode_s, draw_s: Seconds spent on features, and on the rest.
    """

    record: DecisionRecord
    late: Callable[[], float] | None
    choice: bool
    encode_s: float
    draw_s: float


class Asked(NamedTuple):
    """A select that waits to be decided.

    Attributes:
        context: As it is kept.
        ready: The same as the model takes it: encoded, where that takes long.
    """

    bandit: Bandit
    command: SelectCommand
    context: NDArray[Any]
    ready: NDArray[Any] | EncodedContext

    @property
    def plain(self) -> bool:
        """Whether one of all enabled actions is asked for: such selects are drawn together."""
        command = self.command
        return command.candidates is None and command.num == 1 and command.retrieve is None


def decide(asked: Asked, max_inline_bytes: int) -> Decided:
    """Draw: model and position are read in this one synchronous step.

    Raises:
        UnknownAction, InvalidRequest: The request asks for what is not there.
    """
    started = time.perf_counter()
    bandit, command = asked.bandit, asked.command
    offer = bandit.offer(command.candidates)
    num = command.num
    if num > len(offer.candidates):
        raise InvalidRequest("k", f"only {len(offer.candidates)} candidates are offered")
    if command.retrieve is not None and command.retrieve < num:
        raise InvalidRequest("retrieve", f"must be at least k = {num}")
    decision_id = _id_for(command)
    try:
        choice = bandit.model.select(
            decision_id, asked.ready, offer.candidates, num=num, retrieve=command.retrieve
        )
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "candidates") from error
    return _decided(asked, decision_id, offer, choice, started, max_inline_bytes)


def decide_together(asked: Sequence[Asked]) -> list[Decided]:
    """Draw for several plain selects of one bandit: what `decide` gives for each, to the bit.

    Raises:
        InvalidRequest: One of them cannot be decided; which one, `decide` tells.
    """
    started = time.perf_counter()
    bandit = asked[0].bandit
    offer = bandit.offer(None)
    ids = [_id_for(each.command) for each in asked]
    try:
        choices = bandit.model.select_many(ids, [each.ready for each in asked], offer.candidates)
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "candidates") from error
    started += (time.perf_counter() - started) * (1.0 - 1.0 / len(asked))  # the share of each
    return [
        _decided(each, decision_id, offer, choice, started, 0)
        for each, decision_id, choice in zip(asked, ids, choices, strict=True)
    ]


def _id_for(command: SelectCommand) -> DecisionId:
    return command.decision_id or new_decision_id()


def _decided(
    asked: Asked,
    decision_id: DecisionId,
    offer: Offer,
    choice: Choice,
    started: float,
    max_inline_bytes: int,
) -> Decided:
    model, command = asked.bandit.model, asked.command
    record = DecisionRecord(
        decision_id=decision_id,
        bandit=asked.bandit.record.key,
        time=time.time(),
        body_hash=command.body_hash,
        context=asked.context,
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
    draw_s = time.perf_counter() - started - choice.encode_s
    several = len(offer.candidates) > 1
    return Decided(record, choice.late_propensity, several, choice.encode_s, draw_s)


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
        features = candidates.action(index)
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
