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

# SQL without BEGIN and COMMIT, by the version it starts from; each leads to the next version.
MIGRATIONS: dict[int, str] = {
    1: """
CREATE TABLE windows (
  decision_id TEXT PRIMARY KEY, bandit INTEGER NOT NULL, closes REAL NOT NULL, closed REAL)
  WITHOUT ROWID;
CREATE INDEX windows_open ON windows (closes) WHERE closed IS NULL;
CREATE TABLE activations (decision_id TEXT PRIMARY KEY, time REAL NOT NULL) WITHOUT ROWID;
""",
    2: """
ALTER TABLE outcomes RENAME TO outcomes_2;
CREATE TABLE outcomes (
  decision_id TEXT NOT NULL, item INTEGER NOT NULL, origin INTEGER NOT NULL, value REAL NOT NULL,
  latest INTEGER NOT NULL, PRIMARY KEY (decision_id, item)) WITHOUT ROWID;
INSERT INTO outcomes
  SELECT o.decision_id, o.item, o.origin, o.value, coalesce(l.latest, o.origin)
  FROM outcomes_2 AS o LEFT JOIN (
    SELECT decision_id, item, max(position) AS latest FROM log WHERE kind = 1
    GROUP BY decision_id, item) AS l USING (decision_id, item)
  ORDER BY o.decision_id, o.item;
DROP TABLE outcomes_2;
CREATE TABLE trims (
  bandit INTEGER PRIMARY KEY, position INTEGER NOT NULL, hash BLOB NOT NULL,
  learned INTEGER NOT NULL);
CREATE TABLE evicted (
  bandit INTEGER NOT NULL, origin INTEGER NOT NULL, rank INTEGER NOT NULL, slot INTEGER NOT NULL,
  value REAL NOT NULL, action BLOB NOT NULL, context BLOB NOT NULL, checksum INTEGER NOT NULL,
  PRIMARY KEY (bandit, origin));
CREATE INDEX evicted_ranks ON evicted (bandit, rank);
""",
    3: """
ALTER TABLE decisions ADD COLUMN explored INTEGER;
ALTER TABLE decisions ADD COLUMN std REAL;
CREATE TABLE rounds (
  bandit INTEGER NOT NULL, time REAL NOT NULL, version INTEGER, position INTEGER,
  seconds REAL NOT NULL, swap_s REAL, loss_before REAL, loss_after REAL, error TEXT);
CREATE INDEX rounds_bandit ON rounds (bandit, time);
""",
}


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
            f"{path} has schema version {found}; this release cannot bring it to {target}:"
            f" nothing leads on from {missing[0]}"
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
