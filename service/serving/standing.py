"""How the arms of a bandit stand: plain values, which the dashboard's follower counts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from bandexa_core.arms import shares
from bandexa_core.evaluation import Interval
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.arms import BANDIT

EMPTY: Mapping[str, Compared] = MappingProxyType({})
EMPTY_GUARDED: Mapping[str, Estimated] = MappingProxyType({})


class Estimated(NamedTuple):
    """A mean with its interval.

    Attributes:
        num: The number of values behind it.
        mean: The mean; None without values.
        interval: An interval that holds at any time, with probability 0.95; None where there
            is none yet.
    """

    num: int
    mean: float | None
    interval: Interval | None


class Compared(NamedTuple):
    """How an arm stands by a metric, or in a segment: see `ArmStanding`."""

    reward: Estimated
    lift: Estimated | None


class Agreement(NamedTuple):
    """How often an arm and the bandit choose alike.

    Attributes:
        share: The share of values in whose decisions they did.
        reward_share: Which share of all that was earned was earned there; None where that says
            nothing, because nothing was earned.
    """

    share: Estimated
    reward_share: float | None


class ArmStanding(NamedTuple):
    """How an arm stands.

    Attributes:
        name: The arm.
        share: The probability that it decides now.
        reward: Its values.
        lift: What the bandit's values are more than its own; None of the bandit itself.
        metrics: The same by each metric.
        segments: The same for each value of the segment.
        guarded: Of the arm that guards: the lifts that it acts on, by metric ("": what is learned),
            with intervals that share the probability of an error.
        agreement: Of an arm that follows a rule, and of a shadow; None of others.
    """

    name: str
    share: float
    reward: Estimated
    lift: Estimated | None
    metrics: Mapping[str, Compared] = EMPTY
    segments: Mapping[str, Compared] = EMPTY
    guarded: Mapping[str, Estimated] = EMPTY_GUARDED
    agreement: Agreement | None = None


class EarnedByAction(NamedTuple):
    """What an action earned where it was chosen first.

    Attributes:
        name: Its id.
        reward: Its values.
        metrics: By metric, those of its values that it is a part of.
    """

    name: str
    reward: Estimated
    metrics: Mapping[str, Estimated]


class Standing(NamedTuple):
    """How the arms of a bandit stand.

    Attributes:
        arms: They, the bandit itself last; none where it has none.
        spec: The configuration that they are compared under.
    """

    arms: tuple[ArmStanding, ...]
    spec: BanditSpec

    @classmethod
    def new(cls, spec: BanditSpec) -> Standing:
        """Return how arms stand before any value."""
        nothing, chances = Estimated(0, None, None), shares(spec)
        none = Agreement(nothing, None)
        arms = [
            ArmStanding(
                arm.name, chances.get(arm.name, 0.0), nothing, nothing,
                agreement=none if arm.shadow or arm.has_rule else None,
            )
            for arm in spec.arms
        ]  # fmt: skip
        own = ArmStanding(BANDIT, chances.get(BANDIT, 0.0), nothing, None)
        return cls((*arms, own), spec)

    def is_of(self, spec: BanditSpec) -> bool:
        """Whether that is how the arms of a configuration stand: nothing begins anew with it."""

        def compared(of: BanditSpec) -> tuple[object, ...]:
            return of.arms, shares(of), of.sticky, of.reward_range, of.segment

        return compared(spec) == compared(self.spec)
