"""The values of one select: what was requested, what the candidates are, what was decided."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandexa_core.features.equal_rows import Groups
from bandexa_core.ids import ActionId, ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.policies import Candidates, LinearHead
from bandexa_core.policies.protocol import Policy
from service.store.errors import InvalidRequest
from service.store.records import ChosenAction, DecisionRecord, Propensities


@dataclass(frozen=True, slots=True)
class EncodedActions:
    """The parts of inline candidates under one encoding and encoder.

    Attributes:
        policy: Which computed them.
        parts: They, (K, V).
    """

    policy: LinearHead
    parts: NDArray[np.float64] | None

    @classmethod
    def of(cls, policy: LinearHead, features: NDArray[Any]) -> Self:
        """Return what a policy's encoder makes of candidates (K, A); on any thread."""
        parts = policy.action_parts(features)
        if parts is None and policy.named is not None and policy.named.a is not None:
            policy.named.actions(features)  # which remembers them
        return cls(policy, parts)

    def under(self, policy: Policy) -> NDArray[np.float64] | None:
        """Return the parts for a policy of the same encoding and encoder; None for another one."""
        mine = self.policy
        is_same = (
            isinstance(policy, LinearHead)
            and policy.encoder is mine.encoder
            and policy.named is mine.named
        )
        return self.parts if is_same else None


@dataclass(frozen=True, slots=True)
class InlineCandidates:
    """Candidates that bring their own features.

    Attributes:
        ids: K ids, different from each other.
        features: As they were sent: an array of K rows, not yet checked against the bandit; objects
            as they are logged.
        objects: Whether they are objects with named features.
        groups: Returns the groups with equal features, where `looked_up` has found them.
        places: The place of each id, likewise.
        encoded: What the encoder makes of them, where it was computed beforehand.
    """

    ids: tuple[ActionId, ...]
    features: NDArray[Any]
    objects: bool = False
    groups: Callable[[], Groups | None] | None = None
    places: Mapping[ActionId, int] | None = None
    encoded: EncodedActions | None = None

    def looked_up(self) -> InlineCandidates:
        """Return the same with all that takes long for many, and is not for the event loop."""
        if self.features.ndim != 2:  # no bandit takes them
            return self
        with np.errstate(over="ignore", invalid="ignore"):  # nor what does not fit float32
            rows = self.features if self.objects else self.features.astype(np.float32)
            groups = Groups.of_rows(rows)
        places = {name: place for place, name in enumerate(self.ids)}
        return replace(self, groups=lambda: groups, places=places)


CandidateInput = Sequence[ActionId] | InlineCandidates | None


def listed_ids(command: SelectCommand) -> Sequence[ActionId] | None:
    """Return the ids of the candidates that a request lists; None: it lists none."""
    given = command.candidates
    return given.ids if isinstance(given, InlineCandidates) else given


def place_of(command: SelectCommand, chosen: ChosenAction) -> int:
    """Return the place of a chosen action in the list of the request, else its slot.

    What is noted is its place among those that were offered: some may be outside their dates.
    """
    listed = listed_ids(command)
    if listed is None or listed[chosen.place] == chosen.id:
        return chosen.place
    return listed.index(chosen.id)


def within_dates(
    given: Sequence[ActionId] | InlineCandidates, absent: Collection[ActionId]
) -> Sequence[ActionId] | InlineCandidates:
    """Return the candidates of a request without those that are not offered now.

    Raises:
        InvalidRequest: There are no others.
    """
    ids = given.ids if isinstance(given, InlineCandidates) else given
    places = [place for place, name in enumerate(ids) if name not in absent]
    if len(places) == len(ids):
        return given
    if not places:
        raise InvalidRequest("candidates", f"none is offered now: {ids[0]!r} is outside its dates")
    kept = tuple(ids[place] for place in places)
    if not isinstance(given, InlineCandidates):
        return kept
    done = given.encoded
    if done is not None and done.parts is not None:
        done = replace(done, parts=done.parts[places])
    return InlineCandidates(kept, given.features[places], given.objects, encoded=done)


@dataclass(frozen=True, slots=True)
class Offer:
    """The resolved candidates of one request; `ids` is None where all enabled actions are."""

    candidates: Candidates
    ids: Sequence[ActionId] | None

    def place(self, action: ActionId, slots: Mapping[ActionId, ActionSlot]) -> int | None:
        """Return the index of an action among the candidates; None where it is not offered.

        `slots`: Those of the catalogue.
        """
        if self.ids is not None:
            return self.ids.index(action) if action in self.ids else None
        slot = slots.get(action)
        if slot is None:
            return None
        found = int(np.searchsorted(self.candidates.slots, slot))  # which ascend
        is_there = found < len(self.candidates) and int(self.candidates.slots[found]) == slot
        return found if is_there else None


class SelectCommand(msgspec.Struct, frozen=True, gc=False):
    """A decoded select.

    Attributes:
        context: An array, not yet checked against the bandit; an object as it is logged.
        num: How many actions to choose.
        body_hash: Digest of the body; None where the service makes the decision id.
        unit: The user or session that it is for; None where the caller names none.
        all_propensities: Whether those of all candidates are asked for.
        served: The action that the caller would serve; None where the caller names none.
        decode_s: Seconds that decoding took.
    """

    bandit: str
    context: NDArray[Any]
    candidates: CandidateInput
    retrieve: int | None
    decision_id: DecisionId | None
    num: int
    activate: bool
    body_hash: bytes | None
    decode_s: float = 0.0
    unit: str | None = None
    all_propensities: bool = False
    served: ActionId | None = None


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer of a select; `propensities` are of all candidates, where it asked for them.

    `candidates`: those that were offered, less than the request lists where some are outside their
    dates, or the retrieved ones; None: all enabled actions.
    """

    decision_id: DecisionId
    chosen: tuple[ChosenAction, ...]
    propensity: float | None
    snapshot: SnapshotVersion
    position: LogPosition
    propensities: Propensities | None = None
    arm: str | None = None
    candidates: tuple[ActionId, ...] | None = None

    @classmethod
    def of(cls, record: DecisionRecord) -> Decision:
        """Return the answer of a decision that was just stored."""
        return cls(
            record.decision_id, record.chosen, record.propensity, record.snapshot, record.position,
            record.propensities, record.arm, record.candidates,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scores:
    """Posterior mean and standard deviation of each candidate's expected reward, K each."""

    ids: tuple[ActionId, ...]
    indexes: NDArray[np.int64]
    means: NDArray[np.float64]
    stds: NDArray[np.float64]
    snapshot: SnapshotVersion
    position: LogPosition
