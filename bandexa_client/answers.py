"""What the service answers, as frozen values; `decoding` reads them from JSON by their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SENT = {"sent": True}
"""Marks a field with a default that the service sends, if it is new enough."""


@dataclass(frozen=True, slots=True)
class Action:
    """A chosen action.

    Attributes:
        id: Its id.
        index: Its place among the candidates that were sent, else its slot in the catalogue.
    """

    id: str
    index: int


@dataclass(frozen=True, slots=True)
class CandidatePropensity:
    """The probability that a candidate is chosen first.

    Attributes:
        id: Its id.
        index: Its place among the candidates that were sent, else its slot in the catalogue.
        propensity: The probability.
    """

    id: str
    index: int
    propensity: float


@dataclass(frozen=True, slots=True)
class Selection:
    """The answer to a select.

    With `fallback` the service did not answer, and the action is the caller's own: without score
    and propensity, at snapshot and position -1. The service does not know this decision.

    Attributes:
        decision_id: The id to report rewards for.
        action: The first chosen action.
        actions: All k chosen actions, best first.
        score: The sampled value of the first action.
        propensity: The probability that the first action was chosen; None while the service has
            not computed it.
        propensities: With k above 1, for each action the probability that it stands at its place,
            whatever stands at the others; None for k = 1, and for very many candidates.
        snapshot: The version of the snapshot behind the served model.
        position: The log position of the served model.
        fallback: Whether the action is the caller's own.
        all_propensities: Where the select asks for them, the probability of each candidate, in
            their order; they sum to 1.
        arm: Where the bandit has arms, the one that decided; None where one of them cannot serve
            the request, which is the bandit's then.
    """

    decision_id: str
    action: Action
    actions: tuple[Action, ...]
    score: float | None
    propensity: float | None
    snapshot: int
    position: int
    fallback: bool = False
    propensities: tuple[float, ...] | None = field(default=None, metadata=SENT)
    all_propensities: tuple[CandidatePropensity, ...] | None = field(default=None, metadata=SENT)
    arm: str | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure has done.

    Attributes:
        decisions: How many decisions were erased.
        samples: How many rows of training samples, whose decisions had been removed before.
        rebuilt: The bandits whose models were rebuilt without them.
        waiting: The bandits whose models could not be rebuilt yet; the service tries again.
        remaining: Of `rebuilt`, bandits whose models still contain the rows: retention had removed
            the log that a linear policy's rebuild needs, or a rollback had copied them.
        wal_emptied: Whether the write-ahead log was emptied; if not, erase again later.
    """

    decisions: int
    samples: int
    rebuilt: tuple[str, ...]
    waiting: tuple[str, ...]
    remaining: tuple[str, ...]
    wal_emptied: bool


@dataclass(frozen=True, slots=True)
class Voided:
    """What became void; with `dry_run`, what would.

    Attributes:
        decisions: Decisions with values that became void by this call.
        values: How many values; each chosen action has its own.
        rewards: How many rewards had made these values.
        learned: How many of the values had been learned; 0 with `dry_run`.
        unknown: Listed ids of no decision of the bandit, or of an erased one.
        dry_run: Whether nothing changed.
        unlearning: pending, as long as the served model contains void values; else none.
    """

    decisions: int
    values: int
    rewards: int
    learned: int
    unknown: tuple[str, ...]
    dry_run: bool
    unlearning: str


@dataclass(frozen=True, slots=True)
class Corrected:
    """What became of a correction.

    Attributes:
        status: applied; duplicate, when it was the value already; aggregated, when it is learned
            with the decision's activation; pending, when it is learned at the close of the
            decision's window; late, when the decision will never be learned; stored, when the
            bandit has failed and learns it once it is recovered.
        action: The chosen action whose value it is.
        before: The value before; None where it was void, or had no reward.
        after: The value.
    """

    status: str
    action: str
    before: float | None
    after: float


@dataclass(frozen=True, slots=True)
class Compacted:
    """The bytes of the database file before and after; without `is_done` it is cut off later."""

    bytes_before: int
    bytes_after: int
    is_done: bool


@dataclass(frozen=True, slots=True)
class RewardStatus:
    """What became of a reward.

    Attributes:
        status: applied, duplicate, ignored, aggregated or late; pending, when it is learned at the
            close of the decision's window; void, when an administrator has voided the value, and
            nothing is learned of it; stored, when the bandit has failed and learns it once it
            is recovered; or fallback, when the decision was the caller's own,
            which the service does not know.
        train_due: Whether a training round is due.
    """

    status: str
    train_due: bool


@dataclass(frozen=True, slots=True)
class ActivationStatus:
    """What became of an activation.

    Attributes:
        status: applied, duplicate, or late when the decision's reward window was closed; or
            fallback, when the decision was the caller's own.
    """

    status: str


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
class Learning:
    """Whether a bandit still learns, measured since the server started.

    Attributes:
        findings: What prevents it, or may.
        join_rate: Rewarded decisions per decision, over about the last 1,000.
        reward_mean: Mean over about the last 1,000 learned values.
        clipped_values: Values that were learned as the bound that they were beyond.
        refused_rewards: Rewards that were refused because they are outside of `reward_range`.
        loss_shown_after_s: Seconds after which a total loss of rewards would show; None while too
            little is known, or where the service does not report it.
    """

    findings: tuple[Finding, ...]
    join_rate: float | None
    reward_mean: float | None
    clipped_values: int | None = field(default=None, metadata=SENT)
    refused_rewards: int | None = field(default=None, metadata=SENT)
    loss_shown_after_s: float | None = field(default=None, metadata=SENT)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service takes requests; true when it does.

    Attributes:
        status: ready, or not ready.
        detail: Why it is not ready; None when it is.
        trainer: The trainer process; None where the service does not report it.
        worker: Which of several workers answers; None where there is one process.
    """

    status: str
    detail: str | None
    trainer: TrainerState | None
    worker: int | None = field(default=None, metadata=SENT)

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
        bandits: Findings and measurements of each bandit, by its name.
    """

    status: str
    findings: tuple[Finding, ...]
    bandits: Mapping[str, Learning]


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A change of a bandit's configuration that is learned anew from its log.

    Attributes:
        state: "pending", "building", "failed" (the last attempt; it is made again) or "done".
        keys: The keys that differ from the configuration before.
        rows: Learned values of the bandit.
        requested_at: When it was asked for, seconds since the epoch.
        position: The row of the log that wanted it.
        served_from: The row of the log from which it is served; None until it is done.
        spec: The configuration, with all defaults.
        error: Why the last attempt failed.
    """

    state: str
    keys: tuple[str, ...]
    rows: int
    requested_at: float
    position: int
    served_from: int | None
    spec: Mapping[str, object]
    error: str | None


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key of a configuration that a change concerns; None where there is no value."""

    key: str
    old: object
    new: object


@dataclass(frozen=True, slots=True)
class Plan:
    """What `put_bandit` would do.

    Attributes:
        status: "created", "unchanged" or "changed".
        changes: What differs from the served configuration.
        relearned: The keys among them for which a model is learned anew from the log.
        rows: Learned values of the bandit, if any are relearned.
        lost_rows: Learned values that an import brought, which the log does not have.
        estimated_s: Seconds of the newest round; None without one, or with nothing to relearn.
        spec: The whole configuration, with all defaults.
    """

    status: str
    changes: tuple[KeyChange, ...]
    relearned: tuple[str, ...]
    rows: int
    lost_rows: int
    estimated_s: float | None
    spec: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class MetricState:
    """What was reported of a metric of a bandit; void values are left out.

    Attributes:
        count: Values that it is a part of.
        sum: Its sum over them.
        mean: Their mean; None without a value.
        weight: Its weight in what is learned; None: it has none.
    """

    count: int
    sum: float
    mean: float | None
    weight: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of values, with an interval that holds at 95 % whenever one looks.

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
class AuditEntry:
    """What somebody, or a guard, did to a bandit.

    Attributes:
        row: Its place among all entries.
        time: Seconds since the epoch.
        by: The name of the API key; or (anonymous), (guard).
        what: The call.
        changes: What it changed, by key: the configuration, the served snapshot, the position of
            the log, the number of offered actions; and what its answer said.
    """

    row: int
    time: float
    by: str
    what: str
    changes: tuple[KeyChange, ...]


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """The entries of a bandit's name, newest first; `next` is the `before` of older ones."""

    entries: tuple[AuditEntry, ...]
    next: int | None


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
        learned: Learned values of the bandit then.
        time: When that was, seconds since the epoch.
        seconds: CPU time that it took, about.
        lift, low, high: What it would have earned more than what was served, per decision, with an
            interval that holds whenever one looks; None without decisions, or before 100.
        value, served: What it would have earned, and what was earned.
        effective, mean_weight: How many rows its weights amount to, and their mean.
        reasons: Why nothing should be concluded; empty: it can be.
        error: Why it could not be compared.
        is_better: Whether the log says that it is better.
    """

    num: int
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
class BanditState:
    """Configuration and progress of a bandit.

    Attributes:
        name: Its name.
        uid: Distinguishes it from earlier bandits of the same name.
        spec: Its configuration, with all defaults.
        num_actions: Actions that are offered.
        snapshot: The version of the snapshot behind the served model.
        position: The log position of the served model.
        num_learned: Values it has learned.
        train_due: Whether a training round is due.
        learning: Whether it still learns.
        trainer: The server's trainer process.
        created: Whether this call created it.
        features: What is known of named features, for `context` and `actions`: types, columns and
            counts of the fields; None where the bandit has none.
        rebuild: The newest change that is, or was, learned anew from the log; None without one.
        unlearning: pending, as long as the served model contains void values or erased rows; else
            none. None where the service does not report it.
        maturity_s: The age in seconds at which the next decisions are learned; None where rewards
            are learned as they come, or the service does not report it.
        imported: Decisions that were imported; None where the service does not report it.
        held_values: Values that are stored and not learned, because the bandit is or was frozen.
        metrics: What was reported of each metric; None where the bandit has none.
        arms: How its arms stand, the bandit itself last; empty without arms.
        guarded: Why a guard made an arm serve everything; None where none did.
        challengers: Other configurations that learn its log beside it, by name.
        warnings: What in the configuration keeps the bandit from learning which action suits which
            context; None where the service does not report it.
        etag: The version of its configuration, for `put_bandit`; empty where it is one of a list.
    """

    name: str
    uid: str
    spec: Mapping[str, object]
    num_actions: int
    snapshot: int
    position: int
    num_learned: int
    train_due: bool
    learning: Learning
    trainer: TrainerState
    created: bool = False
    features: Mapping[str, object] | None = field(default=None, metadata=SENT)
    rebuild: Rebuild | None = field(default=None, metadata=SENT)
    unlearning: str | None = field(default=None, metadata=SENT)
    maturity_s: float | None = field(default=None, metadata=SENT)
    imported: int | None = field(default=None, metadata=SENT)
    held_values: int | None = field(default=None, metadata=SENT)
    metrics: Mapping[str, MetricState] | None = field(default=None, metadata=SENT)
    arms: tuple[ArmState, ...] | None = field(default=None, metadata=SENT)
    guarded: Guarded | None = field(default=None, metadata=SENT)
    challengers: tuple[ChallengerState, ...] | None = field(default=None, metadata=SENT)
    warnings: tuple[str, ...] | None = field(default=None, metadata=SENT)
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A new bandit that has learned the rows of another one.

    Attributes:
        rows: Rows that it learned.
        sampled: Those among them of the sample that stands for rows which left the log.
        skipped: Rows of candidates of requests that had no features and are in no catalogue.
        bandit: Its configuration and progress.
    """

    rows: int
    sampled: int
    skipped: int
    bandit: BanditState


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The number of offered actions after a change, and the log position of the change."""

    num_actions: int
    position: int


@dataclass(frozen=True, slots=True)
class ActionState:
    """An action of the catalogue.

    Attributes:
        id: Its id.
        index: Its slot: actions are numbered in the order in which they were first put.
        enabled: Whether it is offered; False once it is retired.
        features: Its features, of shape (action_dim,); or a dict, where they are named.
    """

    id: str
    index: int
    enabled: bool
    features: tuple[float, ...] | Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ActionScore:
    """Mean and standard deviation of an action's value under the served model."""

    id: str
    index: int
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one context, with the snapshot and position of the model that gave them."""

    scores: tuple[ActionScore, ...]
    snapshot: int
    position: int


@dataclass(frozen=True, slots=True)
class Training:
    """The outcome of a training request.

    Attributes:
        status: served, once the new snapshot is; queued, when the call did not wait.
        trained: Whether a round was finished.
        snapshot: The version that is served; while queued, the one before the round.
        position: The log position of that snapshot.
        metrics: Measurements of the round, by name.
    """

    status: str
    trained: bool
    snapshot: int
    position: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """What a bandit serves after an import, a rollback or a recovery."""

    snapshot: int
    position: int


@dataclass(frozen=True, slots=True)
class SnapshotSummary:
    """A snapshot on the server's disk.

    Attributes:
        version: Its number within the bandit.
        parent: The version it was trained from; None for the first.
        position: The log position it was built at.
        num_learned: Values the bandit had learned by then.
        created_at: Seconds since the epoch.
        bytes: Size of its files.
        metrics: Measurements of its training round, by name.
    """

    version: int
    parent: int | None
    position: int
    num_learned: int
    created_at: float
    bytes: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots of a bandit, oldest first; `served` is the version that is served."""

    served: int
    snapshots: tuple[SnapshotSummary, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a decision that was imported.

    Attributes:
        status: imported; duplicate: it was there; updated: its value came or changed since.
        decision_id: Its id in this service.
    """

    status: str
    decision_id: str


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


@dataclass(frozen=True, slots=True)
class LogPage:
    """A part of a bandit's log, as rows.

    Attributes:
        rows: JSON objects, each with a `kind`: first `bandit`, then `actions` and `decision`, last
            `end`.
        row: Where it ends: the next page's `after`.
        moment: The moment that its values are of.
        more: Whether there should be a next page.
    """

    rows: tuple[Mapping[str, object], ...]
    row: int
    moment: str
    more: bool
