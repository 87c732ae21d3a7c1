"""The files of a bandit beside the store: its snapshots and its replay."""

from __future__ import annotations

import shutil

from bandexa_core.ids import BanditUid
from bandexa_core.snapshots.store import SnapshotStore
from service.settings import Settings
from service.store.placing import store_of
from service.store.snapshots import snapshots_of


def snapshots_at(settings: Settings, uid: BanditUid) -> SnapshotStore:
    """Return the snapshots of a bandit of a server.

    Raises:
        SnapshotError: The database that says where they are cannot be read.
    """
    return snapshots_of(settings.snapshots, store_of(settings.data_dir, settings.store), uid)


def remove_files(settings: Settings, uid: BanditUid) -> None:
    """Remove the snapshots and the replay of a deleted bandit."""
    snapshots_at(settings, uid).remove_all()
    for root in (settings.replays, *settings.replays.glob("rank-*")):  # of ranks, too
        shutil.rmtree(root / uid, ignore_errors=True)
