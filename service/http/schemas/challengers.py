"""Bodies of the calls on challengers."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bandexa_core.spec import (
    ActionsSpec,
    ContextSpec,
    EncoderSpec,
    ForgettingSpec,
    PolicyName,
    PosteriorSpec,
)
from bandexa_core.spec.arms import MAX_SHARE

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class PromotionRule(BaseModel):
    """How a challenger is promoted."""

    model_config = ConfigDict(extra="forbid")

    rule: Literal["person", "auto"] = Field(
        "person",
        description="person: by the call `promote` alone; auto: also by itself, once the lower end"
        " of its lift is above 0.",
    )
    margin: float = Field(
        0.0,
        ge=0.0,
        allow_inf_nan=False,
        description="Its trial ends once it is worse than the bandit by more than this, in units of"
        " reward, for certain.",
    )
    steps: list[Share] = Field(
        [0.05, 0.25, 1.0],
        min_length=1,
        max_length=10,
        description=f"The shares of its trial, ascending, each at most {MAX_SHARE}; the last one is"
        " 1: then its configuration is the bandit's.",
    )
    step_values: int = Field(
        1000, ge=1, le=10**9, description="Values of bandit and challenger in each step."
    )
    least: int = Field(
        1000, ge=100, le=10**9, description="Decisions before which nothing is concluded."
    )

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        steps = self.steps
        if steps[-1] != 1.0 or any(step > MAX_SHARE for step in steps[:-1]):
            raise ValueError(f"steps: the last one is 1, and others are at most {MAX_SHARE}")
        if any(one >= two for one, two in itertools.pairwise(steps)):
            raise ValueError("steps: must ascend")
        return self


class ChallengerRequest(BaseModel):
    """In what a challenger differs from its bandit; what is left out is the bandit's."""

    model_config = ConfigDict(extra="forbid")

    policy: PolicyName | None = None
    encoder: EncoderSpec | None = None
    posterior: PosteriorSpec | None = None
    forgetting: ForgettingSpec | None = None
    reward_range: tuple[float, float] | None = None
    context: ContextSpec | None = None
    actions: ActionsSpec | None = None
    promotion: PromotionRule = PromotionRule.model_validate({})


class PromoteRequest(BaseModel):
    """How much of the decisions a challenger gets."""

    model_config = ConfigDict(extra="forbid")

    share: Share = Field(
        1.0, description=f"1: its configuration becomes the bandit's; up to {MAX_SHARE}: a trial."
    )


class ScoreState(BaseModel):
    """How a challenger compares with what was served, by the log."""

    num: int = Field(description="Decisions behind it.")
    left_out: int = Field(
        description="Decisions that were learned and not counted: with `sticky: action`, those that"
        " were not the first of their units."
    )
    learned: int = Field(description="Learned values of the bandit then.")
    time: float = Field(description="When that was, seconds since the epoch.")
    seconds: float = Field(description="CPU time that it took, about.")
    lift: float | None = Field(
        description="What it would have earned more than what was served, per decision."
    )
    low: float | None = Field(
        description="The interval of that, which holds at any time, for all challengers of a"
        " bandit together at 95 %; null before 100 decisions."
    )
    high: float | None
    value: float | None = Field(description="What it would have earned, per decision.")
    served: float | None = Field(description="What was earned.")
    effective: float = Field(description="How many rows its weights amount to.")
    mean_weight: float | None = Field(description="Their mean, which should be 1.")
    reasons: list[str] = Field(description="Why nothing should be concluded; empty: it can be.")
    error: str | None = Field(description="Why it could not be compared.")
    is_better: bool = Field(description="Whether the log says that it is better.")


class ChallengerState(BaseModel):
    """A challenger: another configuration that learns the log of a bandit beside it."""

    name: str
    state: Literal["learning", "trial", "promoting", "served", "returned"] = Field(
        description="trial: it decides a share; promoting: its configuration is being learned, to"
        " be served; served: that is the bandit's; returned: it was worse in its trial."
    )
    share: float = Field(description="The probability that it decides.")
    differs: dict[str, Any] = Field(description="The sections in which it differs from the bandit.")
    promotion: PromotionRule
    created: float = Field(description="When it was declared, seconds since the epoch.")
    score: ScoreState | None = Field(description="null before the first comparison.")


class ChallengerList(BaseModel):
    """The challengers of a bandit, by name."""

    challengers: list[ChallengerState]
