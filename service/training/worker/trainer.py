"""The trainer: follows the store, trains encoders, publishes snapshots.

Runs in the child process that `trainer_process` starts. It holds no truth: its replay is rebuilt
from the store where it is missing, and a round is a function of (newest snapshot, log up to P). It
writes snapshots alone, and refuses to publish once another server has opened the store (a newer
epoch).
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.encoders.torch.module import PrefixModule
from bandexa_core.errors import ReplayError, SnapshotRefused
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.model import (
    MODEL_FILE,
    TRAINING_FILE,
    Progress,
    ServingModel,
    load_model,
    plan_round,
)
from bandexa_core.policies import NeuralLinearTS
from bandexa_core.replay import ExtendedReplay
from bandexa_core.snapshots.publishing import publish_model
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from bandexa_core.spec import BanditSpec
from service.serving.errors import UnknownBandit
from service.store.loading import load_at, newest_snapshot
from service.store.records import BanditRecord
from service.store.sqlite.reader import StoreReader
from service.training.worker.heartbeat import Heartbeat
from service.training.worker.replays import FollowedReplays

log = logging.getLogger(__name__)


class Trainer:
    """Carries out rounds, one at a time.

    Args:
        configuration: database, snapshots, replays (paths), device, encoders, weights, epoch,
            keep.
        beat: Hears how far a round is: "replay", "optimizer", "rebuild", "publish".
    """

    def __init__(self, configuration: dict[str, Any], beat: Heartbeat | None = None) -> None:
        self._beat = Heartbeat(lambda _: None) if beat is None else beat
        self._reader = StoreReader(Path(configuration["database"]))
        self._snapshots = Path(configuration["snapshots"])
        self._replays = FollowedReplays(self._reader, Path(configuration["replays"]))
        self._registry = EncoderRegistry(configuration["encoders"], configuration["weights"])
        self._epoch: int = configuration["epoch"]
        self._keep: int = configuration["keep"]
        device: str = configuration["device"]
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = device

    def round(self, uid: BanditUid, position: LogPosition, served: int) -> dict[str, Any]:
        """Build and publish the snapshot of a bandit at `position`; returns the event to report.

        Args:
            uid: Whose round it is.
            position: P: the round covers the log up to it.
            served: The version being served, which is not pruned.
        """
        try:
            return self._round(uid, position, served)
        except ReplayError as error:
            log.warning("the replay of %s is rebuilt from the log: %s", uid, error)
            self._replays.forget(uid)
            return self._round(uid, position, served)

    def _round(self, uid: BanditUid, position: LogPosition, served: int) -> dict[str, Any]:
        started = time.perf_counter()
        self._beat.begin()
        self._beat("replay")
        record = next((found for found in self._reader.bandits() if found.uid == uid), None)
        if record is None:
            raise UnknownBandit(uid)  # deleted since the order was given
        snapshots = SnapshotStore(self._snapshots / uid)
        names = (MODEL_FILE, TRAINING_FILE)
        parent = newest_snapshot(self._reader, record, snapshots, position, names)
        spec = self._reader.spec_at(record, position)
        learned = self._reader.count_learned(
            record.key, LogPosition(parent.manifest.position), position
        )
        progress = Progress(**parent.manifest.meta["progress"])
        total = progress.num_learned + learned
        model = self._model(record, spec, snapshots, parent, position, total)
        training = parent.tensors[TRAINING_FILE]
        metrics: dict[str, float] = {}
        if isinstance(model.policy, NeuralLinearTS) and progress.may_train(total):
            rows = self._replays.at(record, spec, position)
            if len(rows):
                replay = rows.replay if isinstance(rows, ExtendedReplay) else rows
                self._beat.holds(len(rows), replay.num_bytes)
                plan = plan_round(model, total, self._device)
                weights = model.row_weights
                evicted = {}
                if isinstance(rows, ExtendedReplay):
                    weights = rows.weights(weights)
                    evicted = rows.counts()
                cache = None
                if isinstance(model.policy.module, PrefixModule):
                    cache = self._replays.activations(record, spec)
                training, metrics = model.policy.train(
                    rows, training, plan, weights, cache, self._beat
                )
                metrics |= evicted
            progress = Progress(num_learned=total, trained_rows=total)
        else:
            model.refresh(total)
            progress = Progress(total, progress.trained_rows, progress.inherited_rows)
        self._beat("publish")
        metrics["round_seconds"] = time.perf_counter() - started
        log_hash = self._reader.hash_at(record.key, position)
        assert log_hash is not None, "the order names a committed position"
        manifest = publish_model(
            snapshots, model, position=position, log_hash=log_hash, epoch=self._epoch,
            parent=SnapshotVersion(parent.manifest.version), progress=progress,
            training=training, metrics=metrics, before_rename=self._check_epoch,
        )  # fmt: skip
        pinned = {served, manifest.version, *self._reader.imports(record.key)}
        snapshots.prune(self._keep, pinned)
        return {
            "event": "published", "uid": uid, "version": manifest.version, "position": position,
            "metrics": metrics,
        }  # fmt: skip

    def _model(
        self,
        record: BanditRecord,
        spec: BanditSpec,
        snapshots: SnapshotStore,
        parent: Snapshot,
        position: LogPosition,
        total: int,
    ) -> ServingModel:
        """Return the model a round starts from.

        Without an encoder to train (now): the one at `position`. With one: the parent's encoder
        under the actions, configuration and forgetting of `position`; its posterior will be
        rebuilt.
        """
        model = load_model(
            spec, record.uid, self._registry, parent, self._reader.catalogue_at(record, position)
        )
        if model.learns_features and model.progress.may_train(total):
            model.forgetting = self._reader.forgetting_at(
                record, model.forgetting, LogPosition(parent.manifest.position), position
            )
            return model
        return load_at(self._reader, record, self._registry, snapshots, parent, position)

    def _check_epoch(self) -> None:
        if self._reader.epoch() != self._epoch:
            raise SnapshotRefused("another server has opened this data directory")

    def is_gone(self, uid: BanditUid) -> bool:
        """Whether a bandit was deleted."""
        return all(record.uid != uid for record in self._reader.bandits())

    def forget(self, uid: BanditUid) -> None:
        """Close and remove what belongs to a deleted bandit."""
        self._replays.forget(uid)
        shutil.rmtree(self._snapshots / uid, ignore_errors=True)
