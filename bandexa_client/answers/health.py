"""Answers about the state of the server, and about whether its bandits learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bandexa_client.answers.arms import ActionValue, Estimate
from bandexa_client.answers.sent import SENT


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The trainer process.

    Attributes:
        state: stopped, starting, idle or training.
        phase: What it does within its round.
        pid: Its process id; None while it does not run.
        rounds: Rounds it has finished since the server started.
    """

    state: str
    phase: str
    pid: int | None
    rounds: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a bandit does not learn, or may not.

    Attributes:
        name: Its stable name.
        severity: alarm or notice.
        message: What was found.
        remedy: What helps.
        since: When it began, seconds since the epoch; None within its first seconds.
    """

    name: str
    severity: str
    message: str
    remedy: str
    since: float | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class FieldRates:
    """How often a named feature had no value that the model could use, of the counted objects.

    Attributes:
        missing: The share of objects that lack it, or have null.
        unseen: The share with a category that the vocabulary has not.
        wrong: The share with a value of a type that counts as missing.
        collided: Of its values in hashed places, the share whose place another one had before; None
            without any.
    """

    missing: float
    unseen: float
    wrong: float
    collided: float | None


@dataclass(frozen=True, slots=True)
class Learning:
    """Whether a bandit still learns, measured since the server started.

    Attributes:
        findings: What prevents it, or may.
        join_rate: Rewarded decisions per decision, over about the last 1,000.
        reward_mean: Mean over about the last 1,000 learned values.
        clipped_values: Values that were learned as the bound that they were beyond.
        refused_rewards: Rewards that were refused because they are outside of `reward_range`.
        judged_values: How many recent values the findings about actions have judged; 0: too few
            came, so that no finding says little. None where the service does not report it.
        loss_shown_after_s: Seconds after which a total loss of rewards would show; None while too
            little is known, or where the service does not report it.
        feature_rates: Named features by side and path, such as "context.user.age", that were
            missing, unseen, wrong or collided in a counted object; None where the service does not
            report them.
    """

    findings: tuple[Finding, ...]
    join_rate: float | None
    reward_mean: float | None
    clipped_values: int | None = field(default=None, metadata=SENT)
    refused_rewards: int | None = field(default=None, metadata=SENT)
    judged_values: int | None = field(default=None, metadata=SENT)
    loss_shown_after_s: float | None = field(default=None, metadata=SENT)
    feature_rates: Mapping[str, FieldRates] | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class LiftPart:
    """A lift by a metric or in a segment; `text` says for a person what it says."""

    lift: Estimate
    text: str


@dataclass(frozen=True, slots=True)
class LiftLine:
    """What a bandit earns more than an arm.

    Attributes:
        arm: The arm.
        share: The probability that the arm decides now.
        lift: In figures.
        text: Whether the bandit is better, for a person.
        metrics: The same by each metric.
        segments: The same for each value of the segment.
    """

    arm: str
    share: float
    lift: Estimate
    text: str
    metrics: Mapping[str, LiftPart]
    segments: Mapping[str, LiftPart]


@dataclass(frozen=True, slots=True)
class BanditLearning(Learning):
    """Whether a bandit still learns, and whether it is better than its arms.

    Attributes:
        lifts: What it earns more than each arm that decides a share; None where the service does
            not report it.
        action_values: What the ten actions with the most values earned; None likewise.
    """

    lifts: tuple[LiftLine, ...] | None = field(default=None, metadata=SENT)
    action_values: tuple[ActionValue, ...] | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service takes requests; true when it does.

    Attributes:
        status: ready, or not ready.
        detail: Why it is not ready; None when it is.
        trainer: The trainer process; None where the service does not report it.
        worker: Which of several workers answers; None where there is one process.
        server: Which of the servers that share a database answers; None where there is one.
        role: What that server is, "keeper" or "replica"; None likewise.
    """

    status: str
    detail: str | None
    trainer: TrainerState | None
    worker: int | None = field(default=None, metadata=SENT)
    server: int | None = field(default=None, metadata=SENT)
    role: str | None = field(default=None, metadata=SENT)

    def __bool__(self) -> bool:
        """Return whether the service takes requests."""
        return self.status == "ready"


@dataclass(frozen=True, slots=True)
class ClockState:
    """Service time, in which reward windows, forgetting and retention run.

    Attributes:
        wall: The server's wall time, seconds since the epoch.
        service: Its service time: wall time without its jumps.
        offset_s: The sum of the jumps that service time did not follow.
    """

    wall: float
    service: float
    offset_s: float


@dataclass(frozen=True, slots=True)
class LearnState:
    """Whether all bandits learn.

    Attributes:
        status: learning, or alarm when a finding prevents a bandit from learning.
        findings: Findings about the server as a whole.
        bandits: Findings, measurements and lifts of each bandit, by its name.
    """

    status: str
    findings: tuple[Finding, ...]
    bandits: Mapping[str, BanditLearning]


@dataclass(frozen=True, slots=True)
class NotedFinding:
    """A finding that a bandit has or had.

    Attributes:
        name, severity, message: See `Finding`.
        since: When it began, seconds since the epoch.
        until: When it ended; None while it is there.
    """

    name: str
    severity: str
    message: str
    since: float
    until: float | None


@dataclass(frozen=True, slots=True)
class NotedFindings:
    """The findings of a bandit over time, the newest first."""

    findings: tuple[NotedFinding, ...]
