"""Draw decisions: model and log position are read in one synchronous step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandexa_core.arms import Asked, drawn_by
from bandexa_core.ids import (
    ActionId,
    ActionSlot,
    DecisionId,
    DecisionKey,
    LogPosition,
    SnapshotVersion,
)
from bandexa_core.limits import Bounds
from bandexa_core.model import ServingModel
from bandexa_core.policies import Choice, EncodedContext
from service.serving.bandit import Bandit
from service.serving.select.commands import InlineCandidates, Offer, SelectCommand
from service.store.errors import InvalidRequest
from service.store.identity import DecisionIds
from service.store.objects import stored_bytes, trimmed
from service.store.records import ChosenAction, DecisionRecord, Propensities, Retrieval

MAX_PROPENSITIES = 10_000  # of all candidates: some ten milliseconds, and a megabyte of JSON
CHOSEN_WORK = 20  # candidates, which take as long as a chosen action


class Pending(msgspec.Struct, frozen=True):
    """A select that is ready to be drawn.

    Attributes:
        context: As it will be stored.
        ready: The same as the model takes it: encoded, where encoding takes long.
    """

    bandit: Bandit
    command: SelectCommand
    context: NDArray[Any]
    ready: NDArray[Any] | EncodedContext

    @property
    def plain(self) -> bool:
        """Whether it chooses one of all enabled actions: such selects are drawn together."""
        command = self.command
        return (
            command.candidates is None
            and command.num == 1
            and command.retrieve is None
            and not command.all_propensities
        )

    @property
    def work(self) -> int:
        """How many candidates take as long as this select, about."""
        command, given = self.command, self.command.candidates
        if given is None:
            num = len(self.bandit.model.catalogue)
        else:
            num = len(given.ids if isinstance(given, InlineCandidates) else given)
        return num + CHOSEN_WORK * command.num


class Drawn(msgspec.Struct, frozen=True):
    """A decision that was drawn and is not stored yet.

    Attributes:
        record: What to store.
        late_propensity: Computes a propensity that takes too long for the answer; None: the
            record has it.
        several: Whether there was more than one candidate.
        encode_s: Seconds spent on features.
        draw_s: Seconds spent on everything else.
    """

    record: DecisionRecord
    late_propensity: Callable[[], float] | None
    several: bool
    encode_s: float
    draw_s: float


def draw(pending: Pending, ids: DecisionIds, max_inline_bytes: int) -> Drawn:
    """Draw one decision.

    Raises:
        UnknownAction, InvalidRequest: The request names candidates that cannot be offered.
    """
    started = time.perf_counter()
    bandit, command, now = pending.bandit, pending.command, time.time()
    offer = bandit.offer(command.candidates, now)
    num = command.num
    if num > len(offer.candidates):
        raise InvalidRequest("k", f"only {len(offer.candidates)} candidates are offered")
    if command.retrieve is not None and command.retrieve < num:
        raise InvalidRequest("retrieve", f"must be at least k = {num}")
    if command.all_propensities and len(offer.candidates) > MAX_PROPENSITIES:
        raise InvalidRequest(
            "all_propensities",
            f"{len(offer.candidates)} candidates are offered, {MAX_PROPENSITIES} at most",
        )
    key, decision_id = _identity(pending, ids)
    try:
        choice = bandit.model.select(
            _drawn_by(pending, decision_id, ids), pending.ready, offer.candidates,
            num=num, retrieve=command.retrieve,
            asked=_asked(pending, offer) if bandit.model.spec.has_arms else None,
            bounds=_bounds(pending, offer),
        )  # fmt: skip
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "candidates") from error
    return _drawn(pending, key, decision_id, offer, choice, started, now, max_inline_bytes)


def draw_together(pending: Sequence[Pending], ids: DecisionIds) -> list[Drawn]:
    """Draw several plain selects of one bandit: exactly what `draw` returns for each.

    Raises:
        InvalidRequest: One of them cannot be decided; `draw` finds out which.
    """
    started = time.perf_counter()
    bandit, now = pending[0].bandit, time.time()
    offer = bandit.offer(None, now)
    made = [_identity(each, ids) for each in pending]
    contexts = [each.ready for each in pending]
    asked = None
    if bandit.model.spec.has_arms:
        asked = [_asked(each, offer) for each in pending]
    try:
        choices = bandit.model.select_many(
            [_drawn_by(each, name, ids) for each, (_, name) in zip(pending, made, strict=True)],
            contexts,
            offer.candidates,
            asked,
            _bounds(pending[0], offer),
        )
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "candidates") from error
    rows = zip(pending, made, choices, strict=True)
    if _stores_all(bandit.model, pending[0].command, offer):
        started += (time.perf_counter() - started) * (1.0 - 1.0 / len(pending))  # an equal share
        return [
            _drawn(each, key, decision_id, offer, choice, started, now, 0)
            for each, (key, decision_id), choice in rows
        ]
    recording = _Recording.of(bandit, offer, now)
    records = [recording.record(each, *ids_of, choice) for each, ids_of, choice in rows]
    draw_s = (time.perf_counter() - started) / len(pending)
    several = len(offer.candidates) > 1
    return [
        Drawn(record, choice.late_propensity, several, choice.encode_s, draw_s - choice.encode_s)
        for record, choice in zip(records, choices, strict=True)
    ]


class _Recording(NamedTuple):
    """What the records of plain selects have in common, which one of them would look up again.

    Attributes:
        log_hash: See `DecisionRecord`.
        trims: Whether contexts, and features of actions, are objects, which are trimmed.
    """

    bandit: int
    now: float
    version: SnapshotVersion
    position: LogPosition
    log_hash: bytes | None
    ids: Sequence[ActionId]
    slots: NDArray[np.int64]
    action: Callable[[int], NDArray[np.float32]]
    trims: tuple[bool, bool]

    @classmethod
    def of(cls, bandit: Bandit, offer: Offer, now: float) -> Self:
        model = bandit.model
        trims = bandit.contexts is not None, model.spec.actions.features is not None
        return cls(
            bandit.record.key, now, model.version, model.position, model.log_hash,
            model.catalogue.ids, offer.candidates.slots, offer.candidates.action, trims,
        )  # fmt: skip

    def record(
        self, pending: Pending, key: DecisionKey, decision_id: DecisionId, choice: Choice
    ) -> DecisionRecord:
        """Return what `_drawn` records of a plain select without the propensities of all."""
        command, index = pending.command, int(choice.chosen[0])
        slot, features = int(self.slots[index]), self.action(index)
        features = trimmed(features) if self.trims[1] else features
        score = float(choice.scores[0])
        chosen = ChosenAction(self.ids[slot], slot, ActionSlot(slot), features, score)
        return DecisionRecord(
            decision_id, key, self.bandit, self.now, command.body_hash,
            trimmed(pending.context) if self.trims[0] else pending.context,
            (chosen,), None, None, self.version, self.position, choice.propensity,
            command.activate, choice.explored, choice.std, command.unit,
            arm=choice.arm, served=None if choice.arm is None else command.served,
            shadows=_shadows(choice, self.slots, self.ids), log_hash=self.log_hash,
        )  # fmt: skip


def _asked(pending: Pending, offer: Offer) -> Asked:
    slots, command = pending.bandit.model.catalogue.slots, pending.command
    return Asked(
        command.unit, command.served, lambda action: offer.place(action, slots),
        context=pending.context,
    )  # fmt: skip


def _bounds(pending: Pending, offer: Offer) -> Bounds | None:
    """Return how probable the choice of each candidate may be; None: there are no limits."""
    model = pending.bandit.model
    if not model.limits.has_shares:
        return None
    slots = model.catalogue.slots
    return model.limits.bounds(lambda name: offer.place(name, slots), len(offer.candidates))


def _drawn_by(pending: Pending, decision_id: DecisionId, ids: DecisionIds) -> DecisionId:
    """Return what a decision is drawn by; a unit counts as its hash, which alone is stored."""
    spec, unit = pending.bandit.model.spec, pending.command.unit
    if spec.sticky != "action" or unit is None:
        return decision_id
    return drawn_by(spec, decision_id, ids.unit(unit).hex())


def _identity(pending: Pending, ids: DecisionIds) -> tuple[DecisionKey, DecisionId]:
    key = ids.new_key(pending.bandit.record.key)
    return key, pending.command.decision_id or ids.text(key)


def _drawn(
    pending: Pending,
    key: DecisionKey,
    decision_id: DecisionId,
    offer: Offer,
    choice: Choice,
    started: float,
    now: float,
    max_inline_bytes: int,
) -> Drawn:
    bandit, command = pending.bandit, pending.command
    model = bandit.model
    propensity, late = choice.propensity, choice.late_propensity
    everyone = _all_propensities(offer, choice) if _stores_all(model, command, offer) else None
    if everyone is not None and late is not None:
        propensity, late = float(everyone.values[choice.chosen[0]]), None
    record = DecisionRecord(
        decision_id=decision_id,
        key=key,
        bandit=bandit.record.key,
        time=now,
        body_hash=command.body_hash,
        context=trimmed(pending.context) if bandit.contexts else pending.context,
        chosen=_chosen_actions(model, offer, choice),
        candidates=_offered_ids(model, offer, choice),
        features=_inline_features(command, offer, choice, max_inline_bytes),
        snapshot=model.version,
        position=model.position,
        propensity=propensity,
        activated=command.activate,
        explored=choice.explored,
        std=choice.std,
        unit=command.unit,
        retrieval=_retrieval(command, offer, choice),
        propensities=everyone,
        arm=choice.arm,
        served=None if choice.arm is None else command.served,
        shadows=_shadows(choice, offer.candidates.slots, model.catalogue.ids, offer.ids),
        log_hash=model.log_hash,
    )
    draw_s = time.perf_counter() - started - choice.encode_s
    several = len(offer.candidates) > 1
    return Drawn(record, late, several, choice.encode_s, draw_s)


def _shadows(
    choice: Choice,
    slots: NDArray[np.int64],
    catalogue: Sequence[ActionId],
    offered: Sequence[ActionId] | None = None,
) -> dict[str, ActionId] | None:
    """Return what shadows would have served; None without shadows.

    `offered`: The candidates' ids, where the request lists them; None: they are the catalogue's.
    """
    if not choice.shadows:
        return None
    return {
        name: catalogue[int(slots[index])] if offered is None else offered[index]
        for name, index in choice.shadows.items()
    }


def _stores_all(model: ServingModel, command: SelectCommand, offer: Offer) -> bool:
    """Whether the propensities of all candidates are stored: `draw` refuses too many asked for."""
    if command.all_propensities:
        return True
    if model.spec.selection.log_propensities != "all" or command.retrieve is not None:
        return False
    return len(offer.candidates) <= MAX_PROPENSITIES


def _all_propensities(offer: Offer, choice: Choice) -> Propensities:
    slots = offer.candidates.slots
    indexes = slots if offer.ids is None else np.arange(len(slots))
    compute = choice.all_propensities
    assert compute is not None, "every policy gives them"
    return Propensities(indexes.astype(np.int32), compute())


def _retrieval(command: SelectCommand, offer: Offer, choice: Choice) -> Retrieval | None:
    if choice.retrieved is None or command.retrieve is None:
        return None
    return Retrieval(command.retrieve, len(offer.candidates), listed=offer.ids is not None)


def _inline_features(
    command: SelectCommand, offer: Offer, choice: Choice, max_bytes: int
) -> NDArray[Any] | None:
    if not isinstance(command.candidates, InlineCandidates):
        return None
    features = offer.candidates.features
    if choice.retrieved is not None:
        features = features[choice.retrieved]
    return features if stored_bytes(features) <= max_bytes else None


def _chosen_actions(model: ServingModel, offer: Offer, choice: Choice) -> tuple[ChosenAction, ...]:
    """Return the chosen actions with everything that learning from them needs."""
    candidates = offer.candidates
    out = []
    chosen, scores = choice.chosen.tolist(), choice.scores.tolist()
    propensities = choice.propensities or (None,) * len(chosen)
    for index, score, propensity in zip(chosen, scores, propensities, strict=True):
        slot = int(candidates.slots[index])
        if offer.ids is None:
            action_id, shown = model.catalogue.ids[slot], slot
        else:
            action_id, shown = offer.ids[index], index
        features = candidates.action(index)
        if model.spec.actions.features is not None:
            features = trimmed(features)
        out.append(ChosenAction(action_id, shown, ActionSlot(slot), features, score, propensity))
    return tuple(out)


def _offered_ids(model: ServingModel, offer: Offer, choice: Choice) -> tuple[ActionId, ...] | None:
    """Return the ids to store: the candidates, or those that were retrieved from them."""
    if choice.retrieved is None:
        return None if offer.ids is None else tuple(offer.ids)
    if offer.ids is None:
        return tuple(model.catalogue.ids[offer.candidates.slots[i]] for i in choice.retrieved)
    return tuple(offer.ids[i] for i in choice.retrieved)
