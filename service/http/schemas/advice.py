"""The answer that says how much exploration, or control, a bandit needs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class AdviceInputs(BaseModel):
    """What an answer follows from."""

    difference: float = Field(description="What is to be seen, in the unit of rewards.")
    variance: float = Field(description="Of rewards.")
    variance_from: Literal["values", "range", "given"] = Field(
        description="values: of the last week; range: too few came, and this is the largest that"
        " the range allows; given: by the request."
    )
    num_values: int = Field(description="Values of the last week.")
    actions: int = Field(description="How many there are to choose from.")
    bandit_share: float = Field(description="The share of decisions that are the bandit's own.")
    epsilon: float = Field(description="The probability of a uniform choice at the beginning.")
    epsilon_now: float = Field(description="What it has fallen to.")
    decisions: int = Field(description="Within how many decisions.")
    decisions_per_day: float | None = Field(
        description="By the traffic of the last week; null: there was none."
    )
    values_per_decision: float = Field(
        description="How many decisions get a value; 1 where nothing is known yet."
    )
    values: int = Field(description="Within how many values, by that.")


class AdviceNeeded(BaseModel):
    """What shows the difference within that many decisions; null: nothing does."""

    share: float = Field(description="The share q of the log that has to be of interest.")
    control: float | None = Field(
        description="The `share` of an arm: whether the bandit is better than it."
    )
    floor: float | None = Field(
        description="`limits.floor` of an action: what serving it always would earn. It stays."
    )
    epsilon: float | None = Field(
        description="`selection.epsilon`: the same for all actions. It falls beyond 1,000 values."
    )


class AdviceNow(BaseModel):
    """How long it takes as the bandit is configured now."""

    of: Literal["arm", "action"] = Field(
        description="action: the one with the least exploration; `name` null: all have the same."
    )
    name: str | None
    share: float = Field(description="The share of decisions that it has.")
    decisions: int | None = Field(description="How many it takes; null: it never shows.")
    days: float | None = Field(description="How long, by the traffic of the last week.")


class AdviceAnswer(BaseModel):
    """How much exploration, or control, shows a difference, by n = 10 v / (q d^2)."""

    inputs: AdviceInputs
    needed: AdviceNeeded
    now: list[AdviceNow]
    text: list[str] = Field(description="The same in sentences.")
