"""Bodies of snapshots."""

from __future__ import annotations

from pydantic import (
    BaseModel,
    Field,
)

from service.http.schemas.common import Body


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
