"""Arms: what else than the bandit decides some of its decisions, and how probable that makes them.

The arm of a decision is drawn by a number keyed by its id (or by the unit, where one stays in one
arm), apart from the draws of the bandit. So it repeats, and a decision of the bandit is what it
would be without arms. With `sticky: action` all numbers of a decision are keyed by the unit.

Drawn by the decision, an action is served with the probability of the mixture,

    p(a) = sum_j share_j p_j(a),

whatever the arm that was drawn; this is the propensity that is stored. An arm that follows a rule
has p_j = 1 for its action; one with a method, or with the model of a challenger, has the
probability given its own panel of draws.
Where the unit decides, the arm is known before the decision, and the propensity is that under it.

A request that an arm cannot serve (its action is not offered, or the request names none) is the
bandit's: no arm is drawn, whichever it would have been, so that all arms see the same requests.

A shadow decides by numbers of its own and serves nothing: neither the draw of another arm nor any
probability depends on it. What it would have served is part of the choice.

Legend: K candidates, k picks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, BanditUid, DecisionId
from bandexa_core.policies import Candidates, Choice, EncodedContext, Uniform
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.protocol import Policy
from bandexa_core.randomness import drawing_rng, keyed_number
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.arms import BANDIT, SERVED, ArmSpec

Indexes = NDArray[np.int64]
Array64 = NDArray[np.float64]


class Asked(NamedTuple):
    """What arms need to know of a request.

    Attributes:
        unit: The user or session; None: the request names none.
        served: The action that the caller would serve; None: the request names none.
        place: Returns the index of an action among the candidates; None where it is not offered.
        arm: The arm, where it is known and is not drawn: of a decision that is made again.
        context: The context as it is logged, for the model of a challenger.
    """

    unit: str | None
    served: ActionId | None
    place: Callable[[ActionId], int | None]
    arm: str | None = None
    context: NDArray[Any] | None = None


class Trial(NamedTuple):
    """The model of a challenger that decides as an arm: its policy, and how it explores."""

    policy: Policy
    exploration: Exploration


NO_TRIALS: Mapping[str, Trial] = {}


class Part(NamedTuple):
    """An arm's part in a decision.

    Attributes:
        name: The arm.
        weight: The probability that it decides.
        place: The index of what it serves, where that follows from the request.
        arm: Its configuration; None: the bandit itself.
    """

    name: str
    weight: float
    place: int | None = None
    arm: ArmSpec | None = None


class Assigned(NamedTuple):
    """Who decides: one of the parts; `parts` has those with a probability above 0."""

    mine: Part
    parts: tuple[Part, ...]


def shares(spec: BanditSpec) -> dict[str, float]:
    """Return the probability of each arm, "bandit" among them; of an arm that serves all, 1."""
    if spec.serve is not None:
        return {SERVED: 1.0}
    if spec.mode == "control_only":
        return {spec.guard.arm: 1.0}
    found = {arm.name: arm.share for arm in spec.arms if not arm.shadow}
    return found | {BANDIT: 1.0 - sum(found.values())}


def drawn_by(spec: BanditSpec, decision_id: DecisionId, unit: str | None) -> DecisionId:
    """Return what the random numbers of a decision are keyed by: its id, or its unit.

    `unit`: a name of the unit that never changes, such as its hash; None: the request names none.
    """
    if spec.sticky != "action" or unit is None:
        return decision_id
    return DecisionId(f"unit/{unit}")  # no id of a decision has a slash


def assigned(
    spec: BanditSpec,
    uid: BanditUid,
    decision_id: DecisionId,
    asked: Asked,
    trials: Collection[str] = (),
) -> Assigned | None:
    """Return who decides; None: the bandit, in a request that an arm cannot serve.

    `trials`: the arms of challengers whose models are there.
    """
    chances = shares(spec)
    known = {arm.name: arm for arm in spec.arms}
    parts = []
    for name, weight in chances.items():
        if weight <= 0.0:
            continue
        arm, place = known.get(name), None
        if arm is not None and arm.challenger is not None and name not in trials:
            return None
        if name == SERVED:
            place = asked.place(ActionId(spec.serve or ""))
        elif arm is not None and arm.has_rule:
            place = _place(arm, asked)
        if place is None and (name == SERVED or (arm is not None and arm.has_rule)):
            return None
        parts.append(Part(name, weight, place, arm))
    if asked.arm is not None:
        mine = next((part for part in parts if part.name == asked.arm), None)
        if mine is None:
            return None
    else:
        mine = parts[0] if len(parts) == 1 else _drawn(spec, uid, decision_id, asked, parts)
    if spec.sticky is not None and asked.unit is not None:
        return Assigned(mine, (mine._replace(weight=1.0),))
    return Assigned(mine, tuple(parts))


def _drawn(
    spec: BanditSpec, uid: BanditUid, decision_id: DecisionId, asked: Asked, parts: Sequence[Part]
) -> Part:
    key, purpose = str(decision_id), "arm"
    if spec.sticky is not None and asked.unit is not None:
        key, purpose = asked.unit, "arm of unit"
    number = keyed_number(uid, spec.seed or 0, purpose, key)
    for part in parts[:-1]:
        number -= part.weight
        if number < 0.0:
            return part
    return parts[-1]


def _place(arm: ArmSpec, asked: Asked) -> int | None:
    if arm.policy == "first":
        return 0
    action = asked.served if arm.policy == "request" else arm.action
    return None if action is None else asked.place(ActionId(action))


class Division:
    """One decision of a bandit with arms.

    Args:
        spec: The bandit's configuration.
        uid: The bandit.
        policy: What the bandit selects by, and what arms with a method do.
        exploration: How the bandit explores.
        decision_id: The decision.
        context: Its context.
        candidates: What is offered.
        asked: What arms need to know of the request.
        num, retrieve: See `Policy.select`.
        trials: The models of challengers, by the name of their arm.
    """

    def __init__(
        self,
        spec: BanditSpec,
        uid: BanditUid,
        policy: Policy,
        exploration: Exploration,
        decision_id: DecisionId,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        asked: Asked,
        num: int = 1,
        retrieve: int | None = None,
        trials: Mapping[str, Trial] = NO_TRIALS,
    ) -> None:
        self._asked = asked
        self._trials = trials
        self._policy = policy
        self._exploration = exploration
        self._key = uid, spec.seed or 0, str(decision_id)
        self._context = context
        self._candidates = candidates
        self._num = num
        self._retrieve = retrieve
        self._assigned = assigned(spec, uid, decision_id, asked, trials)
        self._shadows = [arm for arm in spec.arms if arm.shadow]

    @property
    def forced(self) -> Indexes | None:
        """What is served in place of the bandit's own picks, (k,); None: these are."""
        if self._assigned is None or self._assigned.mine.name == BANDIT:
            return None
        mine = self._assigned.mine
        if mine.place is not None:
            return self._picks(mine.place)
        return self._by_method(mine, None).chosen

    def made(self, own: Choice) -> Choice:
        """Return the choice, given that of the bandit's policy with `forced`."""
        served = self._served(own)
        return replace(served, shadows=self._shadowed()) if self._shadows else served

    def _shadowed(self) -> dict[str, int]:
        """Return the index that each shadow would have served, of those that can serve this."""
        found = {}
        for arm in self._shadows:
            part = Part(arm.name, 0.0, _place(arm, self._asked) if arm.has_rule else None, arm)
            if part.place is not None:
                found[arm.name] = part.place
            elif not arm.has_rule:
                found[arm.name] = int(self._by_method(part, None).chosen[0])
        return found

    def _served(self, own: Choice) -> Choice:
        if self._assigned is None:
            return own
        mine, parts = self._assigned
        if parts == (mine,) and mine.name == BANDIT:
            return replace(own, arm=BANDIT)
        chosen, weights = own.chosen, [part.weight for part in parts]
        laws = [self._law(part, own, chosen) for part in parts]

        def propensity() -> float:
            return sum(w * law.first() for w, law in zip(weights, laws, strict=True))

        def everyone() -> Array64:
            found = [w * law.all() for w, law in zip(weights, laws, strict=True)]
            whole: Array64 = np.sum(found, axis=0)
            return whole

        places = [law.places for law in laws]
        of_places = None
        if self._num > 1 and all(each is not None for each in places):
            columns = zip(*(each or () for each in places), strict=True)
            of_places = tuple(
                sum(w * p for w, p in zip(weights, column, strict=True)) for column in columns
            )
        is_late = any(law.is_late for law in laws)
        return replace(
            own,
            arm=mine.name,
            propensity=None if is_late else propensity(),
            late_propensity=propensity if is_late else None,
            propensities=of_places,
            all_propensities=everyone,
        )

    def _picks(self, place: int) -> Indexes:
        """Return one action, and behind it the others in the order of the candidates, (k,)."""
        others = np.arange(min(self._num, len(self._candidates)))
        return np.concatenate([[place], others[others != place]])[: self._num].astype(np.int64)

    def _by_method(self, part: Part, forced: Indexes | None) -> Choice:
        """Return what an arm with a method picks; with `forced`, how probable that is to it."""
        assert part.arm is not None, "it is an arm with a method"
        if part.arm.challenger is not None:
            return self._by_trial(part, forced)
        method, exploration = part.arm.policy, self._exploration
        policy: Policy = Uniform()
        if method in ("thompson", "squarecb", "greedy"):
            policy = self._policy
            exploration = dataclasses.replace(exploration, method=method)
        return policy.select(
            self._context, self._candidates, self._rng(part, exploration), num=self._num,
            retrieve=self._retrieve, exploration=exploration, forced=forced,
        )  # fmt: skip

    def _by_trial(self, part: Part, forced: Indexes | None) -> Choice:
        """Return what the model of a challenger picks, from what was sent."""
        trial, context = self._trials[part.name], self._asked.context
        assert context is not None, "whoever draws arms has the context as it is logged"
        mine = self._candidates
        offered = Candidates(mine.slots, mine.features, groups=lambda: mine.groups)
        return trial.policy.select(
            context, offered, self._rng(part, trial.exploration), num=self._num,
            retrieve=self._retrieve, exploration=trial.exploration, forced=forced,
        )  # fmt: skip

    def _rng(self, part: Part, exploration: Exploration) -> np.random.Generator:
        uid, seed, name = self._key
        return drawing_rng(exploration.version, uid, seed, f"decision of {part.name}", name)

    def _law(self, part: Part, own: Choice, chosen: Indexes) -> _Law:
        if part.place is not None:
            served, num = self._picks(part.place), len(self._candidates)
            return _Law.certain(served, chosen, num)
        choice = own if part.arm is None else self._by_method(part, chosen)
        return _Law.of(choice)


class _Law(NamedTuple):
    """How probable what was chosen is to one arm.

    Attributes:
        first: Returns the probability of the first pick.
        is_late: Whether that takes too long for the answer.
        places: Those of all picks at their places; None where they take too long, or k is 1.
        all: Returns those of all candidates to be the first, (K,).
    """

    first: Callable[[], float]
    is_late: bool
    places: tuple[float, ...] | None
    all: Callable[[], Array64]

    @classmethod
    def certain(cls, served: Indexes, chosen: Indexes, num: int) -> _Law:
        """Return that of an arm that serves certain candidates, out of `num`."""
        same = tuple((served == chosen).astype(np.float64).tolist())

        def one_hot() -> Array64:
            found = np.zeros(num)
            found[served[0]] = 1.0
            return found

        return cls(lambda: same[0], False, same, one_hot)

    @classmethod
    def of(cls, choice: Choice) -> _Law:
        """Return that of a choice of a policy."""
        known, late, everyone = (
            choice.propensity, choice.late_propensity, choice.all_propensities,
        )  # fmt: skip

        def first() -> float:
            if known is not None:
                return known
            assert late is not None, "a choice has a propensity or computes it"
            return late()

        def every() -> Array64:
            assert everyone is not None, "what asks for them is not drawn together with others"
            return everyone()

        return cls(first, known is None, choice.propensities, every)
