"""Which models have learned from erased rows; removes such snapshots once a clean one is served."""

from __future__ import annotations

import logging

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotCorrupt, SnapshotError
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.snapshots.store import SnapshotStore
from service.store.loading import contains_erased, placed
from service.store.protocol import EventStore
from service.store.reading import LogReader
from service.store.records import BanditRecord

log = logging.getLogger(__name__)


def remove_learned(
    store: EventStore,
    record: BanditRecord,
    snapshots: SnapshotStore,
    first: LogPosition,
    clean: SnapshotVersion,
) -> None:
    """Remove the snapshots before version `clean` that cover the log row `first`.

    Imports stay: the log needs them. Damaged snapshots are never served, and go as well.

    Raises:
        SnapshotError: The disk failed.
    """
    with store.reader() as reader:
        imports = reader.imports(record.key)
    for version in snapshots.versions():
        if version >= clean or version in imports:
            continue
        try:
            learned = snapshots.manifest(version).position >= first
        except SnapshotCorrupt:
            learned = True
        if learned:
            snapshots.remove(version)
            log.info("bandit %s: snapshot %d was learned from erased rows", record.name, version)


def has_erased(
    reader: LogReader,
    record: BanditRecord,
    registry: EncoderRegistry,
    snapshots: SnapshotStore,
    served: SnapshotVersion,
) -> bool:
    """Whether the served snapshot has learned from rows that are erased.

    One that cannot be read counts as such: nobody can say that it has not.
    """
    try:
        manifest = placed(reader, record, snapshots.manifest(served), reader.imports(record.key))
        return contains_erased(reader, record, registry, snapshots, manifest)
    except SnapshotError as error:
        log.warning("bandit %s: what it has learned is not known: %s", record.name, error)
        return True
