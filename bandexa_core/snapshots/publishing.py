"""From a model to a published snapshot: what the manifest says and which tensors it holds."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from bandexa_core.errors import SnapshotRefused
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.model import MODEL_FILE, TRAINING_FILE, Progress, ServingModel
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.store import SnapshotStore


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
) -> Manifest:
    """Publish the state of `model` as snapshot `version` built at `position`.

    Args:
        snapshots: The bandit's snapshot directory.
        model: What is published.
        position: The log position that state covers.
        log_hash: Hash of the log up to `position`.
        epoch: Of the server that asks; a stale one is refused by `before_rename`.
        version: Of the new snapshot; None takes the next that is free.
        parent: The snapshot it was trained from.
        progress: Row counts at `position`.
        training: Head and optimizer state of the encoder's training, empty without one.
        metrics: What the round measured.
        before_rename: The last check before the snapshot becomes visible.

    Raises:
        SnapshotError: It could not be written, or is refused.
    """
    files = {MODEL_FILE: model.tensors(), TRAINING_FILE: dict(training)}

    def publish(number: SnapshotVersion) -> Manifest:
        manifest = Manifest(
            version=number,
            parent=parent,
            bandit_uid=model.uid,
            position=position,
            log_hash=log_hash.hex(),
            spec_hash=model.spec.model_hash(),
            num_rows=progress.num_learned,
            epoch=epoch,
            encoder=model.spec.encoder.name,
            metrics={name: float(value) for name, value in metrics.items()},
            meta={"progress": dataclasses.asdict(progress), "machine": platform.machine()},
        )
        return snapshots.publish(manifest, files, before_rename)

    if version is not None:
        return publish(version)
    while True:
        free = SnapshotVersion(snapshots.next_version())
        try:
            return publish(free)
        except SnapshotRefused:
            # The server imports while the trainer publishes: who comes second takes the next one.
            if snapshots.next_version() == free:
                raise
