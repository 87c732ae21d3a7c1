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
from service.arrays import MAX_SIZE, decode_envelope

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
            ids = [item if isinstance(item, str) else item.id for item in value]
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


class CatalogueAnswer(BaseModel):
    """The catalogue after a change."""

    num_actions: int
    position: int


class TrainerState(BaseModel):
    """The trainer process."""

    state: str
    pid: int | None
    rounds: int
    phase: str | None = Field(None, description="Of a round: replay, optimizer, rebuild, publish.")


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
    trainer: TrainerState


class BanditList(BaseModel):
    """All bandits."""

    bandits: list[BanditAnswer]


class TrainAnswer(BaseModel):
    """A finished round, now served; or, without wait, a queued one."""

    trained: bool
    snapshot: int
    position: int
    metrics: dict[str, float]


class SnapshotAnswer(BaseModel):
    """What is served after an import."""

    snapshot: int
    position: int


class Health(BaseModel):
    """Alive, or ready."""

    status: str
    detail: str | None = None
    trainer: TrainerState | None = None
