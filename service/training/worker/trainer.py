"""The trainer: follows the store, trains encoders, publishes snapshots.

Runs in the process that `__main__` starts. It holds no truth: it rebuilds its replay from the
store where that is missing, and a round is a function of (newest snapshot, log up to P). It writes
snapshots alone, and refuses to publish once another server has opened the store (a newer epoch).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import ReplayError, SnapshotRefused
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.model import (
    MODEL_FILE,
    TRAINING_FILE,
    Progress,
    ServingModel,
    load_model,
    relearn,
)
from bandexa_core.policies.schedule import FIRST_ROUND
from bandexa_core.replay import ExtendedReplay
from bandexa_core.snapshots.publishing import publish_model
from bandexa_core.snapshots.registered import Fence
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from bandexa_core.spec import BanditSpec
from bandexa_core.training.ranks import ALONE
from service.store.address import address_of
from service.store.errors import LogTrimmed
from service.store.loading import (
    Parent,
    catalogue_of,
    clean_snapshot,
    contains_erased,
    load_at,
    newest_snapshot,
    num_blanked,
    parent_without_voids,
)
from service.store.logged_rows import learned_rows
from service.store.opening import open_reader
from service.store.reading import BEGINNING
from service.store.records import BanditRecord
from service.store.snapshots import snapshots_of
from service.training.errors import BanditGone
from service.training.messages import (
    LOG_ROWS,
    RELEARNED,
    Configuration,
    Published,
    RoundOrder,
)
from service.training.worker.heartbeat import Heartbeats
from service.training.worker.ranks import OF_RANKS, NoOtherRanks, RoundRanks, replay_root
from service.training.worker.replays import FollowedReplays

log = logging.getLogger(__name__)
HOUR_S = 3600.0


class Trainer:
    """Carries out rounds, one at a time.

    Args:
        configuration: The directories, and how to train.
        beats: Reports how far a round is.
        ranks: The processes that share a round that trains an encoder; rank 0 alone publishes.

    Attributes:
        fence: The lease without which nothing is published; None: the epoch of the server says it.
    """

    def __init__(
        self, configuration: Configuration, beats: Heartbeats, ranks: RoundRanks | None = None
    ) -> None:
        self._configuration = configuration
        self._beats = beats
        self._ranks = ranks or NoOtherRanks()
        self._reader = open_reader(address_of(configuration.database))
        self._address = address_of(configuration.database)
        self._snapshots = Path(configuration.snapshots)
        self._replays = FollowedReplays(self._reader, replay_root(configuration, self._ranks.rank))
        self.fence: Fence | None = None
        self._registry = EncoderRegistry(
            configuration.encoders,
            {name: Path(path) for name, path in configuration.weights.items()},
            torch_threads=configuration.threads,
        )

    def _snapshots_of(self, uid: BanditUid) -> SnapshotStore:
        return snapshots_of(self._snapshots, self._address, uid, self.fence)

    def round(self, order: RoundOrder) -> Published:
        """Build and publish the snapshot of a bandit at the position of the order.

        Raises:
            BanditGone: The bandit was deleted.
            RankLost: Another rank has ended; this process has to be started again.
        """
        try:
            return self._round_again(order)
        except Exception:
            self._ranks.failed()
            raise

    def _round_again(self, order: RoundOrder) -> Published:
        """Carry out a round, a second time where the replay cannot be read."""
        try:
            return self._round(order)
        except ReplayError as error:
            log.warning("the replay of %s is rebuilt from the log: %s", order.uid, error)
            self._replays.forget(order.uid)
            self._ranks.failed()
            return self._round(order)

    def _round(self, order: RoundOrder) -> Published:
        uid, position = order.uid, order.position
        started = time.perf_counter()
        self._beats.begin()
        self._beats("replay")
        record = next((found for found in self._reader.bandits() if found.uid == uid), None)
        if record is None:
            raise BanditGone("the bandit was deleted")
        snapshots = self._snapshots_of(uid)
        names = (MODEL_FILE, TRAINING_FILE)
        metrics: dict[str, float] = {}
        blanked = num_blanked(self._reader, record)  # before any row is read
        if order.erased_from is not None:
            self._replays.forget(uid)  # it has the erased rows
        if order.wanted is not None:
            return self._relearn(record, snapshots, order, order.wanted, blanked, started)
        start = self._start(record, snapshots, order, names)
        if start is None:
            served = self._reader.configurations(record, position).generation(position)
            return self._relearn(record, snapshots, order, served, blanked, started)
        parent, void = start
        if contains_erased(self._reader, record, self._registry, snapshots, parent.manifest):
            blanked = 0
            if order.erased_from is not None:
                log.warning("bandit %s: what it learned from erased rows stays", record.name)
        spec = self._reader.spec_at(record, position)
        progress = Progress(**parent.manifest.meta["progress"])
        total = self._num_learned(record, parent, order, progress.num_learned - len(void))
        model = self._model(record, spec, snapshots, start, position, total)
        training = parent.tensors[TRAINING_FILE]
        if model.learns_features and progress.may_train(total):
            ranks = self._ranks.begin(order, SnapshotVersion(parent.manifest.version))
            rows = self._replays.at(record, spec, position)
            if len(rows):
                from service.training.worker.encoders import train  # imports torch

                training, trained = train(
                    model, rows, training, total, self._configuration.device,
                    cache=lambda: self._replays.activations(record, spec), beats=self._beats,
                    ranks=ranks,
                )  # fmt: skip
                metrics |= trained
            progress = Progress(num_learned=total, trained_rows=total)
        else:
            metrics |= self._refresh(model, record, position, total)
            progress = Progress(total, progress.trained_rows, progress.inherited_rows)
        version = SnapshotVersion(parent.manifest.version)
        return self._publish(
            record, snapshots, order, model, started, parent=version, progress=progress,
            training=training, metrics=metrics, blanked=blanked,
        )  # fmt: skip

    def _start(
        self,
        record: BanditRecord,
        snapshots: SnapshotStore,
        order: RoundOrder,
        names: tuple[str, ...],
    ) -> Parent | None:
        """Return what a round builds its model from; None: it has to learn all rows again."""
        reader, position = self._reader, order.position
        if order.erased_from is None:
            parent = newest_snapshot(reader, record, snapshots, position, names)
        else:
            clean = clean_snapshot(
                reader, record, self._registry, snapshots, order.erased_from, position, names
            )
            if clean is None:
                return None
            parent = clean
        return parent_without_voids(
            reader, record, self._registry, snapshots, parent, position, names
        )

    def _relearn(
        self,
        record: BanditRecord,
        snapshots: SnapshotStore,
        order: RoundOrder,
        generation: LogPosition,
        blanked: int,
        started: float,
    ) -> Published:
        """Learn a generation from the rows of the log, and from the sample of those that left it.

        It is what a round of a bandit with this configuration from the start would be, on the same
        rows.
        """
        position = order.position
        spec = self._reader.spec_at(record, position, generation)
        catalogue = self._reader.catalogue_at(record, position)
        model = ServingModel(spec, record.uid, self._registry, catalogue)
        model.generation, model.position = generation, position
        model.forgetting = self._reader.forgetting_at(
            record, Forgetting(), BEGINNING, position, generation
        )
        self._replays.drop_activations(record.uid)  # those of another encoder
        total = self._reader.count_learned(record.key, BEGINNING, position)
        trains = model.learns_features and total >= FIRST_ROUND
        ranks = self._ranks.begin(order, None) if trains else ALONE
        rows = self._replays.at(record, spec, position)
        training: dict[str, NDArray[Any]] = {}
        metrics = {RELEARNED: float(len(rows)), "rows": float(len(rows))}
        if isinstance(rows, ExtendedReplay):
            metrics |= rows.counts()
        progress = Progress(total)
        # Trained whatever the schedule says: what was trained before is not here any more.
        if len(rows) and trains:
            from service.training.worker.encoders import train  # imports torch

            training, trained = train(
                model, rows, training, total, self._configuration.device,
                cache=lambda: self._replays.activations(record, spec), beats=self._beats,
                ranks=ranks,
            )  # fmt: skip
            metrics |= trained
            progress = Progress(total, trained_rows=total)
        elif len(rows):
            self._beats("rebuild")
            weights = model.row_weights
            if isinstance(rows, ExtendedReplay):
                weights = rows.weights(weights)
            elif not model.learns_features:
                metrics[LOG_ROWS] = float(len(rows))
            relearn(model, rows, total, weights)
        return self._publish(
            record, snapshots, order, model, started, parent=None, progress=progress,
            training=training, metrics=metrics, blanked=blanked,
        )  # fmt: skip

    def _publish(
        self,
        record: BanditRecord,
        snapshots: SnapshotStore,
        order: RoundOrder,
        model: ServingModel,
        started: float,
        *,
        parent: SnapshotVersion | None,
        progress: Progress,
        training: Mapping[str, NDArray[Any]],
        metrics: dict[str, float],
        blanked: int,
    ) -> Published:
        position = order.position
        self._ranks.finished()
        if self._ranks.rank:  # rank 0 publishes
            return Published(order.uid, parent or SnapshotVersion(0), position, metrics)
        self._beats("publish")
        metrics["round_seconds"] = time.perf_counter() - started
        log_hash = self._reader.hash_at(record.key, position)
        assert log_hash is not None, "the order names a committed position"
        manifest = publish_model(
            snapshots, model, position=position, log_hash=log_hash, epoch=self._configuration.epoch,
            parent=parent, progress=progress, training=training, metrics=metrics,
            before_rename=self._check_epoch, blanked=blanked, world_size=self._ranks.size,
        )  # fmt: skip
        known = self._reader.configurations(record)
        pinned = {order.served, manifest.version, *self._reader.imports(record.key)}
        pinned |= {SnapshotVersion(arm.snapshot) for arm in known.specs[-1].arms if arm.snapshot}
        if known.promotion is not None:  # what it replaced can be restored
            pinned.add(SnapshotVersion(known.promotion.version))
        knobs = self._configuration
        snapshots.prune(
            knobs.keep_snapshots, pinned,
            keep_s=HOUR_S * knobs.keep_snapshots_h, most_bytes=knobs.keep_snapshots_bytes,
        )  # fmt: skip
        return Published(order.uid, SnapshotVersion(manifest.version), position, metrics)

    def _refresh(
        self, model: ServingModel, record: BanditRecord, position: LogPosition, total: int
    ) -> dict[str, float]:
        """Refresh a model, from the log where its inputs are standardised anew."""
        if not model.reads_log(total):
            model.refresh(total)
            return {}
        while True:
            weights = model.spec.rewards.learn
            rows = learned_rows(self._reader, record, position, total, weights)
            try:
                model.refresh(total, rows)
            except LogTrimmed:  # the server trimmed it during the read
                continue
            return {LOG_ROWS: float(len(rows))}

    def _num_learned(
        self, record: BanditRecord, parent: Snapshot, order: RoundOrder, num_before: int
    ) -> int:
        """Return how many values are learned at the order's position, without erased ones.

        Args:
            record: The bandit.
            parent: The snapshot that the round starts from.
            order: What the round covers.
            num_before: How many values `parent` has learned, without those that are taken out of
                it; erased ones included.
        """
        count, position = self._reader.count_learned, order.position
        if order.erased_from is None or self._reader.last_import(record.key, position):
            return num_before + count(record.key, LogPosition(parent.manifest.position), position)
        return count(record.key, BEGINNING, position)

    def _model(
        self,
        record: BanditRecord,
        spec: BanditSpec,
        snapshots: SnapshotStore,
        start: Parent,
        position: LogPosition,
        total: int,
    ) -> ServingModel:
        """Return the model a round starts from, without the values that are void at `position`.

        Without an encoder to train (now): the one at `position`. With one: the parent's encoder
        under the actions, configuration and forgetting of `position`; its posterior will be
        rebuilt.
        """
        parent, void = start
        catalogue = catalogue_of(self._reader, record, parent, position)
        model = load_model(spec, record.uid, self._registry, parent, catalogue)
        if model.learns_features and model.progress.may_train(total):
            model.forgetting = self._reader.forgetting_at(
                record, model.forgetting, LogPosition(parent.manifest.position), position,
                model.generation,
            )  # fmt: skip
            return model
        return load_at(
            self._reader, record, self._registry, snapshots, parent, position, voids=position,
            void=void, learns_held=True,
        )  # fmt: skip

    def _check_epoch(self) -> None:
        if self.fence is None and self._reader.epoch() != self._configuration.epoch:
            raise SnapshotRefused("another server has opened this data directory")

    def is_gone(self, uid: BanditUid) -> bool:
        """Whether a bandit was deleted."""
        return all(record.uid != uid for record in self._reader.bandits())

    def forget_deleted(self) -> None:
        """Close and remove the replays of bandits that were deleted."""
        known = {record.uid for record in self._reader.bandits()}
        for root in Path(self._configuration.replays).iterdir():
            if root.name not in known and not root.name.startswith(OF_RANKS):
                self._ranks.forget(BanditUid(root.name))
                self._replays.forget(BanditUid(root.name))
                shutil.rmtree(self._snapshots / root.name, ignore_errors=True)

    def forget(self, uid: BanditUid) -> None:
        """Close and remove what belongs to a deleted bandit."""
        self._ranks.forget(uid)
        self._replays.forget(uid)
        if not self._ranks.rank:
            self._snapshots_of(uid).remove_all()
