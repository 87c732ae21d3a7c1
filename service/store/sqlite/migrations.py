"""From an older schema to this release's, before anything is served.

Runs in the process that owns the data directory, once, while it opens the store. All steps and the
new version number are one transaction: a process killed in the middle leaves the old version.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from service.store.errors import StoreError

log = logging.getLogger(__name__)

# SQL without BEGIN and COMMIT, by the version it starts from; each leads to the next version. There
# are none: every release so far wrote the current version.
MIGRATIONS: dict[int, str] = {}


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    target: int,
    migrations: Mapping[int, str] = MIGRATIONS,
) -> None:
    """Bring a database to version `target`; nothing happens where it is there.

    Raises:
        StoreError: It is newer than `target`, or too old for any migration; it was left alone.
        sqlite3.Error: A step failed; the old version is as it was.
    """
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found == target:
        return
    if found > target:
        raise StoreError(
            f"{path} has schema version {found}, written by a newer release;"
            f" this one reads versions up to {target}"
        )
    steps = range(found, target)
    missing = [version for version in steps if version not in migrations]
    if missing:
        raise StoreError(
            f"{path} has schema version {found}, written by an older build; this release reads"
            f" version {target} and has no migration from version {missing[0]}"
        )
    log.info("%s: schema version %d becomes %d", path, found, target)
    # What is in the log now belongs to the old version: afterwards it holds the migration alone.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    script = "\n".join(migrations[version] for version in steps)
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {target};\nCOMMIT;"
        )
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
