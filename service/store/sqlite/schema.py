"""The tables of the database, its version, and the checks when it is opened."""

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
from service.store.sqlite.migrations import migrate

log = logging.getLogger(__name__)
SCHEMA_VERSION = 4

# decisions: one row per answered select. It may hold a large context, so the value learned from it
#   is in `outcomes`; only a propensity that is computed after the answer is filled in later.
# outcomes: the learned value, and the positions of the first and the latest row that learned it.
# rewards: every reported reward, with its status.
# windows: when the rewards of a decision stop counting, and when the store closed the window.
# log: the rows that change a bandit's model; each carries the hash of the log up to it.
# trims: up to where learn rows were removed from a log, the hash there, and how many values they
#   had learned.
# evicted: a sample of the removed rows.
# rounds: training rounds, for people only.
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE bandits (
  bandit INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, name TEXT NOT NULL, spec TEXT NOT NULL,
  created REAL NOT NULL, deleted REAL);
CREATE UNIQUE INDEX bandits_live ON bandits (name) WHERE deleted IS NULL;
CREATE TABLE decisions (
  decision_id TEXT PRIMARY KEY, bandit INTEGER NOT NULL, time REAL NOT NULL, body_hash BLOB,
  context BLOB NOT NULL, chosen BLOB NOT NULL, candidates BLOB, snapshot INTEGER NOT NULL,
  position INTEGER NOT NULL, propensity REAL, activated INTEGER NOT NULL, explored INTEGER,
  std REAL);
CREATE INDEX decisions_bandit ON decisions (bandit);
CREATE TABLE outcomes (
  decision_id TEXT NOT NULL, item INTEGER NOT NULL, origin INTEGER NOT NULL, value REAL NOT NULL,
  latest INTEGER NOT NULL, PRIMARY KEY (decision_id, item)) WITHOUT ROWID;
CREATE TABLE rewards (
  decision_id TEXT NOT NULL, item INTEGER NOT NULL, reward_id TEXT, reward REAL NOT NULL,
  status TEXT NOT NULL, time REAL NOT NULL);
CREATE INDEX rewards_decision ON rewards (decision_id);
CREATE TABLE windows (
  decision_id TEXT PRIMARY KEY, bandit INTEGER NOT NULL, closes REAL NOT NULL, closed REAL)
  WITHOUT ROWID;
CREATE INDEX windows_open ON windows (closes) WHERE closed IS NULL;
CREATE TABLE activations (decision_id TEXT PRIMARY KEY, time REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE log (
  bandit INTEGER NOT NULL, position INTEGER NOT NULL, kind INTEGER NOT NULL, time REAL NOT NULL,
  decision_id TEXT, item INTEGER, origin INTEGER, before REAL, after REAL, payload BLOB,
  hash BLOB NOT NULL, PRIMARY KEY (bandit, position)) WITHOUT ROWID;
CREATE INDEX log_changes ON log (bandit, kind, position) WHERE kind <> 1;
CREATE TABLE trims (
  bandit INTEGER PRIMARY KEY, position INTEGER NOT NULL, hash BLOB NOT NULL,
  learned INTEGER NOT NULL);
CREATE TABLE evicted (
  bandit INTEGER NOT NULL, origin INTEGER NOT NULL, rank INTEGER NOT NULL, slot INTEGER NOT NULL,
  value REAL NOT NULL, action BLOB NOT NULL, context BLOB NOT NULL, checksum INTEGER NOT NULL,
  PRIMARY KEY (bandit, origin));
CREATE INDEX evicted_ranks ON evicted (bandit, rank);
CREATE TABLE rounds (
  bandit INTEGER NOT NULL, time REAL NOT NULL, version INTEGER, position INTEGER,
  seconds REAL NOT NULL, swap_s REAL, loss_before REAL, loss_after REAL, error TEXT);
CREATE INDEX rounds_bandit ON rounds (bandit, time);
"""


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
        connection.execute("PRAGMA journal_mode = WAL")
        level = "FULL" if durability == "commit" else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {level}")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            connection.executescript(
                f"BEGIN;{TABLES}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )
        else:
            if check or found < SCHEMA_VERSION:
                log.info("%s is checked", path)
                refuse_damaged(connection, path)
            migrate(connection, path, SCHEMA_VERSION)
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
        raise StoreError(f"{path} has schema {found}, this release reads {SCHEMA_VERSION}")


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
