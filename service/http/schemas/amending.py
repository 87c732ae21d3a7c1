"""Bodies of the calls that void and correct rewards."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from bandexa_core.schema.objects import shown
from bandexa_core.spec import MAX_METRICS
from service.http.schemas.common import Body, Id
from service.http.schemas.decide import MAX_BATCH
from service.serving.inputs import MAX_SIZE

Reward = Annotated[float, Field(ge=-MAX_SIZE, le=MAX_SIZE)]
MOST_SECONDS = 1e11  # the year 5138; Unix milliseconds are beyond
SECONDS = "must be a number, the seconds since the epoch"


def _seconds(value: Any) -> Any:
    """Refuse texts and milliseconds with what is wanted in their place."""
    if isinstance(value, str):
        raise ValueError(f"{SECONDS}, not {shown(value)}")
    if isinstance(value, int | float) and not isinstance(value, bool) and value > MOST_SECONDS:
        raise ValueError(f"{SECONDS}; {shown(value)} looks like milliseconds")
    return value


Time = Annotated[float, Field(ge=0.0, le=MOST_SECONDS), BeforeValidator(_seconds)]


class VoidRequest(Body):
    """Whose values become void: those of listed decisions, or of all that the rest describes."""

    decision_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_BATCH)] | None = None
    since: Time | None = Field(
        default=None,
        description="Decisions made at or after this time, in seconds since the epoch.",
    )
    until: Time | None = Field(
        default=None, description="Decisions made before this time, in seconds since the epoch."
    )
    action: Id | None = Field(default=None, description="Only the values of this chosen action.")
    dry_run: bool = Field(default=False, description="Change nothing: count what would be void.")
    wait: bool = Field(default=False, description="Answer once a model without them is served.")

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        times = self.since is not None or self.until is not None
        if self.decision_ids is not None and times:
            raise ValueError("decision_ids: give either decisions or times")
        if self.decision_ids is None and not times and self.action is None:
            raise ValueError("decision_ids: give decisions, times or an action")
        if self.since is not None and self.until is not None and not self.since < self.until:
            raise ValueError("until: must be later than since")
        return self


class VoidAnswer(BaseModel):
    """What is void now; with `dry_run`, what would be."""

    decisions: int = Field(description="Decisions with values that became void by this call.")
    values: int = Field(description="Values that became void: of each chosen action its own.")
    rewards: int = Field(description="Rewards that had made these values; they stay stored.")
    learned: int = Field(
        description="How many of the values had been learned; 0 with `dry_run`, which logs nothing."
    )
    unknown: list[str] = Field(
        description="Listed ids of no decision of this bandit, or of an erased one."
    )
    dry_run: bool
    unlearning: Literal["none", "pending"] = Field(
        description="pending: the served model contains void values until it is rebuilt."
    )


class CorrectRequest(Body):
    """The right value of a decision: it replaces all rewards so far."""

    decision_id: Id
    reward: Reward | None = Field(
        default=None, description="A single reward; needed where there are no `metrics`."
    )
    metrics: Annotated[dict[str, Reward], Field(min_length=1, max_length=MAX_METRICS)] | None = (
        Field(default=None, description="In place of `reward`: all metrics of the decision.")
    )
    action: Id | None = Field(
        default=None, description="Which of several chosen actions it is for."
    )


class CorrectAnswer(BaseModel):
    """What became of a correction."""

    status: Literal["applied", "duplicate", "aggregated", "pending", "late", "stored"] = Field(
        description="applied: learned. duplicate: it was the value already. aggregated: learned"
        " when the decision is activated. pending: learned when its window closes. late: it was"
        " never activated, and its window is closed: stored, and never learned. stored: the bandit"
        " has failed, and learns it once it is recovered."
    )
    action: str
    before: float | None = Field(description="The value before; null: void, or none yet.")
    after: float
