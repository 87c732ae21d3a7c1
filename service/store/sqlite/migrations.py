"""Migrates an older schema to the one of this release, before anything is served.

Runs once, in the process that owns the data directory, while it opens the store. All steps and the
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
    """Migrate a database to version `target`; does nothing for a current one.

    Raises:
        StoreError: It is newer than `target`, or no migration starts from it; it is unchanged.
        sqlite3.Error: A step failed; the database has its old version and content.
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
    # The write-ahead log holds commits of the old version; afterwards only the migration.
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
