"""Finds out at the start that a database was lost beneath its snapshots.

A snapshot later than a bandit's first is published only once the log before it is synced. One of a
bandit that the database has never heard of means that the database was deleted, emptied or replaced
by an older one: serving on would answer as if nothing had ever been learned.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from bandexa_core.ids import BanditUid
from bandexa_core.snapshots.store import SnapshotStore
from service.store.errors import StoreError


def refuse_lost_database(
    database: Path, snapshots: Path, known: Collection[BanditUid] = ()
) -> None:
    """Check that all trained bandits are known.

    Args:
        database: The database file.
        snapshots: The directory of all snapshots.
        known: The uids of all bandits the database knows, deleted ones among them.

    Raises:
        StoreError: There are others.
    """
    found = sorted(path for path in snapshots.iterdir() if path.is_dir() and path.name not in known)
    lost = [path.name for path in found if any(SnapshotStore(path).versions())]
    if lost:
        raise StoreError(
            f"{snapshots} holds models of {len(lost)} bandits ({lost[0]}, ...) that {database} does"
            " not know: it was lost or replaced. Restore a backup, or move those directories away"
        )
