"""Answers about what arms and actions earn, with intervals that hold at any time."""

from __future__ import annotations

from pydantic import BaseModel, Field


class EstimateState(BaseModel):
    """A mean of values, with an interval that holds at any time, at 95 %."""

    num: int = Field(description="The number of values behind it.")
    mean: float | None = Field(description="null without values.")
    low: float | None = Field(
        description="The lower end; null without values, and without a `reward_range` before 100."
    )
    high: float | None = Field(description="The upper end.")


class ComparedState(BaseModel):
    """How an arm stands by a metric, or in a segment."""

    reward: EstimateState = Field(description="The values of the metric, or in the segment.")
    lift: EstimateState | None = Field(description="Of the bandit over the arm; null of itself.")


class AgreementState(BaseModel):
    """How often an arm and the bandit choose alike, by the values learned of their decisions.

    Of an arm that follows a rule: where it served what the bandit has the best mean of. Of a
    shadow: where it would have served what was served.
    """

    share: EstimateState = Field(description="The share of values where they do.")
    reward_share: float | None = Field(
        description="Which share of what was earned was earned there; null where nothing was."
    )


class ArmState(BaseModel):
    """How an arm stands, since it is what it is now."""

    name: str = Field(description='"bandit": the bandit itself.')
    share: float = Field(description="The probability that it decides now; 0 of a shadow.")
    reward: EstimateState
    lift: EstimateState | None = Field(
        description="What the bandit earns more than it, per decision; null for the bandit."
    )
    metrics: dict[str, ComparedState] = Field({}, description="The same by each metric.")
    segments: dict[str, ComparedState] = Field(
        {}, description="The same for each value of `segment`; (others) are the later ones."
    )
    agreement: AgreementState | None = Field(
        None, description="Of an arm that follows a rule, and of a shadow; null of others."
    )


class ActionValue(BaseModel):
    """What an action earned where it was chosen first."""

    id: str
    reward: EstimateState
    metrics: dict[str, EstimateState] = Field(
        description="By metric, the values that it is a part of; its interval is asymptotic."
    )


class LiftPart(BaseModel):
    """A lift by a metric or in a segment, in figures and in words."""

    lift: EstimateState
    text: str = Field(description="What it says, for a person.")


class LiftLine(BaseModel):
    """What a bandit earns more than an arm, in figures and in words."""

    arm: str
    share: float = Field(description="The probability that the arm decides now.")
    lift: EstimateState
    text: str = Field(description="Whether the bandit is better, for a person.")
    metrics: dict[str, LiftPart] = Field(description="The same by each metric.")
    segments: dict[str, LiftPart] = Field(description="The same for each value of `segment`.")
