"""The register of snapshots, and their files where the database has those, too.

The row of a snapshot is its publication: one statement that compares the lease of the publisher.
Used by any thread; one connection for all, which connects again after it was lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from bandexa_core.errors import SnapshotError
from bandexa_core.ids import SnapshotVersion
from bandexa_core.snapshots.blobs import Blob
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.registered import Fence, Registered
from service.store.address import PostgresUrl
from service.store.postgres.connection import Session
from service.store.postgres.faults import ERRORS, describe
from service.store.postgres.leases import held

_VALUES = "$1, $2, $3, $4, $5, $6, $7, extract(epoch FROM clock_timestamp())::float8"
_ADD = f"INSERT INTO snapshots SELECT {_VALUES} {{}} ON CONFLICT DO NOTHING RETURNING version"
_ADD_FREE = _ADD.format("")
_ADD_FENCED = _ADD.format(f"WHERE {held('$8', '$9')}")
_REPLACE = """
UPDATE snapshots SET position = $3, log_hash = $4, manifest = $5 WHERE uid = $1 AND version = $2
RETURNING version
"""
_REMOVE = "DELETE FROM snapshots WHERE uid = $1 AND ($2::bigint[] IS NULL OR version = ANY ($2))"


class Connected:
    """A connection for short statements from any thread."""

    def __init__(self, url: PostgresUrl) -> None:
        self._url = url
        self._session: Session | None = None
        self._one_at_a_time = threading.Lock()

    def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """Run a statement; its exceptions are the driver's.

        One that finds the connection lost connects again, and is repeated if it only reads.
        """
        with self._one_at_a_time:
            if self._session is None or self._session.is_closed:
                self._session = Session(self._url, own_loop=False)
            try:
                return self._session.fetch(sql, *arguments)
            except ERRORS:
                if not self._session.is_closed or not sql.lstrip().startswith("SELECT"):
                    raise
            self._session = Session(self._url, own_loop=False)
            return self._session.fetch(sql, *arguments)

    def close(self) -> None:
        """Close the connection; a later call opens another one."""
        with self._one_at_a_time:
            if self._session is not None:
                self._session.close()
                self._session = None


class PostgresRegister:
    """See `SnapshotRegister`.

    Args:
        db: A connection to the database.
    """

    def __init__(self, db: Connected) -> None:
        self._db = db

    def versions(self, uid: str) -> list[SnapshotVersion]:
        """See `SnapshotRegister.versions`."""
        sql = "SELECT version FROM snapshots WHERE uid = $1 ORDER BY version"
        with as_snapshot_error():
            return [SnapshotVersion(row[0]) for row in self._db.fetch(sql, uid)]

    def find(self, uid: str, version: int) -> Registered | None:
        """See `SnapshotRegister.find`."""
        sql = "SELECT manifest, prefix FROM snapshots WHERE uid = $1 AND version = $2"
        with as_snapshot_error():
            found = self._db.fetch(sql, uid, version)
        return Registered(found[0][0].encode(), found[0][1]) if found else None

    def add(self, manifest: Manifest, text: bytes, prefix: str, fence: Fence | None) -> bool:
        """See `SnapshotRegister.add`."""
        values = (
            manifest.bandit_uid, manifest.version, manifest.position,
            bytes.fromhex(manifest.log_hash), text.decode(), prefix, manifest.epoch,
        )  # fmt: skip
        with as_snapshot_error():
            if fence is None:
                return bool(self._db.fetch(_ADD_FREE, *values))
            return bool(self._db.fetch(_ADD_FENCED, *values, *fence))

    def replace(self, manifest: Manifest, text: bytes) -> bool:
        """See `SnapshotRegister.replace`."""
        values = (manifest.bandit_uid, manifest.version, manifest.position)
        with as_snapshot_error():
            log_hash = bytes.fromhex(manifest.log_hash)
            return bool(self._db.fetch(_REPLACE, *values, log_hash, text.decode()))

    def remove(self, uid: str, versions: Collection[int] | None) -> list[str]:
        """See `SnapshotRegister.remove`."""
        given = None if versions is None else list(versions)
        with as_snapshot_error():
            rows = self._db.fetch(f"{_REMOVE} RETURNING prefix", uid, given)
        return [row[0] for row in rows]

    def prefixes(self, uid: str) -> list[str]:
        """See `SnapshotRegister.prefixes`."""
        with as_snapshot_error():
            rows = self._db.fetch("SELECT prefix FROM snapshots WHERE uid = $1", uid)
        return [row[0] for row in rows]


class PostgresBlobs:
    """Blobs in a table; see `SnapshotBlobs`.

    Args:
        db: A connection to the database.
    """

    def __init__(self, db: Connected) -> None:
        self._db = db

    def put(self, name: str, data: bytes) -> None:
        """See `SnapshotBlobs.put`."""
        sql = "INSERT INTO blobs VALUES ($1, extract(epoch FROM clock_timestamp())::float8, $2)"
        with as_snapshot_error():
            self._db.fetch(sql, name, data)

    def get(self, name: str) -> bytes:
        """See `SnapshotBlobs.get`."""
        with as_snapshot_error():
            found = self._db.fetch("SELECT data FROM blobs WHERE name = $1", name)
        if not found:
            raise SnapshotError(f"the table `blobs` has no {name}")
        return bytes(found[0][0])

    def list(self, prefix: str) -> list[Blob]:
        """See `SnapshotBlobs.list`; the times are those of this machine's clock."""
        sql = (
            "SELECT name, created - extract(epoch FROM clock_timestamp())::float8 FROM blobs"
            " WHERE starts_with(name, $1) ORDER BY name"
        )
        with as_snapshot_error():
            rows = self._db.fetch(sql, f"{prefix}/")
        return [Blob(name, time.time() + since) for name, since in rows]

    def delete(self, name: str) -> None:
        """See `SnapshotBlobs.delete`."""
        with as_snapshot_error():
            self._db.fetch("DELETE FROM blobs WHERE name = $1", name)


@contextmanager
def as_snapshot_error() -> Iterator[None]:
    """Raise `SnapshotError` in place of the driver's exceptions."""
    try:
        yield
    except ERRORS as error:
        raise SnapshotError(f"the register of snapshots: {describe(error)}") from error
