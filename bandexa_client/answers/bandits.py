"""Answers about one bandit: configuration, progress, catalogue of actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bandexa_client.answers.arms import ActionValue, ArmState, ChallengerState, Guarded
from bandexa_client.answers.health import Learning, TrainerState
from bandexa_client.answers.sent import SENT


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
        estimated_s: About how many seconds that takes, by earlier rounds; None without any, or with
            nothing to relearn.
        spec: The whole configuration, with all defaults.
        warnings: What the bandit could not learn; None where the service does not report it.
    """

    status: str
    changes: tuple[KeyChange, ...]
    relearned: tuple[str, ...]
    rows: int
    lost_rows: int
    estimated_s: float | None
    spec: Mapping[str, object]
    warnings: tuple[str, ...] | None = field(default=None, metadata=SENT)


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
        action_values: What the ten actions with the most values earned; `values` has all. None
            where the service does not report it.
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
    action_values: tuple[ActionValue, ...] | None = field(default=None, metadata=SENT)
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
