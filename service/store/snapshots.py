"""Where the snapshots of a store's bandits are: a directory, or a register with blobs.

With a database, `snapshot_store` says where the files are that several machines share. The database
notes it, so that every server, trainer and command finds them. The directory of a server is then a
cache. Without it, the snapshots are in the data directory alone, as with a file of SQLite.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bandexa_core.errors import SnapshotError
from bandexa_core.ids import BanditUid
from bandexa_core.snapshots.blobs import DirectoryBlobs, SnapshotBlobs
from bandexa_core.snapshots.registered import Fence, RegisteredSnapshots
from bandexa_core.snapshots.store import SnapshotStore
from service.store.address import PostgresUrl, StoreAddress
from service.store.errors import StoreError

if TYPE_CHECKING:
    from service.store.postgres.register import Connected

DIRECTORY, DATABASE = "directory", "postgresql"
NOTED = "snapshot_store"  # in the table `meta`
_BUCKET = re.compile(r"(s3|gs|az)://\S+")
_NOTE = "INSERT INTO meta VALUES ($1, $2) ON CONFLICT DO NOTHING"
_FIND = "SELECT value FROM meta WHERE key = $1"


def require_place(text: str) -> str:
    """Return a place of snapshots as it was given.

    Raises:
        ValueError: It is none.
    """
    is_folder = text.startswith("file:///") and text != "file:///"
    if text in (DIRECTORY, DATABASE) or is_folder or _BUCKET.fullmatch(text):
        return text
    raise ValueError(
        "snapshot_store: one of directory, postgresql, file:///DIRECTORY, s3://BUCKET/PREFIX,"
        " gs://BUCKET/PREFIX, az://CONTAINER/PREFIX"
    )


def settled_place(address: StoreAddress, given: str | None) -> str:
    """Note where the snapshots of a store are, once and for all; returns it.

    Args:
        address: The store; its tables are there.
        given: The setting `snapshot_store`; None: what the database says, or else the directory.

    Raises:
        StoreError: The snapshots of this store are elsewhere, or that place cannot be read.
    """
    if not isinstance(address, PostgresUrl):
        return DIRECTORY
    try:
        place = given or _noted(address)
        if place != DIRECTORY:
            _blobs(address, place).list("none")  # it answers: a wrong name is not noted
            from service.store.postgres.register import as_snapshot_error

            with as_snapshot_error():
                _connected(address).fetch(_NOTE, NOTED, place)
        noted = _noted(address)
    except SnapshotError as error:
        raise StoreError(f"snapshot_store: {error}") from error
    if place != noted:
        raise StoreError(
            f"snapshot_store: the snapshots of {address} are in {noted}, not in {place}: set it to"
            " that, or to nothing"
        )
    return noted


def require_noted(address: PostgresUrl, given: str) -> None:
    """Check that the server of a database has its snapshots at a place that others find.

    Raises:
        StoreError: It has them elsewhere.
        SnapshotError: The database cannot be read.
    """
    if given != (noted := _noted(address)):
        raise StoreError(
            f"snapshot_store: the server that has {address} keeps its snapshots in {noted}, not in"
            f" {given}: give both the same"
        )


def snapshots_of(
    root: Path, address: StoreAddress, uid: BanditUid, fence: Fence | None = None
) -> SnapshotStore:
    """Return the snapshots of a bandit.

    Args:
        root: The directory of all snapshots on this machine.
        address: The store.
        uid: The bandit.
        fence: The lease of a publisher, where several machines publish.

    Raises:
        SnapshotError: The database cannot be read.
    """
    if not isinstance(address, PostgresUrl) or (place := place_of(address)) == DIRECTORY:
        return SnapshotStore(root / uid)
    from service.store.postgres.register import PostgresRegister

    register = PostgresRegister(_connected(address))
    return RegisteredSnapshots(root / uid, register, _blobs(address, place), fence)


def place_of(address: StoreAddress) -> str:
    """Return where the snapshots of a store are, as `snapshot_store` says it.

    Raises:
        SnapshotError: The database cannot be read.
    """
    return _noted(address) if isinstance(address, PostgresUrl) else DIRECTORY


def are_shared(address: StoreAddress) -> bool:
    """Whether the snapshots of a store are in a register.

    Raises:
        SnapshotError: The database cannot be read.
    """
    return place_of(address) != DIRECTORY


@cache
def _connected(url: PostgresUrl) -> Connected:
    from service.store.postgres.register import Connected

    return Connected(url)


@cache
def _blobs(url: PostgresUrl, place: str) -> SnapshotBlobs:
    if place == DATABASE:
        from service.store.postgres.register import PostgresBlobs

        return PostgresBlobs(_connected(url))
    if place.startswith("file://"):
        return DirectoryBlobs(Path(place.removeprefix("file://")))
    try:
        from service.store.buckets import BucketBlobs
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise SnapshotError(
            f"{place} needs the extra `blobs`: pip install 'bandexa[blobs]'"
        ) from None
    try:
        return BucketBlobs(place)
    except ValueError as error:
        raise SnapshotError(str(error)) from error


_places: dict[PostgresUrl, str] = {}  # that are noted: they do not change


def _noted(url: PostgresUrl) -> str:
    if url not in _places:
        from service.store.postgres.register import as_snapshot_error

        with as_snapshot_error():
            found = _connected(url).fetch(_FIND, NOTED)
        if not found:
            return DIRECTORY
        _places[url] = str(found[0][0])
    return _places[url]
