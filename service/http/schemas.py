"""The wire's models: what requests and answers look like, in JSON and msgpack alike."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from bandexa_core.spec import BanditSpec
from service.http.arrays import decode_envelope
from service.serving.inputs import MAX_SIZE

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
MAX_CANDIDATES = 1_000_000
MAX_BATCH = 1000

ARRAY_SCHEMA: dict[str, Any] = {
    "title": "Array",
    "description": "Nested lists of numbers, or an envelope (data: base64; bytes in msgpack).",
    "oneOf": [
        {"type": "array", "items": {}},
        {
            "type": "object",
            "required": ["dtype", "shape", "data"],
            "additionalProperties": False,
            "properties": {
                "dtype": {"enum": ["uint8", "int64", "float32", "float64"]},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "data": {"type": "string", "contentEncoding": "base64"},
            },
        },
    ],
}
Array = Annotated[Any, BeforeValidator(decode_envelope), WithJsonSchema(ARRAY_SCHEMA)]


class Body(BaseModel):
    """Base of request bodies: unknown keys are refused, and "1" or true where a number belongs."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, strict=True)


class InlineAction(Body):
    """A candidate that brings its own features."""

    id: Id
    features: Array = Field(default_factory=list)


class SelectRequest(Body):
    """Which action for this context?"""

    model_config = ConfigDict(
        json_schema_extra={"example": {"bandit": "shop", "context": [0.3, 1.0, 0.0, 0.7]}}
    )

    bandit: Id = "default"
    context: Array
    candidates: list[Id] | list[InlineAction] | None = Field(
        None, min_length=1, max_length=MAX_CANDIDATES,
        description="Ids of the catalogue, or actions with features; none: all enabled actions.",
    )  # fmt: skip
    retrieve: int | None = Field(
        None, ge=1, description="Only this many, best by the sampled weights, become candidates."
    )
    decision_id: Id | None = Field(None, description="The caller's own id: makes retries safe.")
    k: int = Field(1, ge=1, le=1000, description="How many different actions to choose.")
    activate: bool = True

    @field_validator("candidates")
    @classmethod
    def _unique(cls, value: list[Any] | None) -> list[Any] | None:
        if value is not None:
            ids = value if isinstance(value[0], str) else [item.id for item in value]
            if len(set(ids)) != len(ids):
                raise ValueError("an action is offered twice")
        return value


class ActionRef(BaseModel):
    """An action: its id, and its place among the candidates sent (else its catalogue slot)."""

    id: str
    index: int


class SelectAnswer(BaseModel):
    """The decision."""

    decision_id: str
    action: ActionRef
    actions: list[ActionRef] | None = Field(None, description="All chosen ones, when k > 1.")
    score: float = Field(description="The sampled value of the first action.")
    propensity: float | None
    snapshot: int
    position: int


class RewardRequest(Body):
    """How a decision went."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"decision_id": "visit-4711", "reward": 1.0}}
    )

    decision_id: Id
    reward: float = Field(ge=-MAX_SIZE, le=MAX_SIZE, allow_inf_nan=False)
    reward_id: Id | None = None
    action: Id | None = Field(None, description="Which of several chosen actions it is for.")


class RewardAnswer(BaseModel):
    """What became of a reward."""

    status: Literal["applied", "duplicate", "ignored", "aggregated", "late"]
    train_due: bool


class ActivateRequest(Body):
    """A decision made with `activate` false took effect: from now on it counts."""

    decision_id: Id


class ActivateAnswer(BaseModel):
    """What became of an activation; `late`: the decision's reward window was closed already."""

    status: Literal["applied", "duplicate", "late"]


class SelectBatch(Body):
    """Up to 1000 selects; each succeeds or fails on its own."""

    items: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_BATCH),
        WithJsonSchema({"type": "array", "items": {"$ref": "#/components/schemas/SelectRequest"}}),
    ]


class RewardBatch(Body):
    """Up to 1000 rewards; each succeeds or fails on its own."""

    items: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_BATCH),
        WithJsonSchema({"type": "array", "items": {"$ref": "#/components/schemas/RewardRequest"}}),
    ]


class FieldProblem(BaseModel):
    """One field that is wrong."""

    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457: what went wrong. `type` is stable."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None


class SelectItem(BaseModel):
    """One answer of a batch."""

    code: int
    answer: SelectAnswer | None = None
    error: Problem | None = None


class RewardItem(BaseModel):
    """One answer of a batch."""

    code: int
    answer: RewardAnswer | None = None
    error: Problem | None = None


class SelectBatchAnswer(BaseModel):
    """The answers, in the order of the items."""

    items: list[SelectItem]


class RewardBatchAnswer(BaseModel):
    """The answers, in the order of the items."""

    items: list[RewardItem]


class ScoreRequest(Body):
    """What does the served model think?"""

    model_config = ConfigDict(json_schema_extra={"example": {"context": [0.3, 1.0, 0.0, 0.7]}})

    context: Array
    candidates: list[Id] | list[InlineAction] | None = Field(
        None, min_length=1, max_length=MAX_CANDIDATES
    )


class Score(BaseModel):
    """Mean and standard deviation of one candidate's expected reward."""

    id: str
    index: int
    mean: float
    std: float


class ScoreAnswer(BaseModel):
    """The scores, in candidate order."""

    scores: list[Score]
    snapshot: int
    position: int


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
