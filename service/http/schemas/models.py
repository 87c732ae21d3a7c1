"""Bodies of the administrative calls: requests checked by pydantic, answers documented by it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from bandexa_core.spec import BanditSpec
from service.http.arrays import ARRAY_SCHEMA, convert_array
from service.http.schemas.decide import ID_PATTERN, MAX_CANDIDATES

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]

Array = Annotated[Any, BeforeValidator(convert_array), WithJsonSchema(ARRAY_SCHEMA)]


class Body(BaseModel):
    """Base of request bodies: unknown keys are refused, and "1" or true where a number belongs."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, strict=True)


class ActionBody(Body):
    """An action of the catalogue."""

    id: Id
    features: Array | None = None
    enabled: bool = True


class ActionsRequest(Body):
    """Actions to add or overwrite: a list, or in columns for many at once."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"actions": [{"id": "ten-percent"}, {"id": "nothing"}]}}
    )

    actions: list[ActionBody] | None = Field(None, min_length=1, max_length=MAX_CANDIDATES)
    ids: list[Id] | None = Field(None, min_length=1, max_length=MAX_CANDIDATES)
    features: Array | None = None

    @model_validator(mode="after")
    def _one_form(self) -> ActionsRequest:
        if (self.actions is None) == (self.ids is None):
            raise ValueError("give either actions, or ids with features")
        if self.actions is not None and self.features is not None:
            raise ValueError("features belongs to ids; actions bring their own")
        ids = self.ids if self.ids is not None else [action.id for action in self.actions or []]
        if len(set(ids)) != len(ids):
            raise ValueError("an action is given twice")
        return self


class ActionState(BaseModel):
    """An action of the catalogue as it is."""

    id: str
    index: int = Field(description="Its slot: the order of first upserts.")
    enabled: bool
    features: list[float]


class ActionList(BaseModel):
    """A part of the catalogue, in slot order."""

    total: int
    actions: list[ActionState]


class CatalogueAnswer(BaseModel):
    """The catalogue after a change."""

    num_actions: int
    position: int


class TrainerState(BaseModel):
    """The trainer process; `phase` is what it does within its round."""

    state: str
    phase: str
    pid: int | None
    rounds: int


class FindingAnswer(BaseModel):
    """One thing that keeps a bandit from learning (alarm), or may do so (notice)."""

    name: str
    severity: Literal["alarm", "notice"]
    message: str
    remedy: str


class Learning(BaseModel):
    """Whether a bandit still learns, as far as this server has seen since its start."""

    findings: list[FindingAnswer]
    join_rate: float | None = Field(
        description="Rewarded per chosen actions, of about the last 1,000."
    )
    reward_mean: float | None = Field(description="Of about the last 1,000 learned values.")


class LearnAnswer(BaseModel):
    """Whether all bandits still learn: `learning`, or `alarm` where something is wrong."""

    status: Literal["learning", "alarm"]
    findings: list[FindingAnswer] = Field(description="Of the server as a whole.")
    bandits: dict[str, Learning]


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


class BanditList(BaseModel):
    """All bandits."""

    bandits: list[BanditAnswer]


class TrainAnswer(BaseModel):
    """A finished round, now served; or, without wait, a queued one."""

    status: Literal["served", "queued"] = Field(
        description="queued: `snapshot` is still the one before; GET /bandits/{name} tells when it"
        " is followed."
    )
    trained: bool
    snapshot: int
    position: int
    metrics: dict[str, float]


class SnapshotAnswer(BaseModel):
    """What is served after an import."""

    snapshot: int
    position: int


class SnapshotSummary(BaseModel):
    """A snapshot on disk."""

    version: int
    parent: int | None = Field(description="The snapshot it was trained from.")
    position: int = Field(description="The log position it was built at.")
    num_learned: int
    created_at: float = Field(description="Seconds since the epoch.")
    bytes: int
    metrics: dict[str, float] = Field(description="What its round measured.")


class SnapshotList(BaseModel):
    """A bandit's snapshots, oldest first."""

    served: int
    snapshots: list[SnapshotSummary]


class RollbackRequest(Body):
    """Which snapshot to go back to."""

    version: int = Field(ge=0)


class Health(BaseModel):
    """Alive, or ready."""

    status: str
    detail: str | None = None
    trainer: TrainerState | None = None
