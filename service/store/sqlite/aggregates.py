"""The dashboard's file `dashboard.db`: counts and sums per ten seconds, minute and hour.

The file is derived and disposable: written without waiting for the disk, and rebuilt from the store
when it is missing, damaged or of another version. One connection writes (the follower's thread),
each reader has its own. Ten-second buckets are stored for two hours, minutes for two days, hours
for good. Only latencies are not in the store: they are measured, and lost with the file.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.store.sqlite.connection import as_store_errors, connect_reader

log = logging.getLogger(__name__)
VERSION = 4
MOMENT, MINUTE, HOUR = 10, 60, 3600
SPANS = (MOMENT, MINUTE, HOUR)
RETENTION_S = {MOMENT: 2 * 3600, MINUTE: 2 * 86400}
MAX_ACTIONS = 64  # per bucket; actions beyond them are counted together, under `REST`
REST = ""
DECISIONS = "decisions"  # the cursor of version 1, over the rows of all decisions
COMPARED_FROM = "compared"
COMPARED = """
CREATE TABLE IF NOT EXISTS compared (
  bandit TEXT, kind TEXT, name TEXT, sums TEXT NOT NULL, PRIMARY KEY (bandit, kind, name))
  WITHOUT ROWID;
"""
NOTED = """
CREATE TABLE IF NOT EXISTS noted (
  id INTEGER PRIMARY KEY, bandit TEXT NOT NULL, name TEXT NOT NULL, severity TEXT NOT NULL,
  message TEXT NOT NULL, since REAL NOT NULL, until REAL);
CREATE INDEX IF NOT EXISTS noted_of ON noted (bandit, id);
"""
MAX_NOTED = 200  # findings of a bandit; older ones are removed
TABLES = f"""
CREATE TABLE cursors (name TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE buckets (
  bandit TEXT, span INTEGER, start INTEGER, selects INTEGER, chosen INTEGER, propensities INTEGER,
  propensity REAL, surprise REAL, looked INTEGER, explored INTEGER, stds INTEGER, std REAL,
  num_values INTEGER, value REAL, square REAL, PRIMARY KEY (bandit, span, start)) WITHOUT ROWID;
CREATE TABLE shares (
  bandit TEXT, span INTEGER, start INTEGER, action TEXT, num INTEGER,
  PRIMARY KEY (bandit, span, start, action)) WITHOUT ROWID;
CREATE TABLE delays (
  bandit TEXT, span INTEGER, start INTEGER, bin INTEGER, num INTEGER,
  PRIMARY KEY (bandit, span, start, bin)) WITHOUT ROWID;
CREATE TABLE latency (span INTEGER, start INTEGER, counts TEXT, PRIMARY KEY (span, start))
  WITHOUT ROWID;
{COMPARED}
{NOTED}
PRAGMA user_version = {VERSION};
"""
SUMS = (
    "selects", "chosen", "propensities", "propensity", "surprise", "looked", "explored", "stds",
    "std", "num_values", "value", "square",
)  # fmt: skip
Sums = tuple[int, int, int, int, float]  # start, selects, chosen, num_values, value
_UPSERT = (
    f"INSERT INTO buckets VALUES (?, ?, ?{', ?' * len(SUMS)}) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
)
_OF_SOME = (
    "FROM buckets WHERE bandit IN (SELECT value FROM json_each(?)) AND span = ? AND start >= ?"
)
_BUCKETS = f"""
SELECT json_group_array(json_array(bandit, start, selects, chosen, num_values, value))
FROM (SELECT * {_OF_SOME} ORDER BY bandit, start)
"""
_TOTALS = f"""
SELECT json_group_array(json_array(bandit, 0, selects, chosen, num_values, value)) FROM (
  SELECT bandit, sum(selects) AS selects, sum(chosen) AS chosen, sum(num_values) AS num_values,
    sum(value) AS value {_OF_SOME} GROUP BY bandit)
"""
_FROM_1 = "ALTER TABLE cursors DROP COLUMN mark; ALTER TABLE cursors DROP COLUMN time;"
# What was learned up to there is in no sum of actions: their table is new.
_BEGINS = f"""
INSERT INTO cursors (name, at) SELECT '{COMPARED_FROM} ' || name, at FROM cursors
  WHERE name <> '{DECISIONS}' AND name NOT LIKE '{DECISIONS} %';
"""

_COMPARED = "SELECT bandit, kind, name, sums FROM compared WHERE "
Compared = tuple[str, Literal["action", "arm", "lift"], str, str]  # bandit, kind, name, sums
Counted = defaultdict[tuple[str, int], Any]  # a Counter for each key; sums may be floats


class Noted(NamedTuple):
    """A finding of a bandit, and when it was there; `until` is None while it is."""

    bandit: str
    name: str
    severity: str
    message: str
    since: float
    until: float | None


@dataclass(slots=True)
class Additions:
    """Counts to add to the file, per bandit uid and start of the ten seconds.

    Attributes:
        sums: The columns `SUMS`.
        actions: How often each action was chosen.
        delays: How many rewards fell into each bin of delays.
        compared: Sums that take the place of the stored ones.
    """

    sums: Counted = field(default_factory=lambda: defaultdict(Counter))
    actions: Counted = field(default_factory=lambda: defaultdict(Counter))
    delays: Counted = field(default_factory=lambda: defaultdict(Counter))
    compared: list[Compared] = field(default_factory=list)


def decisions_of(uid: str) -> str:
    """Return the name of the cursor over a bandit's decisions; that over its log is the uid."""
    return f"{DECISIONS} {uid}"


def compared_of(uid: str) -> str:
    """Return the name of the cursor up to which a bandit's values are in no sum of `compared`."""
    return f"{COMPARED_FROM} {uid}"


class AggregateWriter:
    """The connection that writes the file; used by one thread at a time.

    Its calls raise `StoreUnreadable` where the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with as_store_errors():
            try:
                self._db = self._opened()
            except sqlite3.DatabaseError as error:
                log.warning("%s is rebuilt: %s", path.name, error)
                self.remove(path)
                self._db = self._opened()

    @staticmethod
    def remove(path: Path) -> None:
        """Delete the file; no connection may have it open for writing."""
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA busy_timeout = 5000")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found in (1, 2, 3):
                begins = "" if found == 3 else _BEGINS
                steps = f"{_FROM_1 if found == 1 else ''} {COMPARED} {NOTED} {begins}"
                db.executescript(f"BEGIN; {steps} PRAGMA user_version = {VERSION}; COMMIT;")
            elif found not in (0, VERSION):
                raise sqlite3.DatabaseError(f"it is of version {found}, not {VERSION}")
            if not found:
                db.executescript(f"BEGIN; {TABLES} COMMIT;")
            (finding,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if finding != "ok":
                raise sqlite3.DatabaseError(finding)
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> AggregateWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @as_store_errors()
    def cursor(self, name: str) -> int:
        """Return the last counted row of a table, 0 at first."""
        found = self._db.execute("SELECT at FROM cursors WHERE name = ?", (name,)).fetchone()
        return 0 if found is None else int(found[0])

    @as_store_errors()
    def add(self, part: Additions, cursors: dict[str, int]) -> None:
        """Add counts and store how far they reach, in one transaction."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            sums = _per_span(part.sums).items()
            db.executemany(_UPSERT, [(*key, *map(found.__getitem__, SUMS)) for key, found in sums])
            for key, counts in _per_span(part.actions).items():
                self._share(key, counts)
            db.executemany(
                "INSERT INTO delays VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET num = num + excluded.num",
                [
                    (*key, place, num)
                    for key, counts in _per_span(part.delays).items()
                    for place, num in counts.items()
                ],
            )
            db.executemany("INSERT OR REPLACE INTO compared VALUES (?, ?, ?, ?)", part.compared)
            db.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?)", list(cursors.items()))
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _share(self, key: tuple[str, int, int], counts: Counter[str]) -> None:
        found = self._db.execute(
            "SELECT action FROM shares WHERE bandit = ? AND span = ? AND start = ?", key
        )
        known = {action for (action,) in found}
        added: Counter[str] = Counter()
        for action, num in counts.items():
            if action not in known and len(known - {REST}) >= MAX_ACTIONS:
                action = REST
            known.add(action)
            added[action] += num
        self._db.execute(
            "INSERT INTO shares SELECT ?, ?, ?, key, value FROM json_each(?) WHERE true"
            " ON CONFLICT DO UPDATE SET num = num + excluded.num",
            (*key, json.dumps(added)),
        )

    @as_store_errors()
    def sums(self, uid: str, kind: str, name: str) -> str | None:
        """Return stored sums; None where there are none."""
        found = self._db.execute(
            "SELECT sums FROM compared WHERE bandit = ? AND kind = ? AND name = ?",
            (uid, kind, name),
        ).fetchone()
        return None if found is None else str(found[0])

    @as_store_errors()
    def actions(self, uid: str) -> list[Compared]:
        """Return the sums of the actions of a bandit."""
        return self._db.execute(f"{_COMPARED} kind = 'action' AND bandit = ?", (uid,)).fetchall()

    @as_store_errors()
    def note(self, changes: Sequence[Noted]) -> None:
        """Store findings that began; those with an end are the open ones of their name."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for each in changes:
                if each.until is None:
                    self._db.execute(
                        "INSERT INTO noted (bandit, name, severity, message, since)"
                        " VALUES (?, ?, ?, ?, ?)", each[:5],
                    )  # fmt: skip
                else:
                    self._db.execute(
                        "UPDATE noted SET until = ?, message = ?"
                        " WHERE bandit = ? AND name = ? AND until IS NULL",
                        (each.until, each.message, each.bandit, each.name),
                    )
            for uid in {each.bandit for each in changes}:
                self._db.execute(
                    "DELETE FROM noted WHERE bandit = :uid AND id <= (SELECT id FROM noted"
                    " WHERE bandit = :uid ORDER BY id DESC LIMIT 1 OFFSET :most)",
                    {"uid": uid, "most": MAX_NOTED},
                )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @as_store_errors()
    def arms(self, uid: str | None = None) -> list[Compared]:
        """Return the sums of the arms of a bandit, or of all bandits."""
        return self._db.execute(
            f"{_COMPARED} kind <> 'action' AND (:uid IS NULL OR bandit = :uid)", {"uid": uid}
        ).fetchall()

    @as_store_errors()
    def timed(self, time: float, counts: Sequence[int]) -> None:
        """Add the durations of selects: how many per bucket of `counters.SECONDS`."""
        for span in SPANS:
            start = int(time // span) * span
            found = self._db.execute(
                "SELECT counts FROM latency WHERE span = ? AND start = ?", (span, start)
            ).fetchone()
            before = [0] * len(counts) if found is None else json.loads(found[0])
            total = [a + b for a, b in zip(before, counts, strict=True)]
            self._db.execute(
                "INSERT OR REPLACE INTO latency VALUES (?, ?, ?)", (span, start, json.dumps(total))
            )

    @as_store_errors()
    def prune(self, now: float, live: Iterable[str]) -> None:
        """Remove buckets older than the retention of their span, and deleted bandits."""
        names = {name for (name,) in self._db.execute("SELECT name FROM cursors")}
        counted = {name.rpartition(" ")[2] for name in names}
        noted = {uid for (uid,) in self._db.execute("SELECT DISTINCT bandit FROM noted")}
        gone = counted.union(self._bandits(), noted) - {DECISIONS, *live}
        for table in ("buckets", "shares", "delays"):
            for span, retention_s in RETENTION_S.items():
                self._db.execute(
                    f"DELETE FROM {table} WHERE span = ? AND start < ?", (span, now - retention_s)
                )
        for table in ("buckets", "shares", "delays", "compared", "noted"):
            for uid in gone:
                self._db.execute(f"DELETE FROM {table} WHERE bandit = ?", (uid,))
        for uid in gone:
            self._db.execute(
                "DELETE FROM cursors WHERE name IN (?, ?, ?)",
                (uid, decisions_of(uid), compared_of(uid)),
            )
        for span, retention_s in RETENTION_S.items():
            self._db.execute(
                "DELETE FROM latency WHERE span = ? AND start < ?", (span, now - retention_s)
            )

    def _bandits(self) -> list[str]:
        """Return the uids of the counted bandits."""
        return [uid for (uid,) in self._db.execute("SELECT DISTINCT bandit FROM buckets")]


class AggregateReader:
    """A read-only view of the file; used by one thread at a time.

    Its calls raise `StoreUnreadable` where the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._db = connect_reader(path)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._db.close()

    def __enter__(self) -> AggregateReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def first(self, uid: str) -> int | None:
        """Return the start of a bandit's first hour, None without one."""
        (found,) = self._db.execute(
            "SELECT min(start) FROM buckets WHERE bandit = ? AND span = ?", (uid, HOUR)
        ).fetchone()
        return None if found is None else int(found)

    def sums(self, uids: Sequence[str], start: int, span: int) -> dict[str, list[Sums]]:
        """Return, per bandit, (start, selects, chosen, num_values, value) of its buckets.

        Those of `span` from `start` on, in order; or, with `start` 0, one row of their sums. All
        comes as one row of JSON: a row that is fetched releases the interpreter lock, which a busy
        event loop notices.
        """
        (text,) = self._db.execute(
            _TOTALS if start == 0 else _BUCKETS, (json.dumps(uids), span, start)
        ).fetchone()
        found: dict[str, list[Sums]] = {}
        for uid, *row in json.loads(text):
            start, selects, chosen, num_values, value = row
            found.setdefault(uid, []).append((start, selects, chosen, num_values, value))
        return found

    def series(self, uid: str, start: int, end: int, step: int) -> dict[int, dict[str, float]]:
        """Return the sums of each `step` seconds by their start; empty ones are left out."""
        columns = ", ".join(f"sum({name})" for name in SUMS)
        rows = self._db.execute(
            f"SELECT start / ? * ?, {columns} FROM buckets"
            " WHERE bandit = ? AND span = ? AND start >= ? AND start < ? GROUP BY 1",
            (step, step, uid, _span(step), start, end),
        )
        return {row[0]: dict(zip(SUMS, row[1:], strict=True)) for row in rows}

    def shares(self, uid: str, start: int, end: int, step: int) -> dict[int, dict[str, int]]:
        """Return how often each action was chosen in each `step` seconds; `REST`: all others."""
        rows = self._db.execute(
            "SELECT start / ? * ?, action, sum(num) FROM shares"
            " WHERE bandit = ? AND span = ? AND start >= ? AND start < ? GROUP BY 1, 2",
            (step, step, uid, _span(step), start, end),
        )
        found: dict[int, dict[str, int]] = {}
        for at, action, num in rows:
            found.setdefault(at, {})[action] = num
        return found

    def delays(self, uid: str, start: int, end: int, step: int) -> dict[int, int]:
        """Return how many rewards fell into each bin of delays; empty ones are left out."""
        rows = self._db.execute(
            "SELECT bin, sum(num) FROM delays"
            " WHERE bandit = ? AND span = ? AND start >= ? AND start < ? GROUP BY 1",
            (uid, _span(step), start, end),
        )
        return dict(rows.fetchall())

    def noted(self, uid: str | None = None) -> list[Noted]:
        """Return the findings of a bandit, newest first; None: those of all that are open."""
        return [
            Noted(*row)
            for row in self._db.execute(
                "SELECT bandit, name, severity, message, since, until FROM noted"
                " WHERE CASE WHEN :uid IS NULL THEN until IS NULL ELSE bandit = :uid END"
                " ORDER BY id DESC", {"uid": uid},
            )
        ]  # fmt: skip

    def compared(self, uid: str) -> list[Compared]:
        """Return all sums of a bandit's actions and arms."""
        return self._db.execute(f"{_COMPARED} bandit = ?", (uid,)).fetchall()

    def latencies(self, start: int, end: int, step: int) -> dict[int, list[int]]:
        """Return the durations of selects in each `step` seconds: how many per bucket."""
        found: dict[int, list[int]] = {}
        for at, text in self._db.execute(
            "SELECT start / ? * ?, counts FROM latency WHERE span = ? AND start >= ? AND start < ?",
            (step, step, _span(step), start, end),
        ):
            counts = json.loads(text)
            before = found.get(at, [0] * len(counts))
            found[at] = [a + b for a, b in zip(before, counts, strict=True)]
        return found


def _per_span(counted: Counted) -> dict[tuple[str, int, int], Counter[Any]]:
    """Return counts per (bandit, span, start), for every span."""
    found: dict[tuple[str, int, int], Counter[Any]] = defaultdict(Counter)
    for (uid, moment), counts in counted.items():
        for span in SPANS:
            found[uid, span, moment // span * span].update(counts)
    return found


def _span(step: int) -> int:
    return next(span for span in reversed(SPANS) if step % span == 0)
