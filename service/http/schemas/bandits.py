"""Answers about bandits, their catalogues and their training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bandexa_core.spec import BanditSpec
from bandexa_core.spec.arms import Mode
from service.http.schemas.challengers import ChallengerState
from service.http.schemas.common import Id
from service.http.schemas.earned import ActionValue, ArmState
from service.http.schemas.health import Learning, TrainerState


class ActionState(BaseModel):
    """An action of the catalogue in its current state."""

    id: str
    index: int = Field(description="Its slot: the order of first upserts.")
    enabled: bool
    features: list[float] | dict[str, Any] = Field(
        description="Numbers; an object, where the bandit has named features."
    )


class ActionList(BaseModel):
    """A part of the catalogue, in slot order."""

    total: int
    actions: list[ActionState]


class CatalogueAnswer(BaseModel):
    """The catalogue after a change."""

    num_actions: int
    position: int


class FieldState(BaseModel):
    """A named feature as the served encoding has it, and what requests had of it.

    Counts are of the counted decisions since this encoding is served.
    """

    type: str | None = Field(description="Its type; null before a round has found one.")
    columns: int | None = Field(
        description="How many inputs it is; null where all fields share hashed places."
    )
    missing: int = Field(description="Objects that lack it, or have null.")
    converted: int = Field(description='Values of another JSON type, such as "7" for a number.')
    unseen: int = Field(description="Categories outside of the vocabulary.")
    wrong: int = Field(description="Values of a type that counts as missing.")
    extreme: int = Field(description="Numbers far beyond all others, which count as missing.")
    hashed: int = Field(description="Values and words that share places by a hash.")
    collided: int = Field(description="Those of them whose place another one had before.")
    log: str = Field(description="keep, hash or drop: what is stored of its values.")
    drift: float | None = Field(
        description="Population stability index of the recent objects against the rows behind the"
        " encoding; null before 100 of them were counted."
    )


class SideState(BaseModel):
    """The named features of contexts, or of actions, under the served model."""

    num_rows: int = Field(
        description="Learned values behind the encoding; 0: all fields share hashed places."
    )
    num_columns: int = Field(description="Inputs of the model.")
    fields: dict[str, FieldState] = Field(description="Declared and found fields, by path.")
    num_counted: int = Field(description="Objects behind the counts.")
    unknown: int = Field(description="Keys in them that are no fields.")
    unknown_names: dict[str, int] = Field(description="The first of those keys, by path.")


class CrossState(BaseModel):
    """A product of a field of contexts and one of actions, which a linear model has."""

    context: str
    action: str
    inputs: int = Field(description="Inputs of the model.")
    shared: bool = Field(description="Whether it is how many values both have in common.")
    gain: float = Field(
        description="By which share of the variance of rewards it lowered the squared error of"
        " held-out rows when it was chosen."
    )


class FeaturesState(BaseModel):
    """The named features of a bandit; null on a side that has numbers."""

    context: SideState | None
    actions: SideState | None
    crosses: list[CrossState] | None = Field(
        None, description="The products in use, with the encoder crosses; none before a round."
    )


class MetricState(BaseModel):
    """A metric of a bandit, over all values that were ever reported; void ones are left out."""

    count: int = Field(description="Values that it is a part of.")
    sum: float
    mean: float | None = Field(description="null without a value.")
    weight: float | None = Field(description="Its weight in what is learned; null: it has none.")


class RebuildState(BaseModel):
    """A change of the configuration that is learned anew from the log.

    Until it is done, the bandit is served under the configuration it had, `spec`.
    """

    state: Literal["pending", "building", "failed", "done"] = Field(
        description="failed: the last attempt; it is made again, and at once by another PUT."
    )
    keys: list[str] = Field(description="The keys that differ from the configuration before.")
    rows: int = Field(description="Learned values of the bandit; those of the log are relearned.")
    requested_at: float = Field(description="When it was asked for, seconds since the epoch.")
    position: int = Field(description="The row of the log that wanted it.")
    served_from: int | None = Field(
        description="The row of the log from which it is served; null until it is done."
    )
    spec: BanditSpec = Field(description="The configuration.")
    error: str | None = Field(None, description="Why the last attempt failed.")


class KeyChange(BaseModel):
    """A key that a PUT changes; null where there is no value."""

    key: str
    old: Any
    new: Any


class PlanAnswer(BaseModel):
    """What a PUT would do; nothing was changed."""

    status: Literal["created", "unchanged", "changed"]
    changes: list[KeyChange] = Field(description="What differs from the served configuration.")
    relearned: list[str] = Field(
        description="The keys among them for which a model is learned anew from the log."
    )
    rows: int = Field(description="Learned values of the bandit, if any are relearned.")
    lost_rows: int = Field(
        description="Learned values that an import brought, which the log does not have."
    )
    estimated_s: float | None = Field(
        description="About how many seconds that takes, by the rounds with this encoder that the"
        " server has seen, else by the newest one of the bandit; null without any, or with nothing"
        " to relearn."
    )
    warnings: list[str] = Field([], description="What the bandit could not learn.")
    spec: BanditSpec = Field(description="The whole configuration, with all defaults.")


class TripState(BaseModel):
    """Why a guard made an arm serve everything."""

    arm: str
    time: float = Field(description="Seconds since the epoch.")
    margin: float
    low: float = Field(description="The interval of the bandit's lift over the arm then.")
    high: float
    num: int = Field(description="The number of values behind it.")
    metric: str | None = Field(None, description="The metric that is worse; null: what is learned.")


class BanditAnswer(BaseModel):
    """A bandit's configuration and state."""

    name: str
    uid: str
    spec: BanditSpec
    num_actions: int
    snapshot: int
    position: int
    num_learned: int
    train_due: bool
    learning: Learning
    trainer: TrainerState
    features: FeaturesState | None = Field(
        None, description="What is known of named features, where the bandit has some."
    )
    metrics: dict[str, MetricState] | None = Field(
        None, description="What was reported of each metric, where some were, or are learned."
    )
    rebuild: RebuildState | None = Field(
        None, description="The newest change that is, or was, learned anew; null without one."
    )
    maturity_s: float | None = Field(
        None,
        description="The age in seconds at which the next decisions are learned; null: rewards are"
        " learned as they come. See rewards.maturity.",
    )
    imported: int = Field(
        0, description="Decisions that were imported: they were made elsewhere, and served nobody."
    )
    unlearning: Literal["none", "pending"] = Field(
        "none",
        description="pending: the served model contains values that are void, or rows that were"
        " erased, until it is rebuilt without them.",
    )
    held_values: int = Field(
        0,
        description="Values that are stored and not learned, because the bandit is or was frozen;"
        " they are learned by a round as soon as its mode is learn.",
    )
    arms: list[ArmState] = Field(
        [], description="How the arms stand, the bandit itself last; empty without arms."
    )
    action_values: list[ActionValue] = Field(
        [],
        description="What actions earned: the ten with the most values. GET .../values has all.",
    )
    guarded: TripState | None = Field(
        None, description="Why a guard made an arm serve everything; null where none did."
    )
    challengers: list[ChallengerState] = Field(
        [], description="Other configurations that learn its log beside it, by name."
    )
    warnings: Sequence[str] = Field(
        (),
        description="What in the configuration keeps the bandit from learning which action suits"
        " which context.",
    )


class AuditLine(BaseModel):
    """What somebody, or a guard, did to a bandit."""

    row: int
    time: float = Field(description="Seconds since the epoch.")
    by: str = Field(description="The name of the API key; or (anonymous), (guard).")
    what: str = Field(description="The call.")
    changes: list[KeyChange] = Field(
        description="What it changed: keys of the configuration, the served snapshot, the position"
        " of the log, the number of offered actions."
    )


class AuditList(BaseModel):
    """The audit trail of a bandit, newest first; `next` is the `before` of older entries."""

    entries: list[AuditLine]
    next: int | None


class ModeRequest(BaseModel):
    """Who decides from now on."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode = Field(
        "learn",
        description="learn: arms and bandit; frozen: the same, with the model as it is, and nothing"
        " is learned until it is learn again; control_only: the arm `guard.arm`.",
    )
    serve: Id | None = Field(
        None, description="One action, which is served wherever it is offered; null: none."
    )


class ValuesAnswer(BaseModel):
    """What the arms and the actions of a bandit earned."""

    arms: list[ArmState]
    actions: list[ActionValue] = Field(description="Those with the most values first.")
    num_actions: int = Field(description="How many have values.")
    behind: bool = Field(description="Whether there are values that are not counted yet.")


class ReplayRequest(BaseModel):
    """A new bandit that learns the rows of this one."""

    model_config = ConfigDict(extra="forbid")

    to: Id = Field(description="The name of the new bandit.")
    spec: BanditSpec = Field(description="Its configuration, as in the body of its PUT.")


class ReplayAnswer(BaseModel):
    """A bandit that has learned the rows of another one."""

    rows: int = Field(description="Rows that it learned.")
    sampled: int = Field(
        description="Those among them of the sample that stands for rows which left the log."
    )
    skipped: int = Field(
        description="Rows of candidates of requests that had no features and are in no catalogue."
    )
    bandit: BanditAnswer


class BanditList(BaseModel):
    """Bandits, sorted by name; `next` is the `after` of those behind them, null at the end."""

    bandits: list[BanditAnswer]
    next: str | None


class RecoverAnswer(BaseModel):
    """A bandit that serves a model with every row of its log."""

    snapshot: int
    position: int


class TrainAnswer(BaseModel):
    """A completed round whose model is served; or, without `wait`, a queued one."""

    status: Literal["served", "queued"] = Field(
        description="queued: `snapshot` is still the one before the round; GET /bandits/{name}"
        " shows the new one once it is served."
    )
    trained: bool
    snapshot: int
    position: int
    metrics: dict[str, float]
