"""Databases of schema 4 become schema 5: what was stored reads the same, or nothing has changed.

The content before is read by SQL from the files that releases left (see `old_store`).
"""

from __future__ import annotations

import math
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bandexa_core.ids import DecisionId, LogPosition
from bandexa_core.log.rows import LearnRow
from bandexa_core.snapshots.store import SnapshotStore
from service.settings import Settings
from service.store.errors import StoreError
from service.store.identity import bandit_of, unpack_own_id
from service.store.sql.codec import LEGACY, chosen_ids, unpack_items
from service.store.sqlite.history import History
from service.store.sqlite.reader import StoreReader
from service.store.sqlite.schema import SCHEMA_VERSION, open_writer
from service.store.sqlite.tables import decision_ids
from service.tools.verify import verify
from tests.recovery.old_store import DATA, OLD, OLD_PARAMS, OldStore, opened, read

ROOT = Path(__file__).parents[2]
RICHEST = DATA / "0.2.0-reports"
UNCHANGED = ("bandits", "trims", "evicted", "rounds")
KILLED = """
import os, signal, sys
from pathlib import Path
from service.store.sqlite import from_schema_4, migrations
from service.store.sqlite.schema import open_writer
path, at = Path(sys.argv[1]), sys.argv[2]
def traced(statement):
    if at in statement:
        os.kill(os.getpid(), signal.SIGKILL)
def step(connection):
    connection.execute("PRAGMA cache_size = 1")
    connection.set_trace_callback(traced)
    from_schema_4.migrate(connection)
migrations.MIGRATIONS[4] = step
open_writer(path, "os", check=True)
"""
MOMENTS = (
    "DROP INDEX log_changes", "INSERT INTO decisions", "INSERT INTO log", "INSERT INTO ledger",
    "DROP TABLE old_log", "DROP TABLE old_activations", "PRAGMA user_version = 5", "COMMIT",
)  # fmt: skip


class Migrated(NamedTuple):
    """A migrated directory, and what its database had before."""

    root: Path
    before: OldStore

    @property
    def path(self) -> Path:
        return self.root / "bandexa.db"

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(opened(self.path)) as db:
            return db.execute(sql).fetchall()

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a table by column, with the id of their decision where they have one.

        All of these decisions were callers' or of another release, so that they have own ids.
        """
        with closing(opened(self.path)) as db:
            stored = db.execute("SELECT key, own_id FROM decisions").fetchall()
            ids = {key: unpack_own_id(own_id) for key, own_id in stored}
            found = db.execute(f"SELECT * FROM {name}")
            columns = [column[0] for column in found.description]
            rows = [dict(zip(columns, row, strict=True)) for row in found]
        for row in rows:
            if row.get("key") in ids:
                row["decision_id"] = ids[row["key"]]
            if "own_id" in row:
                row["own_id"] = unpack_own_id(row["own_id"])
        return rows


def migrate(path: Path) -> None:
    open_writer(path, "commit", check=True).close()


@pytest.fixture(scope="module", params=OLD_PARAMS)
def migrated(request, tmp_path_factory) -> Migrated:
    root = tmp_path_factory.mktemp("migrated") / "data"
    shutil.copytree(DATA / request.param, root)
    before = read(root / "bandexa.db")
    migrate(root / "bandexa.db")
    return Migrated(root, before)


# -- what is stored ---------------------------------------------------------------------------


def test_every_kind_of_report_is_in_the_saved_directories():
    assert {"0.1.0", "0.2.0", "0.2.0-reports"} <= set(OLD)
    found = read(RICHEST / "bandexa.db")
    assert {row[4] for row in found.tables["rewards"]} == {
        "applied", "aggregated", "ignored", "late",
    }  # fmt: skip
    windows = found.tables["windows"]
    assert {closed is None for *_, closed in windows} == {True, False}
    assert {row[2] for row in found.tables["log"]} == {1, 2, 3, 4}
    assert found.tables["trims"]
    assert any(decision.columns["body_hash"] is None for decision in found.decisions.values())
    assert any(not decision.is_reported for decision in found.decisions.values())
    assert any(len(decision.outcomes) > 1 for decision in found.decisions.values())


def test_it_has_the_tables_of_a_new_database(migrated, tmp_path):
    migrate(tmp_path / "new.db")
    tables = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
    with closing(opened(tmp_path / "new.db")) as new:
        assert migrated.query(tables) == new.execute(tables).fetchall()
    assert migrated.query("PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert migrated.query("PRAGMA integrity_check") == [("ok",)]
    for name in UNCHANGED:
        assert migrated.query(f"SELECT * FROM {name}") == migrated.before.tables[name]
    meta = dict(migrated.query("SELECT * FROM meta"))
    assert dict(migrated.before.tables["meta"]).items() <= meta.items()
    assert (meta["cell"], len(meta["secret"])) == ("0", 16)


def test_each_migration_makes_a_secret_of_its_own(tmp_path):
    secrets = set()
    for name in ("one", "other"):
        shutil.copytree(DATA / "0.1.0", tmp_path / name)
        migrate(tmp_path / name / "bandexa.db")
        with closing(opened(tmp_path / name / "bandexa.db")) as db:
            secrets |= {*db.execute("SELECT value FROM meta WHERE key = 'secret'")}
    assert len(secrets) == 2


def test_decisions_keep_their_ids_their_order_and_their_columns(migrated):
    before = migrated.before.decisions
    after = {row["own_id"]: row for row in migrated.table("decisions")}
    assert after.keys() == before.keys()
    for name, old in before.items():
        new = dict(after[name])
        assert {column: new.pop(column) for column in old.columns} == old.columns
        assert bandit_of(new.pop("key")) == old.bandit
        assert new.pop("own_id") == new.pop("decision_id") == name
        assert set(new.values()) == {None}, "what later releases store"
    by_key = [row["own_id"] for row in migrated.table("decisions")]
    by_age = sorted(before, key=lambda name: (before[name].bandit, before[name].rowid))
    assert by_key == by_age
    with closing(opened(migrated.path)) as db:
        ids = decision_ids(db)
    newest = max(row["key"] for row in after.values())
    assert ids.new_key(bandit_of(newest)) > newest


def test_the_log_keeps_its_rows_and_hashes(migrated):
    after = [
        (
            row["bandit"], row["position"], row["kind"], row["time"], row.get("decision_id"),
            *(row[name] for name in ("item", "origin", "before", "after", "payload", "hash")),
        )
        for row in migrated.table("log")
    ]  # fmt: skip
    assert after == migrated.before.tables["log"]
    for row in migrated.table("log"):
        assert (row["ends"], row["low"], row["high"]) == (LEGACY, None, None)
        assert (row["key"] is None) == (row["kind"] != 1)


def test_rewards_keep_their_order_their_times_and_their_statuses(migrated):
    after = defaultdict(list)
    for row in sorted(migrated.table("rewards"), key=lambda row: (row["key"], row["seq"])):
        after[row["decision_id"]].append(
            (row["item"], row["reward_id"], row["reward"], row["status"], row["time"])
        )
        assert (row["seq"], row["metrics"]) == (len(after[row["decision_id"]]), None)
    before = {
        name: [reward._replace(reward_id=reward.reward_id or "") for reward in old.rewards]
        for name, old in migrated.before.decisions.items()
        if old.rewards
    }
    assert after == before


def test_the_ledger_has_what_reports_led_to(migrated):
    after = {row["decision_id"]: row for row in migrated.table("ledger")}
    before = migrated.before.decisions
    assert after.keys() == {name for name, old in before.items() if old.is_reported}
    aggregates = aggregates_of(migrated)
    for name, row in after.items():
        old = before[name]
        happened = [old.activated_at, old.closed]
        assert row["version"] == len(old.rewards) + 2 - happened.count(None)
        assert row["rewards"] == len(old.rewards)
        assert (row["activated"], row["closed"]) == (old.activated_at, old.closed)
        assert row["matures"] is None
        items = unpack_items(row["items"])
        assert len(items) == len(chosen_ids(DecisionId(name), old.columns["chosen"]))
        for index, item in enumerate(items):
            counted, outcome = old.counted(index), old.outcomes.get(index)
            learned = (None, 0, 0) if outcome is None else (outcome.value, *outcome[::2])
            assert (item.state.value, item.origin, item.latest) == learned
            assert item.state.num == len(counted)
            aggregate = aggregates[old.bandit]
            if aggregate in ("sum", "mean"):
                assert math.fsum(item.state.partials) == math.fsum(counted)
            else:
                assert item.state.partials == tuple(
                    counted[:1] if aggregate == "first" else counted[-1:]
                )


def aggregates_of(migrated: Migrated) -> dict[int, str]:
    with StoreReader(migrated.path) as reader:
        return {record.key: record.spec.rewards.aggregate for record in reader.bandits()}


def test_open_windows_stay_open_and_close_when_they_did(migrated):
    after = {row["decision_id"]: row["closes"] for row in migrated.table("windows")}
    assert after == {
        name: old.closes
        for name, old in migrated.before.decisions.items()
        if old.closes is not None and old.closed is None
    }
    assert after, "each directory has some"


def test_windows_that_an_outage_postponed_close_when_they_would_have(tmp_path):
    """Schema 4 postponed each window; schema 5 has one offset, and finds a window by its length."""
    root = tmp_path / "data"
    shutil.copytree(RICHEST, root)
    with closing(sqlite3.connect(root / "bandexa.db")) as db, db:
        db.execute("UPDATE windows SET closes = closes + 7200 WHERE closed IS NULL")
        db.execute("UPDATE windows SET closes = closes - 3600 WHERE decision_id = 'forgetting.3'")
        db.execute("UPDATE windows SET closes = closes - 7200 WHERE decision_id = 'forgetting.4'")
    before = read(root / "bandexa.db")
    migrate(root / "bandexa.db")
    migrated = Migrated(root, before)
    (offset,) = migrated.query("SELECT value FROM meta WHERE key = 'service_time_offset'")[0]
    still_open = {
        name: old.closes
        for name, old in before.decisions.items()
        if old.closes is not None and old.closed is None
    }
    after = {row["decision_id"]: row["closes"] + offset for row in migrated.table("windows")}
    assert after == pytest.approx(still_open, rel=0, abs=1e-3)
    with StoreReader(migrated.path) as reader, History(migrated.path) as history:
        records = {record.key: record for record in reader.bandits()}
        for name, closes in still_open.items():
            record = records[before.decisions[name].bandit]
            found = history.decision(record, DecisionId(name))
            assert found is not None
            assert found.closes == pytest.approx(closes, rel=0, abs=1e-3), name
    assert verify(Settings(data_dir=root)).num_problems == 0


# -- what is read -----------------------------------------------------------------------------


def test_readers_find_each_decision_with_all_that_was_stored(migrated):
    with StoreReader(migrated.path) as reader, History(migrated.path) as history:
        for record in reader.bandits():
            mine = [d for d in migrated.before.decisions.values() if d.bandit == record.key]
            assert mine
            for old in mine:
                found = history.decision(record, DecisionId(old.id))
                assert found is not None
                new, columns = found.record, old.columns
                assert new.decision_id == old.id
                for name in ("time", "body_hash", "snapshot", "position", "propensity", "std"):
                    assert getattr(new, name) == columns[name], (old.id, name)
                assert new.context.tobytes() == columns["context"]
                assert [new.activated, new.explored] == [
                    None if flag is None else bool(flag)
                    for flag in (columns["activated"], columns["explored"])
                ]
                assert found.activated_at == old.activated_at
                assert found.closed == old.closed
                assert found.closes == (old.closes if old.closed is None else old.closed)
                rewards = [
                    (each.item, each.reward_id, each.reward, each.status, each.time)
                    for each in found.rewards
                ]
                assert rewards == list(old.rewards)
                assert learned_by(found) == learned_before(migrated.before, old.id)
                answer = reader.answer(DecisionId(old.id))
                assert answer is not None
                assert answer.body_hash == columns["body_hash"]
                assert [picked.id for picked in answer.chosen] == [p.id for p in new.chosen]


def learned_by(found: Any) -> list[tuple[Any, ...]]:
    return sorted((v.position, v.item, v.time, v.before, v.after) for v in found.learned)


def learned_before(store: OldStore, name: str) -> list[tuple[Any, ...]]:
    """Return the first and the latest learn row of each item, of those still in the log."""
    ends = {
        (item, position)
        for item, outcome in store.decisions[name].outcomes.items()
        for position in (outcome.origin, outcome.latest)
    }
    return sorted(
        (position, item, time, before, after)
        for _, position, _, time, decision_id, item, _, before, after, *_ in store.tables["log"]
        if decision_id == name and (item, position) in ends
    )


def test_the_log_is_followed_row_by_row_and_snapshots_belong_to_it(migrated):
    rows = defaultdict(list)
    for row in migrated.before.tables["log"]:
        rows[row[0]].append(row)
    with StoreReader(migrated.path) as reader:
        for record in reader.bandits():
            trim, head = reader.trim(record.key), reader.head(record.key)
            groups = list(reader.follow(record, trim.position, head))
            tail = [row for row in rows[record.key] if row[1] > trim.position]
            assert [len(group.rows) for group in groups] == [1] * len(tail)
            assert not any(group.as_block for group in groups)
            for (new,), old in zip((group.rows for group in groups), tail, strict=True):
                assert (new.position, new.time) == (old[1], old[3])
                if isinstance(new, LearnRow):
                    context = migrated.before.decisions[old[4]].columns["context"]
                    assert (new.decision_id, new.origin, new.before, new.after) == (
                        old[4], *old[6:9],
                    )  # fmt: skip
                    assert new.context.tobytes() == context
                    assert (new.low, new.high) == (None, None)
                else:
                    assert old[2] != 1
                assert reader.hash_at(record.key, LogPosition(old[1])) == old[-1]
            snapshots = SnapshotStore(migrated.root / "snapshots" / record.uid)
            for version in snapshots.versions():
                manifest = snapshots.load(version).manifest
                known = reader.hash_at(record.key, LogPosition(manifest.position))
                assert known is not None or manifest.position < trim.position
                assert known is None or known.hex() == manifest.log_hash


def test_it_verifies(migrated):
    report = verify(Settings(data_dir=migrated.root))
    assert [text for check in report.checks for text in check.problems] == []
    values = [check.compared for check in report.checks if check.name == "values"]
    numbers = [[int(word) for word in text.split() if word.isdigit()] for text in values]
    whole = np.sum(numbers, axis=0).tolist()
    tables = migrated.before.tables
    assert whole == [len(tables["outcomes"]), len(tables["rewards"])]


# -- what disturbs it -------------------------------------------------------------------------


def test_opening_it_again_changes_nothing(migrated, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(migrated.root, copy)
    before = dump(migrated.path)
    migrate(copy / "bandexa.db")
    assert dump(copy / "bandexa.db") == before


def dump(path: Path, *without: str) -> list[str]:
    with closing(opened(path)) as db:
        return [line for line in db.iterdump() if not any(text in line for text in without)]


@pytest.mark.few(2)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_killed_in_the_middle_leaves_the_old_version(tmp_path, moment):
    root, undisturbed = tmp_path / "data", tmp_path / "undisturbed.db"
    shutil.copytree(RICHEST, root)
    path = root / "bandexa.db"
    shutil.copy(path, undisturbed)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), moment],
        cwd=ROOT, check=False, capture_output=True,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    under_way = (root / "bandexa.db-wal").stat().st_size > 8192
    assert under_way or moment == MOMENTS[0], "by then pages are written"
    with closing(sqlite3.connect(path)) as db:  # rolls back
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
        db.execute("PRAGMA journal_mode = DELETE")
    assert read(path) == read(RICHEST / "bandexa.db")
    assert dump(path) == dump(RICHEST / "bandexa.db")
    migrate(path)
    migrate(undisturbed)
    assert dump(path, "'secret'") == dump(undisturbed, "'secret'")
    assert verify(Settings(data_dir=root)).num_problems == 0


def test_a_damaged_database_is_refused_and_stays_as_it_is(tmp_path):
    path = tmp_path / "bandexa.db"
    data = bytearray((RICHEST / "bandexa.db").read_bytes())
    for page in range(8, len(data) // 4096):
        data[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"bandexa\.db"):
        migrate(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
        assert [
            name for (name,) in db.execute("SELECT name FROM sqlite_schema") if "old" in name
        ] == []


@pytest.mark.parametrize("spec", ["{", "[]", '{"policy": "none"}'])
def test_a_damaged_configuration_is_refused_and_named(tmp_path, spec):
    path = tmp_path / "bandexa.db"
    shutil.copy(RICHEST / "bandexa.db", path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE bandits SET spec = ? WHERE name = 'linear'", (spec,))
    with pytest.raises(StoreError, match=r"linear|malformed"):
        migrate(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (4,)


DAMAGE = {
    "a decision": (
        "UPDATE decisions SET chosen = x'00' WHERE decision_id = 'linear.7'",
        "linear: log: row 9: decision linear.7 is not what was written",
    ),
    "a missing decision": (
        "DELETE FROM decisions WHERE decision_id = 'linear.7'",
        "linear: log: row 9 (decision at key None, pick 0): its decision is missing",
    ),
    "a reward": (
        "UPDATE rewards SET reward = reward + 1e-9 WHERE decision_id = 'linear.7'",
        "linear: rewards: decision linear.7, pick 0: they make",
    ),
    "the pick of a reward": (
        "UPDATE rewards SET item = 4 WHERE decision_id = 'linear.7'",
        "linear: rewards: decision linear.7: of pick 4, which it has not",
    ),
    "a value": (
        "UPDATE outcomes SET value = value + 1e-9 WHERE decision_id = 'linear.7'",
        "linear: ledger: decision linear.7, pick 0: value",
    ),
    "the pick of a value": (
        "UPDATE outcomes SET item = 3 WHERE decision_id = 'linear.7'",
        "linear: log: row 9 (decision linear.7, pick 0): learned a second time, first in row 0",
    ),
    "a log row": (
        "UPDATE log SET after = after + 1e-9 WHERE decision_id = 'linear.7'",
        "linear: log: row 9: its hash is not that of the log up to it",
    ),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("what", DAMAGE)
def test_what_was_wrong_before_is_migrated_and_found_afterwards(tmp_path, what):
    """It fails its own bandit at most: the others are served."""
    shutil.copytree(RICHEST, tmp_path / "data")
    statement, expected = DAMAGE[what]
    with closing(sqlite3.connect(tmp_path / "data" / "bandexa.db")) as db, db:
        assert db.execute(statement).rowcount == 1
    migrate(tmp_path / "data" / "bandexa.db")
    checks = verify(Settings(data_dir=tmp_path / "data")).checks
    problems = [f"{check.bandit}: {text}" for check in checks for text in check.problems]
    assert [text for text in problems if expected in text], problems
    assert all(text.startswith(("linear: ", "None: ")) for text in problems), problems
