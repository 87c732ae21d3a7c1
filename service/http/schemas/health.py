"""Answers about health: the trainer, findings, whether every bandit learns."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    Field,
)

from service.http.schemas.earned import ActionValue, LiftLine


class TrainerState(BaseModel):
    """The trainer process; `phase` is its step within a round. `pid` is null before the first."""

    state: str
    phase: str
    pid: int | None
    rounds: int


class FindingAnswer(BaseModel):
    """Something that prevents a bandit from learning (alarm), or may do so (notice)."""

    name: str
    severity: Literal["alarm", "notice"]
    message: str
    remedy: str
    since: float | None = Field(
        None, description="When it began, seconds since the epoch; null within its first seconds."
    )


class NotedFinding(BaseModel):
    """A finding that a bandit has or had."""

    name: str
    severity: Literal["alarm", "notice"]
    message: str
    since: float = Field(description="When it began, seconds since the epoch.")
    until: float | None = Field(description="When it ended; null while it is there.")


class FindingList(BaseModel):
    """The findings of a bandit over time, the newest first: the last 200."""

    findings: list[NotedFinding]


class FieldRates(BaseModel):
    """How often a named feature had no value that the model could use, of the counted objects."""

    missing: float = Field(description="The share of objects that lack it, or have null.")
    unseen: float = Field(description="The share with a category that the vocabulary has not.")
    wrong: float = Field(description="The share with a value of a type that counts as missing.")
    collided: float | None = Field(
        description="Of its values in hashed places, the share whose place another one had before;"
        " null without any."
    )


class Learning(BaseModel):
    """Whether a bandit still learns, by what happened since the server started."""

    findings: list[FindingAnswer]
    join_rate: float | None = Field(
        description="Rewarded actions per chosen action, over about the last 1,000."
    )
    reward_mean: float | None = Field(description="Mean of about the last 1,000 learned values.")
    clipped_values: int = Field(
        0, description="Values that were learned as the bound that they were beyond."
    )
    refused_rewards: int = Field(
        0, description="Rewards that were refused because they are outside of reward_range."
    )
    judged_values: int = Field(
        0,
        description="How many recent values worse-action, one-sided and miscalibrated have judged;"
        " 0: fewer than 2,000 came since the server started, so that no finding says little.",
    )
    loss_shown_after_s: float | None = Field(
        None,
        description="Seconds after which a total loss of rewards shows as the alarm rewards-lost,"
        " by the traffic of the last minutes; null while too little is known of it.",
    )
    feature_rates: dict[str, FieldRates] = Field(
        {},
        description="Named features by side and path, such as context.user.age, under the served"
        " encoding; only those that were missing, unseen, wrong or collided in a counted object.",
    )


class BanditLearning(Learning):
    """Whether a bandit still learns, and whether it is better than its arms."""

    lifts: list[LiftLine] = Field(
        [], description="Of each arm that decides a share; shadows serve nothing."
    )
    action_values: list[ActionValue] = Field(
        [], description="What actions earned: the ten with the most values."
    )


class LearnAnswer(BaseModel):
    """Whether all bandits still learn: `learning`, or `alarm` where something is wrong."""

    status: Literal["learning", "alarm"]
    findings: list[FindingAnswer] = Field(description="Findings about the server as a whole.")
    bandits: dict[str, BanditLearning]


class ClockAnswer(BaseModel):
    """Service time, in which windows, forgetting and retention run, beside the wall clock."""

    wall: float = Field(description="Wall time, seconds since the epoch.")
    service: float = Field(description="Service time: wall time without its jumps.")
    offset_s: float = Field(description="The sum of the jumps that service time did not follow.")


class Health(BaseModel):
    """Alive, or ready.

    `worker`: which of several workers answers. `server` and `role`: which of the servers that share
    a database answers, and whether it is the keeper.
    """

    status: str
    detail: str | None = None
    trainer: TrainerState | None = None
    worker: int | None = None
    server: int | None = None
    role: Literal["keeper", "replica"] | None = None
