"""The tables of the database, of schema 5, and the values that each store has from its start."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable

from service.store.identity import CELL, DecisionIds

# Columns that are NULL have room for what later releases store.
#
# meta: single values, such as the secret of decision ids.
# decisions: one row per answered select, at its key (see `identity`). It may hold a large context,
#   so what is learned from it is in `ledger`; only a propensity that is computed after the answer
#   is filled in later. own_id: the caller's id (see `pack_own_id`). schema, objects: the schema of
#   the raw context and actions, and these. unit: the user or session, as a keyed hash (see
#   `DecisionIds.unit`), because pages of an index may retain copies of cells that moved. arm: of an
#   experiment. propensities: of all candidates. imported: the id that a decision had where it was
#   made, if elsewhere; as bytes, empty once it is erased.
# imports: how many decisions were imported into a bandit.
# ledger: what the reports about a decision led to; a decision without a row had none. activated
#   and closed are times. items: see `codec.pack_items`. matures: when it was mature
#   within its window.
# rewards: every reported reward, with its status; seq counts those of a decision, reward_id is ''
#   where none was given. metrics: what was reported in place of a single reward, which is 0 then.
# windows: when the open reward windows close, in watched time (see `windows`).
# maturing: when decisions are mature, of those that are so within their windows; watched time, too.
# delays: how late the rewards of a bandit come (see `bandexa_core.log.delays`), in msgpack.
# log: the rows that change a bandit's model, in groups (see `codec`). time: service time.
#   low, high: the bounds of learned values. A row of kind 5 voids the value `before`, first learned
#   at `origin`. payload: of these kinds, the metrics that the values were made of.
# amendments: values that an administrator changed or voided, at a version of the decision.
# metrics: of how many values each metric is a part, and its sum over them.
# catalogues: the actions at a position, in place of the log's changes up to it.
# trims: up to where learn rows were removed from a log, the hash there, and how many values they
#   had learned.
# evicted: a sample of the removed rows. metrics: what the value is made of.
# rounds: training rounds, for people only.
# audit: what was done to the bandits of a name; by whom, and what that changed.
# challengers: what whoever compares configurations has noted of each, as JSON.
# erasures, erased, relearning, blanked: see `erasing`. A decision whose context is empty was
#   erased.
# sampled: whose rows are in `evicted`, so that they are found when their decision has left.
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE bandits (
  bandit INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, name TEXT NOT NULL, spec TEXT NOT NULL,
  created REAL NOT NULL, deleted REAL);
CREATE UNIQUE INDEX bandits_live ON bandits (name) WHERE deleted IS NULL;
CREATE TABLE decisions (
  key INTEGER PRIMARY KEY, own_id, time REAL NOT NULL, body_hash BLOB,
  context BLOB NOT NULL, chosen BLOB NOT NULL, candidates BLOB, snapshot INTEGER NOT NULL,
  position INTEGER NOT NULL, propensity REAL, activated INTEGER NOT NULL, explored INTEGER,
  std REAL, schema INTEGER, objects BLOB, unit TEXT, arm TEXT, propensities BLOB,
  imported INTEGER);
CREATE UNIQUE INDEX decisions_own ON decisions (own_id) WHERE own_id IS NOT NULL;
CREATE TABLE imports (bandit INTEGER PRIMARY KEY, decisions INTEGER NOT NULL);
CREATE TABLE ledger (
  key INTEGER PRIMARY KEY, version INTEGER NOT NULL, rewards INTEGER NOT NULL, activated REAL,
  closed REAL, items BLOB NOT NULL, matures REAL);
CREATE TABLE rewards (
  key INTEGER NOT NULL, item INTEGER NOT NULL, reward_id TEXT NOT NULL, reward REAL NOT NULL,
  seq INTEGER NOT NULL, status TEXT NOT NULL, time REAL NOT NULL, metrics BLOB,
  PRIMARY KEY (key, item, reward_id, reward, seq)) WITHOUT ROWID;
CREATE TABLE windows (
  closes REAL NOT NULL, key INTEGER NOT NULL, PRIMARY KEY (closes, key)) WITHOUT ROWID;
CREATE TABLE maturing (
  matures REAL NOT NULL, key INTEGER NOT NULL, PRIMARY KEY (matures, key)) WITHOUT ROWID;
CREATE TABLE delays (bandit INTEGER PRIMARY KEY, delays BLOB NOT NULL);
CREATE TABLE log (
  bandit INTEGER NOT NULL, position INTEGER NOT NULL, kind INTEGER NOT NULL, time REAL NOT NULL,
  key INTEGER, item INTEGER, origin INTEGER, before REAL, after REAL, low REAL, high REAL,
  payload BLOB, ends INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (bandit, position))
  WITHOUT ROWID;
CREATE INDEX log_changes ON log (bandit, kind, position) WHERE kind <> 1;
CREATE INDEX log_voids ON log (bandit, origin, position) WHERE kind = 5;
CREATE TABLE amendments (
  key INTEGER NOT NULL, number INTEGER NOT NULL, item INTEGER NOT NULL, time REAL NOT NULL,
  before REAL, after REAL, position INTEGER, PRIMARY KEY (key, number, item)) WITHOUT ROWID;
CREATE TABLE metrics (
  bandit INTEGER NOT NULL, name TEXT NOT NULL, count INTEGER NOT NULL, total REAL NOT NULL,
  PRIMARY KEY (bandit, name)) WITHOUT ROWID;
CREATE TABLE catalogues (
  bandit INTEGER PRIMARY KEY, position INTEGER NOT NULL, change BLOB NOT NULL,
  checksum INTEGER NOT NULL);
CREATE TABLE trims (
  bandit INTEGER PRIMARY KEY, position INTEGER NOT NULL, hash BLOB NOT NULL,
  learned INTEGER NOT NULL);
CREATE TABLE evicted (
  bandit INTEGER NOT NULL, origin INTEGER NOT NULL, rank INTEGER NOT NULL, slot INTEGER NOT NULL,
  value REAL NOT NULL, action BLOB NOT NULL, context BLOB NOT NULL, checksum INTEGER NOT NULL, \
metrics BLOB,
  PRIMARY KEY (bandit, origin));
CREATE INDEX evicted_ranks ON evicted (bandit, rank);
CREATE TABLE rounds (
  bandit INTEGER NOT NULL, time REAL NOT NULL, version INTEGER, position INTEGER,
  seconds REAL NOT NULL, swap_s REAL, loss_before REAL, loss_after REAL, error TEXT);
CREATE INDEX rounds_bandit ON rounds (bandit, time);
CREATE TABLE audit (
  row INTEGER PRIMARY KEY, time REAL NOT NULL, bandit TEXT NOT NULL, by TEXT NOT NULL,
  what TEXT NOT NULL, changes TEXT NOT NULL);
CREATE INDEX audit_bandit ON audit (bandit, row);
CREATE TABLE challengers (
  bandit INTEGER NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (bandit, name))
  WITHOUT ROWID;
CREATE INDEX decisions_unit ON decisions (unit) WHERE unit IS NOT NULL;
CREATE TABLE erasures (
  erasure INTEGER PRIMARY KEY, bandit INTEGER, unit TEXT, ids BLOB NOT NULL, until REAL NOT NULL);
CREATE TABLE erased (
  bandit INTEGER NOT NULL, origin INTEGER NOT NULL, PRIMARY KEY (bandit, origin)) WITHOUT ROWID;
CREATE TABLE relearning (
  bandit INTEGER PRIMARY KEY, first INTEGER NOT NULL, changes INTEGER NOT NULL);
CREATE TABLE blanked (
  bandit INTEGER NOT NULL, number INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  PRIMARY KEY (bandit, number)) WITHOUT ROWID;
CREATE TABLE sampled (
  bandit INTEGER NOT NULL, origin INTEGER NOT NULL, key INTEGER NOT NULL, own_id, unit TEXT,
  PRIMARY KEY (bandit, origin)) WITHOUT ROWID;
CREATE INDEX sampled_keys ON sampled (key);
CREATE INDEX sampled_own ON sampled (own_id) WHERE own_id IS NOT NULL;
CREATE INDEX sampled_units ON sampled (unit) WHERE unit IS NOT NULL;
"""
_CREATE = re.compile(r"CREATE (?:UNIQUE )?(?:TABLE|INDEX) (\w+) .*?;$", re.DOTALL | re.MULTILINE)

_AFTER_0_3 = (
    "erasures", "erased", "relearning", "blanked", "amendments", "maturing", "delays", "imports",
    "metrics",
    "audit", "challengers",
)  # fmt: skip


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables that are not there yet, in the caller's transaction."""
    add_tables(connection)
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)", [("cell", CELL), ("secret", os.urandom(16))]
    )


def add_tables(connection: sqlite3.Connection) -> None:
    """Create the tables and indexes that are not there yet, in the caller's transaction."""
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    for found in _CREATE.finditer(TABLES):
        if found[1] not in present:
            connection.execute(found[0])
    if not _has_metrics(connection):
        connection.execute("ALTER TABLE evicted ADD COLUMN metrics BLOB")


def _has_metrics(connection: sqlite3.Connection) -> bool:
    """Whether the sample of removed rows has room for metrics; 0.3.0 wrote it without."""
    columns = connection.execute("SELECT name FROM pragma_table_info('evicted')").fetchall()
    return ("metrics",) in columns


def stand_in(connection: sqlite3.Connection) -> None:
    """Give a reader what release 0.3.0 did not have yet: empty tables, and a column of NULL."""
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    for table in _CREATE.finditer(TABLES):
        if table[1] in _AFTER_0_3 and table[1] not in present:
            connection.execute(table[0].replace("TABLE", "TEMP TABLE", 1))
    if not _has_metrics(connection):
        connection.execute(
            "CREATE TEMP VIEW evicted AS SELECT *, NULL AS metrics FROM main.evicted"
        )


def decision_ids(
    connection: sqlite3.Connection, clock: Callable[[], float] | None = None
) -> DecisionIds:
    """Return the ids of the decisions of a store; `clock`: service time, to make new ones."""
    found = dict(
        connection.execute("SELECT key, value FROM meta WHERE key IN ('cell', 'secret')").fetchall()
    )
    return DecisionIds(str(found["cell"]), bytes(found["secret"]), clock)
