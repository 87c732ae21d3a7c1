"""Publishing a model: the manifest and the tensors of its snapshot.

Used by the trainer after a round, and by the server when a bandit is created and when a snapshot is
imported.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from bandexa_core.errors import SnapshotRefused
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.model import (
    CATALOGUE,
    GENERATION,
    MODEL_FILE,
    TRAINING_FILE,
    Progress,
    ServingModel,
)
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.store import SnapshotStore

COPIED = "copied_rows"
BLANKED = "blanked"
WORLD_SIZE = "world_size"


def publish_model(
    snapshots: SnapshotStore,
    model: ServingModel,
    *,
    position: LogPosition,
    log_hash: bytes,
    epoch: int,
    version: SnapshotVersion | None = None,
    parent: SnapshotVersion | None,
    progress: Progress,
    training: Mapping[str, NDArray[Any]],
    metrics: Mapping[str, float],
    before_rename: Callable[[], None] | None = None,
    catalogue_position: LogPosition | None = None,
    copied: Sequence[tuple[int, int]] | None = None,
    blanked: int = 0,
    world_size: int = 1,
) -> Manifest:
    """Publish the state of a model as a snapshot.

    Args:
        snapshots: The snapshot directory of the bandit.
        model: The model.
        position: The log position that the model's state covers.
        log_hash: Hash of the log up to `position`.
        epoch: Lock epoch of the server; `before_rename` refuses a stale one.
        version: Version of the snapshot; None takes the next free one.
        parent: The snapshot that training started from; None without one.
        progress: Row counts at `position`.
        training: Head and optimizer state of the encoder's training; empty without training.
        metrics: Measurements of the round.
        before_rename: The last check before the snapshot becomes visible; it raises to refuse.
        catalogue_position: The log position of the model's catalogue, where it is an earlier one;
            the snapshot is loaded with the changes in between.
        copied: First and last rows of the parts of the bandit's own log that taught a model which
            is imported; or None.
        blanked: How often learn rows of the log had been blanked when the model was made without
            them; 0 where it may have learned from them.
        world_size: How many processes shared a round. Another number gives other roundings.

    Raises:
        SnapshotError: The snapshot could not be written, or is refused.
    """
    copies = {} if copied is None else {COPIED: [list(part) for part in copied]}
    actions = {f"{CATALOGUE}{name}": t for name, t in model.catalogue.tensors().items()}
    files = {MODEL_FILE: model.tensors() | actions, TRAINING_FILE: dict(training)}
    draft = Manifest(
        version=version or SnapshotVersion(0),
        parent=parent,
        bandit_uid=model.uid,
        position=position,
        log_hash=log_hash.hex(),
        spec_hash=model.spec.model_hash(),
        num_rows=progress.num_learned,
        epoch=epoch,
        encoder=model.spec.encoder.name,
        metrics={name: float(value) for name, value in metrics.items()},
        meta={
            "progress": progress._asdict(),
            "machine": platform.machine(),
            "catalogue_position": position if catalogue_position is None else catalogue_position,
            BLANKED: blanked,
            GENERATION: int(model.generation),
            WORLD_SIZE: world_size,
            **copies,
        },
    )
    if version is None:
        return _publish_next(snapshots, draft, files, before_rename)
    return snapshots.publish(draft, files, before_rename)


def _publish_next(
    snapshots: SnapshotStore,
    draft: Manifest,
    files: Mapping[str, Mapping[str, NDArray[Any]]],
    before_rename: Callable[[], None] | None,
) -> Manifest:
    """Publish a snapshot as the next free version."""
    while True:
        free = snapshots.next_version()
        try:
            return snapshots.publish(dataclasses.replace(draft, version=free), files, before_rename)
        except SnapshotRefused:
            # An import in the server took this version while the trainer was publishing, or the
            # other way round. A refusal for another reason leaves the next version as it was.
            if snapshots.next_version() == free:
                raise
