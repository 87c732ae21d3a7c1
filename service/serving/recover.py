"""Bring every bandit back at the start: newest good snapshot, then the tail of the log.

A bandit that cannot be brought back is set aside, and the others are served (see `failed_bandits`).

A snapshot later than a bandit's first is published only once the log before it is synced. So a
snapshot of a bandit that the database does not know means that the database was deleted, emptied
or replaced by an older one; serving on would answer as if nothing had ever been learned.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotError
from bandexa_core.ids import BanditUid
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import SnapshotStore
from service.serving.applier import Failure
from service.serving.failed_bandits import build_model, failure_of
from service.serving.files import remove_files, snapshots_at
from service.serving.progress import StartGivenUp, StartProgress
from service.settings import Settings
from service.store.address import StoreAddress
from service.store.errors import StoreError
from service.store.loading import place_imports
from service.store.placing import store_of
from service.store.reading import LogReader
from service.store.records import BanditRecord
from service.store.snapshots import are_shared

log = logging.getLogger(__name__)
FEW_ROWS = 1000  # applying them takes little longer than learning how many of them are due


def recover(
    settings: Settings, registry: EncoderRegistry, reader: LogReader, progress: StartProgress
) -> Iterator[tuple[BanditRecord, SnapshotStore, ServingModel | Failure]]:
    """Yield every bandit of the store: its model at the head of its log, or why it has none.

    Raises:
        StoreError: The database was lost or cannot be read.
        StartGivenUp: `progress` says so.
    """
    records = reader.bandits()
    known = {*(record.uid for record in records), *reader.deleted()}
    address = store_of(settings.data_dir, settings.store)
    shared = are_shared(address)
    if not shared:  # else the directory is a cache, and another server may have deleted bandits
        refuse_lost_database(address, settings.snapshots, known)
    for uid in reader.deleted():  # no trainer was there to remove their files
        remove_files(settings, uid)
    for path in settings.snapshots.iterdir():
        if path.is_dir() and path.name not in known:  # of a bandit that was never stored
            if shared:
                shutil.rmtree(path, ignore_errors=True)
            else:
                remove_files(settings, BanditUid(path.name))
    stores = [snapshots_at(settings, record.uid) for record in records]
    tails = [_tail(reader, *pair, progress) for pair in zip(records, stores, strict=True)]
    progress.expect(sum(tails))
    done = 0
    for record, snapshots, tail in zip(records, stores, tails, strict=True):
        progress.skip_to(done)
        done += tail
        try:
            progress.heed()
            snapshots.adopt()
            snapshots.clean()
            snapshots.collect()
            place_imports(reader, record, snapshots)
            model = build_model(reader, registry, record, snapshots, progress.applied)
        except StartGivenUp:
            raise
        except Exception as error:  # the others are served; own encoders raise anything
            log.error("bandit %s is set aside: %s", record.name, error)
            yield record, snapshots, failure_of(error)
        else:
            log.info(
                "bandit %s: snapshot %d, position %d", record.name, model.version, model.position
            )
            yield record, snapshots, model
    progress.skip_to(done)


def _tail(
    reader: LogReader, record: BanditRecord, snapshots: SnapshotStore, progress: StartProgress
) -> int:
    """Return about how many rows there are behind the newest snapshot."""
    progress.heed()
    head = 0
    try:
        head = reader.head(record.key)
        if head <= FEW_ROWS:  # of ten thousand bandits, most: a manifest each takes seconds
            return head
        newest = max(snapshots.versions(), default=None)
        begins = 0 if newest is None else max(snapshots.manifest(newest).position, 0)
    except (SnapshotError, StoreError):  # recovery reports it, or uses an older snapshot
        return head
    return max(head - begins, 0)


def refuse_lost_database(
    database: StoreAddress, snapshots: Path, known: Collection[BanditUid] = ()
) -> None:
    """Check that the database knows every bandit that has snapshots.

    Args:
        database: The database.
        snapshots: The directory of all snapshots.
        known: The uids of all bandits in the database, deleted ones included.

    Raises:
        StoreError: There are snapshots of other bandits.
    """
    found = sorted(path for path in snapshots.iterdir() if path.is_dir() and path.name not in known)
    lost = [path.name for path in found if any(SnapshotStore(path).versions())]
    if lost:
        raise StoreError(
            f"{snapshots} holds models of {len(lost)} bandits ({lost[0]}, ...) that {database} does"
            " not know: it was lost or replaced. Restore a backup, or move those directories away"
        )
