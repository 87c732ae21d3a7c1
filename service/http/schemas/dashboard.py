"""What the dashboard's page receives."""

from __future__ import annotations

from pydantic import (
    BaseModel,
    Field,
)

from service.http.schemas.health import FindingAnswer, TrainerState


class Session(BaseModel):
    """The caller's key, its scopes, and the bandits that it is limited to; null: it is to none."""

    name: str | None
    scopes: list[str]
    bandits: list[str] | None
    keys_needed: bool


class ServerState(BaseModel):
    """The server as a whole."""

    version: str
    ready: bool
    detail: str | None
    trainer: TrainerState
    findings: list[FindingAnswer]
    behind: bool = Field(description="Whether the aggregates are still being computed.")


class Spark(BaseModel):
    """The last 60 minutes."""

    time: list[int]
    selects: list[int]
    reward: list[float | None]


class LastHour(BaseModel):
    """Sums of the last 60 minutes."""

    selects: int
    rewards: int
    reward_mean: float | None


class BanditLine(BaseModel):
    """A bandit in the overview; `decisions` and `rewards` are counts over all time."""

    name: str
    policy: str
    encoder: str
    num_actions: int
    snapshot: int
    position: int
    num_learned: int
    train_due: bool
    decisions: int
    rewards: int
    join_rate: float | None = Field(
        description="Over the last hour, or over all time where it had no traffic."
    )
    reward_mean: float | None = Field(
        description="Over the last hour, or over all time where it had no traffic."
    )
    last_hour: LastHour
    spark: Spark
    findings: list[FindingAnswer]
    judged_values: int = Field(
        description="How many recent values findings about actions have judged; 0: too few came."
    )


class Overview(BaseModel):
    """The server and its bandits: those with an alarm first, then the others by name."""

    now: float
    server: ServerState
    bandits: list[BanditLine]
    next: str | None = Field(description="The `after` of the following ones; null at the end.")
    total: int = Field(description="How many bandits there are.")
    found: int = Field(description="How many of them are asked for.")
    alarmed: list[str] = Field(
        description="Those with an alarm, of all bandits; as of the last seconds."
    )


class DecisionLine(BaseModel):
    """A decision in a list; `reward` is the value learned of its first action."""

    decision_id: str
    time: float
    action: str
    num_actions: int
    propensity: float | None
    explored: bool | None
    reward: float | None
    snapshot: int
    position: int


class DecisionList(BaseModel):
    """The newest decisions; `next` is the `before` of older ones."""

    decisions: list[DecisionLine]
    next: int | None


class FoundDecision(BaseModel):
    """Which bandit made a decision."""

    bandit: str
    decision_id: str
