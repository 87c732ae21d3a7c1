"""The proofs of durability in their short form, and that they notice what is missing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from bandexa_core.log.contract import ItemState
from benchmarks.proofs.audit import audit, under_load
from benchmarks.proofs.client import main as client
from benchmarks.proofs.fault_clients import Ledger
from benchmarks.proofs.faults import main
from benchmarks.proofs.soak import main as soak
from benchmarks.server import Server
from service.store.sql.codec import StoredItem, pack_items, unpack_items
from tests.fixtures.waiting import poll

pytestmark = pytest.mark.usefixtures("forked_servers")


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_over_kills(tmp_path):
    report = tmp_path / "faults.json"
    assert main(["--kills", "3", "--clients", "3", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["kills"] == 3
    assert min(results["selects"], results["rewards"]) > 100
    assert results["rewards_lost"] == results["wrong_values"] == 0


@pytest.mark.slow
def test_a_short_soak_answers_everything_and_measures_every_process(tmp_path):
    report = tmp_path / "soak.json"
    soak(["--minutes", "0.1", "--clients", "2", "--json", str(report)])  # too short to be level
    results = json.loads(report.read_text())["results"]
    assert results["not_answered"] == results["rewards_lost"] == 0
    assert results["server_rss_mb"] > 50
    assert results["trainer_rss_mb"] > 50


@pytest.mark.slow
def test_no_accepted_reward_is_lost_over_forks_and_exits(tmp_path):
    report = tmp_path / "client.json"
    assert client(["--processes", "8", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["accepted"] == 480
    assert results["delivered by the last queue"] > 0


# -- what the audit notices -----------------------------------------------------------------------

Stored = tuple[Path, list[Ledger]]
COUNTED = "status IN ('applied', 'aggregated')"
_REWARD = f"SELECT * FROM rewards WHERE {COUNTED} AND reward_id <> '' LIMIT 1"
_LATER = "(SELECT max(position) FROM log WHERE bandit = l.bandit) + 1"
_LEARNED = "SELECT l.* FROM log AS l WHERE kind = 1 AND before IS NULL LIMIT 1"
_WINDOWED = "(SELECT bandit FROM bandits WHERE name = 'windowed')"


@pytest.fixture(scope="module", name="stored")
def _stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A database after a short load, and what its clients were answered."""
    folder = tmp_path_factory.mktemp("load")

    def during(server: Server) -> None:
        database = server.data_dir / "bandexa.db"
        poll(lambda: has_enough(database), "rewards, and several log rows in one group")

    ledgers, differences, wrong = under_load(folder, 8, during)
    assert wrong == []
    assert set(differences.values()) == {0}
    return folder / "data" / "bandexa.db", ledgers


def has_enough(database: Path) -> bool:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        found = db.execute(
            "SELECT (SELECT count(*) FROM rewards), EXISTS (SELECT 1 FROM log WHERE ends = 0)"
        ).fetchone()
    return found[0] >= 150 and bool(found[1])


def damaged(
    stored: Stored, folder: Path, damage: Callable[[sqlite3.Connection], object]
) -> set[str]:
    """Return which counts of the audit are not 0 on a damaged copy."""
    database, ledgers = stored
    path = folder / "bandexa.db"
    shutil.copy(database, path)
    with closing(sqlite3.connect(path)) as db:
        before = db.total_changes
        damage(db)
        assert db.total_changes > before, "nothing was damaged"
        db.commit()
    return {name for name, count in audit(path, ledgers).items() if count}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            "DELETE FROM decisions WHERE key = (SELECT min(key) FROM ledger)",
            {"selects_lost_or_changed", "without_a_decision", "rewards_lost", "wrong_values"},
        ),
        (
            "UPDATE decisions SET position = 1000 WHERE key = (SELECT min(key) FROM ledger)",
            {"selects_lost_or_changed"},
        ),
        (
            "UPDATE meta SET value = zeroblob(16) WHERE key = 'secret'",
            {"selects_lost_or_changed", "rewards_lost", "wrong_values"},
        ),
        (
            f"DELETE FROM rewards WHERE (key, seq) = (SELECT key, seq FROM ({_REWARD}))",
            {"rewards_lost", "rewards_not_in_ledger"},
        ),
        (
            "INSERT INTO rewards SELECT key, item, reward_id, reward, 1000, status, time, metrics"
            f" FROM ({_REWARD})",
            {"rewards_stored_twice", "counted_twice", "rewards_not_in_ledger"},
        ),
        (
            f"UPDATE rewards SET reward = 7 WHERE (key, seq) = (SELECT key, seq FROM ({_REWARD}))",
            {"rewards_lost", "values_not_of_rewards"},
        ),
        (
            f"INSERT INTO log SELECT bandit, {_LATER}, kind, time, key, item, origin, before,"
            f" after, low, high, payload, ends, hash FROM ({_LEARNED}) AS l",
            {"first_learned_twice", "log_values_wrong", "log_hashes_wrong"},
        ),
        (
            "DELETE FROM log WHERE (bandit, position) = (SELECT bandit, position FROM"
            f" ({_LEARNED}))",
            {"log_gaps", "log_values_wrong", "log_hashes_wrong"},
        ),
        ("UPDATE log SET after = after + 1 WHERE ends = 0", {"log_hashes_wrong"}),
        ("UPDATE log SET time = time + 1 WHERE kind <> 1", {"log_hashes_wrong"}),
        ("UPDATE log SET ends = 1 WHERE ends = 0", {"log_groups_wrong", "log_hashes_wrong"}),
        ("UPDATE log SET ends = 3 WHERE ends = 1", {"log_groups_wrong"}),
        ("DELETE FROM ledger", {"log_values_wrong", "wrong_values"}),
        ("DELETE FROM windows", {"windows_wrong"}),
        (
            "INSERT INTO windows SELECT 5, key FROM decisions"
            f" WHERE (key >> 45) <> {_WINDOWED} LIMIT 1",
            {"windows_wrong"},
        ),
    ],
)
def test_the_audit_notices_damage(stored, tmp_path, damage, found):
    assert damaged(stored, tmp_path, lambda db: db.execute(damage)) >= found


@pytest.mark.slow
def test_the_audit_notices_a_value_that_is_not_what_was_reported(stored, tmp_path):
    def change(db: sqlite3.Connection) -> None:
        for key, blob in db.execute("SELECT key, items FROM ledger").fetchall():
            (item,) = unpack_items(blob)
            if (value := item.state.value) is not None:
                other = replace(item, state=replace(item.state, value=value + 1.0))
                db.execute("UPDATE ledger SET items = ? WHERE key = ?", (pack_items([other]), key))

    assert damaged(stored, tmp_path, change) == {"wrong_values", "log_values_wrong"}


@pytest.mark.slow
def test_the_audit_notices_a_wrong_default(stored, tmp_path):
    """A window closed without rewards, and its log row is there, but with another value."""

    def close(db: sqlite3.Connection) -> None:
        (key,) = db.execute(
            f"SELECT key FROM windows WHERE (key >> 45) = {_WINDOWED}"
            " AND key NOT IN (SELECT key FROM ledger) LIMIT 1"
        ).fetchone()
        (last,) = db.execute(f"SELECT max(position) FROM log WHERE bandit = {_WINDOWED}").fetchone()
        position = last + 1
        db.execute(
            f"INSERT INTO log VALUES ({_WINDOWED}, ?, 1, 5, ?, 0, ?, NULL, 0.7, NULL, NULL, NULL,"
            " 1, x'00')",
            (position, key, position),
        )
        item = StoredItem(ItemState(value=0.7), position, position)
        db.execute(
            "INSERT INTO ledger VALUES (?, 1, 0, NULL, 5, ?, NULL)", (key, pack_items([item]))
        )
        db.execute("DELETE FROM windows WHERE key = ?", (key,))

    assert damaged(stored, tmp_path, close) == {"wrong_defaults", "log_hashes_wrong"}


@pytest.mark.slow
def test_the_audit_notices_an_id_that_two_clients_got(stored):
    database, ledgers = stored
    name, chosen = next(iter(ledgers[0].selects.items()))
    found = audit(database, [*ledgers, Ledger(selects={name: chosen})])
    assert {each for each, count in found.items() if count} == {"ids_given_twice"}
