"""Bodies of the calls that evaluate policies on a bandit's log."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bandexa_core.spec import BanditSpec
from service.http.schemas.common import Id
from service.serving.inputs import MAX_SIZE

MAX_POLICIES = 20
Value = Annotated[float, Field(ge=-MAX_SIZE, le=MAX_SIZE)]


class EvaluationRequest(BaseModel):
    """Which policies, and how. What was served and uniform choices are always among them."""

    model_config = ConfigDict(extra="forbid")

    actions: list[Id] = Field(
        default=[], max_length=MAX_POLICIES, description="Serving each of these always."
    )
    configs: dict[Id, BanditSpec] = Field(
        default={}, max_length=MAX_POLICIES, description="Other configurations, by a name."
    )
    range: tuple[Value, Value] | None = Field(
        default=None, description="Lowest and highest value; null: the bandit's reward_range."
    )
    missing: Value | None = Field(
        default=None, description="The value of decisions without one; null: they are left out."
    )
    alpha: float = Field(
        default=0.05, ge=1e-6, le=0.5, description="How often an interval may ever be wrong."
    )
    precision: float = Field(
        default=0.05,
        ge=1e-4,
        le=1.0,
        description="The difference to be seen, as a share of the range; for advice.",
    )
    method: Literal["mixture", "betting", "plug_in"] | None = Field(
        default=None, description="Of intervals; null: what suits each policy."
    )

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("range: needs two numbers, the lower one first")
        return self


class EvaluationState(BaseModel):
    """An evaluation."""

    id: str
    bandit: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "interrupted"] = Field(
        description="interrupted: the server ended before; ask again."
    )
    requested_at: float = Field(description="Seconds since the epoch.")
    started_at: float | None
    ended_at: float | None
    request: dict[str, Any] = Field(description="What was asked for.")
    error: str | None = Field(description="Why there is no result.")
    result: dict[str, Any] | None = Field(
        None, description="What `bandexa evaluate --json` prints; in lists it is left out."
    )


class EvaluationList(BaseModel):
    """The evaluations of a bandit, newest first, without results."""

    evaluations: list[EvaluationState]
