"""The answer that says how much exploration, or control, a bandit needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdviceInputs:
    """What an answer follows from.

    Attributes:
        difference: What is to be seen, in the unit of rewards.
        variance: Of rewards.
        variance_from: values: of the last week; range: too few came, and this is the largest that
            the range allows; given: by the call.
        num_values: Values of the last week.
        actions: How many there are to choose from.
        bandit_share: The share of decisions that are the bandit's own.
        epsilon, epsilon_now: The probability of a uniform choice at the beginning, and now.
        decisions: Within how many decisions.
        decisions_per_day: By the traffic of the last week; None: there was none.
        values_per_decision: How many decisions get a value.
        values: Within how many values, by that.
    """

    difference: float
    variance: float
    variance_from: str
    num_values: int
    actions: int
    bandit_share: float
    epsilon: float
    epsilon_now: float
    decisions: int
    decisions_per_day: float | None
    values_per_decision: float
    values: int


@dataclass(frozen=True, slots=True)
class AdviceNeeded:
    """What shows the difference within that many decisions; None: nothing does.

    Attributes:
        share: The share q of the log that has to be of interest.
        control: The `share` of an arm: whether the bandit is better than it.
        floor: `limits.floor` of an action: what serving it always would earn. It stays.
        epsilon: `selection.epsilon`: the same for all actions. It falls beyond 1,000 values.
    """

    share: float
    control: float | None
    floor: float | None
    epsilon: float | None


@dataclass(frozen=True, slots=True)
class AdviceNow:
    """How long it takes as the bandit is configured now.

    Attributes:
        of: arm, or action: the one with the least exploration.
        name: Its name; None where all actions have the same.
        share: The share of decisions that it has.
        decisions: How many it takes; None: it never shows.
        days: How long, by the traffic of the last week.
    """

    of: str
    name: str | None
    share: float
    decisions: int | None
    days: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """How much exploration, or control, shows a difference, by n = 10 v / (q d^2).

    Attributes:
        inputs: What it follows from.
        needed: What shows the difference.
        now: How long it takes as the bandit is configured.
        text: The same in sentences.
    """

    inputs: AdviceInputs
    needed: AdviceNeeded
    now: tuple[AdviceNow, ...]
    text: tuple[str, ...]
