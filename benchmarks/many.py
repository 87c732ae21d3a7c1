"""Data directories with many bandits, made without a server: over HTTP they take an hour.

The bandits are made by what the server itself calls, `publish_model` and the store's
`create_bandit` and `append_change`, but nothing waits for the disk.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.filesystem import LocalFileSystem
from bandexa_core.ids import ActionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.model import Progress, ServingModel
from bandexa_core.snapshots.publishing import publish_model
from bandexa_core.snapshots.store import SnapshotStore
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec
from service.store.records import BanditRecord
from service.store.sqlite.store import SqliteStore

DIM = 4
_ACTIONS = tuple(map(ActionId, ("ten-percent", "free-shipping", "nothing")))


class _Unsynced(LocalFileSystem):
    """Waits for no disk."""

    def sync_file(self, fd: int) -> None:
        """Do nothing."""

    def sync_dir(self, path: Path) -> None:
        """Do nothing."""


def name_of(number: int) -> str:
    """Return the name of a bandit, by its number."""
    return f"b{number:05d}"


def make(data_dir: Path, num: int) -> None:
    """Make a data directory with `num` linear bandits that have three actions each.

    Raises:
        StoreError: It could not be written.
    """
    (data_dir / "snapshots").mkdir(parents=True)
    registry, change = EncoderRegistry(), CatalogueChange(_ACTIONS, None, np.ones(3, np.bool_))
    store = SqliteStore(data_dir / "bandexa.db", "os", lambda call: call())
    answered = threading.Semaphore(0)
    errors: list[Exception] = []

    def changed(_: Any, error: Exception | None) -> None:
        if error is not None:
            errors.append(error)
        answered.release()

    def created(record: BanditRecord | None, error: Exception | None) -> None:
        if record is None:
            changed(None, error)
        else:
            store.append_change(record, change, changed)

    try:
        with store.reader() as reader:
            for number in range(num):
                uid = reader.next_uid(name_of(number))
                spec = BanditSpec(
                    policy="linear_ts", context=ContextSpec(shape=(DIM,)),
                    encoder=EncoderSpec(name="per_action"), seed=number,
                )  # fmt: skip
                model = ServingModel(spec, uid, registry, Catalogue.empty(spec.row_layout))
                snapshots = SnapshotStore(data_dir / "snapshots" / uid, fs=_Unsynced())
                publish_model(
                    snapshots, model, position=LogPosition(0), log_hash=b"", epoch=store.epoch,
                    version=SnapshotVersion(0), parent=None, progress=Progress(), training={},
                    metrics={},
                )  # fmt: skip
                store.create_bandit(uid, name_of(number), spec, created)
        for _ in range(num):
            answered.acquire()
    finally:
        store.close()
    if errors:
        raise errors[0]
