"""Answers about training rounds and snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Training:
    """The outcome of a training request.

    Attributes:
        status: served, once the new snapshot is; queued, when the call did not wait.
        trained: Whether a round was finished.
        snapshot: The version that is served; while queued, the one before the round.
        position: The log position of that snapshot.
        metrics: Measurements of the round, by name.
    """

    status: str
    trained: bool
    snapshot: int
    position: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """What a bandit serves after an import, a rollback or a recovery."""

    snapshot: int
    position: int


@dataclass(frozen=True, slots=True)
class SnapshotSummary:
    """A snapshot on the server's disk.

    Attributes:
        version: Its number within the bandit.
        parent: The version it was trained from; None for the first.
        position: The log position it was built at.
        num_learned: Values the bandit had learned by then.
        created_at: Seconds since the epoch.
        bytes: Size of its files.
        metrics: Measurements of its training round, by name.
    """

    version: int
    parent: int | None
    position: int
    num_learned: int
    created_at: float
    bytes: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots of a bandit, oldest first; `served` is the version that is served."""

    served: int
    snapshots: tuple[SnapshotSummary, ...]
