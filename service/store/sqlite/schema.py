"""The version of the database, and the checks when it is opened."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from service.store.errors import StoreError, StoreUnreadable
from service.store.protocol import Durability
from service.store.sqlite.connection import connect, connect_reader
from service.store.sqlite.disk_faults import Damaged, describe
from service.store.sqlite.integrity import refuse_damaged
from service.store.sqlite.migrations import MIGRATIONS, migrate
from service.store.sqlite.tables import add_tables, create_tables

log = logging.getLogger(__name__)
SCHEMA_VERSION = 5


def open_writer(path: Path, durability: Durability, *, check: bool) -> sqlite3.Connection:
    """Open the database for writing; creates the tables of a new one.

    Args:
        path: The file.
        durability: "commit" or "os".
        check: Whether its integrity is checked first; it always is before a migration.

    Raises:
        StoreError: The file is of another version, damaged, or no database.
    """
    connection = connect(path, read_only=False)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file, see `shrinking`
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten
        level = "FULL" if durability == "commit" else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {level}")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            connection.execute("BEGIN IMMEDIATE")
            create_tables(connection)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        else:
            if check or found < SCHEMA_VERSION:
                log.info("%s is checked", path)
                refuse_damaged(connection, path)
            migrate(connection, path, SCHEMA_VERSION)
            connection.execute("BEGIN IMMEDIATE")  # 0.3.0 wrote none of what these tables hold
            add_tables(connection)
            connection.execute("COMMIT")
    except StoreError:
        connection.close()
        raise
    except (sqlite3.DatabaseError, Damaged) as error:
        connection.close()
        raise StoreError(f"{path}: {describe(error)}") from error
    return connection


def schema_version(path: Path) -> int:
    """Return the schema version of a database; this release reads `SCHEMA_VERSION`.

    Raises:
        StoreUnreadable: It cannot be read.
    """
    with closing(connect_reader(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def require_current(path: Path) -> None:
    """Check that this release reads the schema version of a database.

    Raises:
        StoreError: It has another version, or is no database of the service.
    """
    try:
        found = schema_version(path)
        with closing(connect_reader(path)) as db:
            db.execute("SELECT count(*) FROM bandits").fetchone()
    except StoreUnreadable as error:
        raise StoreError(f"{path}: {error}") from error
    if found != SCHEMA_VERSION:
        hint = (
            ": a server of this release migrates it when it starts" if found in MIGRATIONS else ""
        )
        raise StoreError(f"{path} has schema {found}, this release reads {SCHEMA_VERSION}{hint}")


def next_epoch(connection: sqlite3.Connection) -> int:
    """Count this opening of the store; a publish that carries an older epoch is stale."""
    connection.execute(
        "INSERT INTO meta VALUES ('epoch', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
    )
    return current_epoch(connection)


def current_epoch(connection: sqlite3.Connection) -> int:
    """Return the epoch of the newest opening."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    return int(row[0]) if row else 0
