"""A decision, explained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    Field,
)


class ContextArray(BaseModel):
    """The context: base64 of its bytes, in C order, little endian; of an object those of its JSON.

    An object has dtype "json" and no shape.
    """

    dtype: str
    shape: list[int]
    data: str
    values: list[float] | None = Field(
        description="The same as numbers, in C order, for contexts of up to 1,024."
    )
    object: dict[str, Any] | None = Field(
        None, description="The context, where the bandit has named features of contexts."
    )


class RewardLine(BaseModel):
    """A reported reward and its status."""

    time: float
    reward: float | None = Field(description="null where `metrics` were reported.")
    metrics: dict[str, float] | None = None
    reward_id: str | None
    status: str


class LearnLine(BaseModel):
    """A learn row: a first value, or a correction (`before` is not null)."""

    position: int
    time: float
    before: float | None
    after: float
    learned: float | None = Field(
        description="What was learned for `after`, which is beyond the bounds of usual values."
    )
    metrics: dict[str, float] | None = Field(
        None, description="The metrics that `after` was made of, by the weights of that time."
    )


class AmendmentLine(BaseModel):
    """What an administrator did to a value: a correction, or (`after` is null) it became void."""

    time: float
    before: float | None = Field(description="null: it was void, or had no reward.")
    after: float | None
    position: int | None = Field(
        description="The log row; null where nothing had been learned and nothing was."
    )


class ChosenLine(BaseModel):
    """One chosen action: its sampled value, its rewards and what was learned from them."""

    id: str
    index: int
    score: float
    propensity: float | None = Field(
        description="When k > 1: the probability that it stands at this place."
    )
    features: dict[str, Any] | None = Field(
        None, description="Its features, where the bandit has named features of actions."
    )
    value: float | None = Field(description="The value as it is now.")
    metrics: dict[str, float] | None = Field(
        None, description="The metrics that it is made of, as learned so far; null: of none."
    )
    rewards: list[RewardLine]
    learned: list[LearnLine]
    void: bool = Field(False, description="Its value is void: nothing is learned from it.")
    amendments: list[AmendmentLine] = Field(
        [], description="What administrators changed, oldest first."
    )


class CandidateLine(BaseModel):
    """What the model expected of a candidate when it decided."""

    id: str
    index: int
    mean: float
    std: float
    sampled: float = Field(description="The sampled value that was ranked.")
    propensity: float
    chosen: bool


class AddedLine(BaseModel):
    """What a named feature added to what the model expected of the first chosen action."""

    side: Literal["context", "action"]
    path: str
    value: Any = Field(description="Its value in this decision, as the log has it.")
    added: float = Field(
        description="The posterior mean less that without the feature. These need not add up to"
        " the mean: products of features are in several of them."
    )


class ReproducedLine(BaseModel):
    """Whether drawing again gave the same action, sampled value and propensity.

    null: nobody can say. No propensity was stored; or other numbers came out, and the candidates
    were retrieved from a list of the request, of which only they are stored.
    """

    action: bool | None
    score: bool | None
    propensity: bool | None


class DecisionAnswer(BaseModel):
    """A decision: request, expectation of the model, choice, rewards, learned values."""

    decision_id: str
    bandit: str
    time: float
    snapshot: int
    position: int
    propensity: float | None
    arm: str | None = Field(
        None, description="The arm that decided; null without arms, or where none could."
    )
    shadows: dict[str, str] | None = Field(
        None, description="The action that each shadow would have served; null without shadows."
    )
    explored: bool | None = Field(description="Whether another action had the best mean.")
    std: float | None
    activated: bool
    activated_at: float | None
    window_closes: float | None
    window_closed: float | None
    matured: float | None = Field(
        None, description="When its values were learned at an age within its window."
    )
    context: ContextArray
    chosen: list[ChosenLine]
    imported: str | None = Field(
        None, description="The id that it had where it was made; null: it was made here."
    )
    explained: Literal["yes", "no"]
    reason: str | None = Field(description="Why the candidates cannot be explained any more.")
    candidates: list[CandidateLine]
    num_candidates: int | None = Field(
        description="How many were offered; with `retrieve`, before it."
    )
    reproduced: ReproducedLine | None
    added: list[AddedLine] = Field(
        [],
        description="What each named feature added, the most first; empty without named features.",
    )
