"""Answers about what arms, actions and challengers earn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bandexa_client.answers.sent import SENT


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of values, with an interval that holds at any time, at 95 %.

    Attributes:
        num: The number of values behind it.
        mean: The mean; None without values.
        low, high: The interval; None without values, and without a reward range before 100.
    """

    num: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class ComparedArm:
    """How an arm stands by a metric, or in a segment.

    Attributes:
        reward: Its values.
        lift: What the bandit's are more; None of the bandit itself.
    """

    reward: Estimate
    lift: Estimate | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often an arm and the bandit choose alike, by the values learned of their decisions.

    Attributes:
        share: The share of values where they do.
        reward_share: Which share of what was earned was earned there; None where nothing was.
    """

    share: Estimate
    reward_share: float | None


@dataclass(frozen=True, slots=True)
class ArmState:
    """How an arm stands, since it is what it is now.

    Attributes:
        name: Its name; "bandit" is the bandit itself.
        share: The probability that it decides now.
        reward: What its decisions earned.
        lift: What the bandit's earn more; None of the bandit itself.
        metrics: The same by each metric.
        segments: The same for each value of the segment.
        agreement: How often it and the bandit choose alike; of rules and shadows.
    """

    name: str
    share: float
    reward: Estimate
    lift: Estimate | None
    metrics: Mapping[str, ComparedArm] | None = field(default=None, metadata=SENT)
    segments: Mapping[str, ComparedArm] | None = field(default=None, metadata=SENT)
    agreement: Agreement | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class Guarded:
    """Why a guard made an arm serve everything.

    Attributes:
        arm: The arm.
        time: Seconds since the epoch.
        margin: By how much the bandit might have been worse.
        low, high: The interval of its lift over the arm then.
        num: The number of values behind it.
        metric: Which metric was worse; None: what is learned.
    """

    arm: str
    time: float
    margin: float
    low: float
    high: float
    num: int
    metric: str | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class ActionValue:
    """What an action earned where it was chosen first; `metrics`: what was reported of each."""

    id: str
    reward: Estimate
    metrics: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Values:
    """What the arms and the actions of a bandit earned.

    Attributes:
        arms: The arms, the bandit itself last; none where it has none.
        actions: The actions with the most values.
        num_actions: How many actions have values.
        behind: Whether there are values that are not counted yet.
    """

    arms: tuple[ArmState, ...]
    actions: tuple[ActionValue, ...]
    num_actions: int
    behind: bool


@dataclass(frozen=True, slots=True)
class ChallengerScore:
    """How a challenger compares with what was served, by the log.

    Attributes:
        num: Decisions behind it.
        left_out: Decisions that were learned and not counted: with `sticky: action`, those that
            were not the first of their units.
        learned: Learned values of the bandit then.
        time: When that was, seconds since the epoch.
        seconds: CPU time that it took, about.
        lift, low, high: What it would have earned more than what was served, per decision, with an
            interval that holds at any time; None without decisions, or before 100.
        value, served: What it would have earned, and what was earned.
        effective, mean_weight: How many rows its weights amount to, and their mean.
        reasons: Why nothing should be concluded; empty: it can be.
        error: Why it could not be compared.
        is_better: Whether the log says that it is better.
    """

    num: int
    left_out: int
    learned: int
    time: float
    seconds: float
    lift: float | None
    low: float | None
    high: float | None
    value: float | None
    served: float | None
    effective: float
    mean_weight: float | None
    reasons: tuple[str, ...]
    error: str | None
    is_better: bool


@dataclass(frozen=True, slots=True)
class ChallengerState:
    """A challenger: another configuration that learns the log of a bandit beside it.

    Attributes:
        name: Its name.
        state: learning, trial, promoting, served or returned.
        share: The probability that it decides.
        differs: The sections in which its configuration differs from the bandit's.
        promotion: How it is promoted: rule, margin, steps, step_values, least.
        created: When it was declared, seconds since the epoch.
        score: How it compares; None before the first comparison.
    """

    name: str
    state: str
    share: float
    differs: Mapping[str, object]
    promotion: Mapping[str, object]
    created: float
    score: ChallengerScore | None


@dataclass(frozen=True, slots=True)
class EvaluationState:
    """An evaluation of policies on a bandit's log.

    Attributes:
        id: Its id.
        bandit: The bandit's name.
        state: queued, running, done, failed, cancelled, or interrupted by the end of the server.
        requested_at, started_at, ended_at: Seconds since the epoch.
        request: What was asked for.
        error: Why there is no result.
        result: What `bandexa evaluate --json` prints; None in lists, and until it is done.
    """

    id: str
    bandit: str
    state: str
    requested_at: float
    started_at: float | None
    ended_at: float | None
    request: Mapping[str, object]
    error: str | None
    result: Mapping[str, object] | None
