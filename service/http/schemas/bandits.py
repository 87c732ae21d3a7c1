"""Answers about bandits, their catalogues and their training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from bandexa_core.spec import BanditSpec
from service.http.schemas.health import Learning, TrainerState


class ActionState(BaseModel):
    """An action of the catalogue in its current state."""

    id: str
    index: int = Field(description="Its slot: the order of first upserts.")
    enabled: bool
    features: list[float] | dict[str, Any] = Field(
        description="Numbers; an object, where the bandit has named features."
    )


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
