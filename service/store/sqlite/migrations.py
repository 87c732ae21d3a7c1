"""Migrates an older schema to the one of this release, before anything is served.

Runs once, in the process that owns the data directory, while it opens the store. All steps and the
new version number are one transaction: a process killed in the middle leaves the old version.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from service.store.errors import StoreError
from service.store.sqlite import from_schema_4

log = logging.getLogger(__name__)

# By the version it starts from; each leads to the next version, inside the caller's transaction.
Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: dict[int, Migration] = {4: from_schema_4.migrate}


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    target: int,
    migrations: Mapping[int, Migration] = MIGRATIONS,
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
    try:
        connection.execute("BEGIN IMMEDIATE")
        for version in steps:
            migrations[version](connection)
        connection.execute(f"PRAGMA user_version = {target}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
