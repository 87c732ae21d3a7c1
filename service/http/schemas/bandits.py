"""Bodies of bandits, their catalogues and their training."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from bandexa_core.spec import BanditSpec
from service.http.schemas.common import Array, Body, Id
from service.http.schemas.decide import MAX_CANDIDATES
from service.http.schemas.health import Learning, TrainerState


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
    """An action of the catalogue in its current state."""

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
    """Bandits, sorted by name; `next` is the `after` of those behind them, null at the end."""

    bandits: list[BanditAnswer]
    next: str | None


class RecoverAnswer(BaseModel):
    """A bandit that serves a model with every row of its log."""

    snapshot: int
    position: int


class TrainAnswer(BaseModel):
    """A completed round whose model is served; or, without `wait`, a queued one."""

    status: Literal["served", "queued"] = Field(
        description="queued: `snapshot` is still the one before the round; GET /bandits/{name}"
        " shows the new one once it is served."
    )
    trained: bool
    snapshot: int
    position: int
    metrics: dict[str, float]
