"""The trainer process: follows the store, trains encoders, publishes snapshots.

Run as `python -m service.trainer` by the supervisor: a configuration line in, then orders in and
events out, JSON per line. It holds no truth: its replay is rebuilt from the store where it is
missing, and a round is a function of (newest snapshot, log up to P). It writes snapshots alone,
and refuses to publish once another server has opened the store (a newer epoch). It exits when
its standard input closes.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import ReplayError, SnapshotRefused
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.log import LearnRow
from bandexa_core.model import MODEL_FILE, TRAINING_FILE, Progress, ServingModel, load_model
from bandexa_core.policies import NeuralLinearTS
from bandexa_core.policies.schedule import optimizer_steps
from bandexa_core.policies.training import TrainingRound
from bandexa_core.publishing import publish_model
from bandexa_core.randomness import keyed_seed
from bandexa_core.replay import Replay, RowLayout, Rows, open_replay
from bandexa_core.snapshot import Snapshot, SnapshotStore
from bandexa_core.spec import BanditSpec, ReplaySpec
from service.loading import load_at, newest_snapshot
from service.store import BanditRecord, StoreReader

log = logging.getLogger(__name__)


class Trainer:
    """Carries out rounds, one at a time.

    Args:
        configuration: database, snapshots, replays (paths), device, encoders, epoch, keep.
    """

    def __init__(self, configuration: dict[str, Any]) -> None:
        self._reader = StoreReader(Path(configuration["database"]))
        self._snapshots = Path(configuration["snapshots"])
        self._replay_root = Path(configuration["replays"])
        self._registry = EncoderRegistry(configuration["encoders"])
        self._epoch: int = configuration["epoch"]
        self._keep: int = configuration["keep"]
        device: str = configuration["device"]
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = device
        self._replays: dict[BanditUid, tuple[ReplaySpec, Replay]] = {}

    def round(self, uid: BanditUid, position: LogPosition, served: int) -> dict[str, Any]:
        """Build and publish the snapshot of a bandit at `position`; returns the event to report.

        Args:
            uid: Whose round it is.
            position: P: the round covers the log up to it.
            served: The version being served, which is not pruned.
        """
        started = time.perf_counter()
        record = next(found for found in self._reader.bandits() if found.uid == uid)
        snapshots = SnapshotStore(self._snapshots / uid)
        names = (MODEL_FILE, TRAINING_FILE)
        parent = newest_snapshot(self._reader, record, snapshots, position, names)
        spec = self._reader.spec_at(record, position)
        model = self._model(record, spec, snapshots, parent, position)
        learned = self._reader.count_learned(
            record.key, LogPosition(parent.manifest.position), position
        )
        progress = Progress(**parent.manifest.meta["progress"])
        total = progress.num_learned + learned
        training = parent.tensors[TRAINING_FILE]
        metrics: dict[str, float] = {}
        if isinstance(model.policy, NeuralLinearTS):
            replay = self._followed(record, spec, position)
            if len(replay):
                plan = self._plan(spec, uid, total, len(model.catalogue), model.policy)
                training, metrics = model.policy.train(replay, training, plan)
            progress = Progress(num_learned=total, trained_rows=total)
        else:
            model.policy.refresh()
            progress = Progress(total, progress.trained_rows, progress.inherited_rows)
        metrics["round_seconds"] = time.perf_counter() - started
        log_hash = self._reader.hash_at(record.key, position)
        assert log_hash is not None, "the order names a committed position"
        manifest = publish_model(
            snapshots, model, position=position, log_hash=log_hash, epoch=self._epoch,
            version=SnapshotVersion(snapshots.next_version()),
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
    ) -> ServingModel:
        """Return the model a round starts from.

        Without an encoder to train: the one at `position`. With one: the parent's encoder under
        the actions and configuration of `position`; its posterior will be rebuilt.
        """
        model = load_model(
            spec, record.uid, self._registry, parent, self._reader.catalogue_at(record, position)
        )
        if model.learns_features:
            return model
        return load_at(self._reader, record, self._registry, snapshots, parent, position)

    def _plan(
        self, spec: BanditSpec, uid: BanditUid, rows: int, num_actions: int, policy: NeuralLinearTS
    ) -> TrainingRound:
        training = spec.training
        return TrainingRound(
            steps=optimizer_steps(training),
            batch_size=training.batch_size,
            lr=training.lr,
            weight_decay=training.weight_decay,
            rebuild_chunk=training.rebuild_chunk,
            seed=keyed_seed(uid, spec.seed or 0, "train", str(rows)),
            num_heads=1 if policy.encoder.uses_action else max(1, num_actions),
            device=self._device,
        )

    def _check_epoch(self) -> None:
        if self._reader.epoch() != self._epoch:
            raise SnapshotRefused("another server has opened this data directory")

    # -- the replay ---------------------------------------------------------------------------

    def _followed(self, record: BanditRecord, spec: BanditSpec, position: LogPosition) -> Replay:
        """Return the bandit's replay with the log followed up to `position`."""
        replay = self._open(record, spec)
        start = LogPosition(replay.followed)
        for rows in self._reader.follow(record, start, position):
            learned = [row for row in rows if isinstance(row, LearnRow)]
            for batch in _runs(learned):
                if batch[0].before is None:
                    replay.append(_rows(batch))
                else:
                    origins = np.array([row.origin for row in batch], np.int64)
                    values = np.array([row.after for row in batch])
                    replay.correct(origins, values)
            replay.mark_followed(rows[-1].position)
        return replay

    def _open(self, record: BanditRecord, spec: BanditSpec) -> Replay:
        known = self._replays.get(record.uid)
        if known is not None and known[0] == spec.replay:
            return known[1]
        if known is not None:
            known[1].close()
        context = spec.context
        layout = RowLayout(context.shape, context.dtype, spec.action_dim)
        root = self._replay_root / record.uid
        knobs = spec.replay
        for attempt in range(2):
            try:
                replay = open_replay(
                    knobs.backend, root, layout, shard_size=knobs.shard_size,
                    cache_shards=knobs.cache_shards, flush_every=knobs.flush_every,
                    capacity=knobs.capacity,
                )  # fmt: skip
                break
            except ReplayError as error:
                if attempt:
                    raise
                log.warning("replay of %s is rebuilt from the log: %s", record.name, error)
                shutil.rmtree(root)
        self._replays[record.uid] = (knobs, replay)
        return replay

    def forget(self, uid: BanditUid) -> None:
        """Close and remove what belongs to a deleted bandit."""
        known = self._replays.pop(uid, None)
        if known is not None:
            known[1].close()
        for root in (self._replay_root / uid, self._snapshots / uid):
            shutil.rmtree(root, ignore_errors=True)

    def close(self) -> None:
        """Close the replays and the reader."""
        for _, replay in self._replays.values():
            replay.close()
        self._reader.close()


def _runs(rows: list[LearnRow]) -> Iterator[list[LearnRow]]:
    """Split learn rows into runs that are all first values, or all corrections."""
    run: list[LearnRow] = []
    for row in rows:
        if run and (run[0].before is None) != (row.before is None):
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _rows(batch: list[LearnRow]) -> Rows:
    return Rows(
        positions=np.array([row.position for row in batch], np.int64),
        slots=np.array([row.slot for row in batch], np.int64),
        rewards=np.array([row.after for row in batch]),
        actions=np.stack([row.action for row in batch]),
        contexts=np.stack([row.context for row in batch]),
    )


def main() -> None:
    """Serve orders from standard input until it closes."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s trainer %(levelname)s %(message)s",
    )
    # Only events go to the real standard output; a stray print of a user's encoder must not.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        os._exit(0)  # the server is gone; nothing here is worth finishing

    threading.Thread(target=listen, name="orders", daemon=True).start()
    configuration = orders.get()
    torch.set_num_threads(configuration["threads"])
    trainer = Trainer(configuration)

    def report(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    report({"event": "ready", "pid": os.getpid()})
    while True:
        order = orders.get()
        if order["do"] == "forget":
            trainer.forget(BanditUid(order["uid"]))
            continue
        try:
            report(
                trainer.round(
                    BanditUid(order["uid"]), LogPosition(order["position"]), order["served"]
                )
            )
        except Exception as error:  # the top of the loop: reported, counted by the supervisor
            log.exception("round failed")
            report({"event": "failed", "error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
