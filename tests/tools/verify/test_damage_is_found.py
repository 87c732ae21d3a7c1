"""Each kind of damage to a data directory is found, and reported by its kind."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bandexa_core.snapshots.store import SnapshotStore
from service.settings import Settings
from service.store.sqlite.codec import chain_hash
from service.tools.verify import main

LINEAR = "(SELECT bandit FROM bandits WHERE name = 'linear')"
DAMAGE = {
    "a reward": (
        "UPDATE rewards SET reward = reward + 1e-9 WHERE decision_id = 'linear.7'",
        "linear: rewards: decision linear.7, pick 0: they make",
    ),
    "one reward of a sum": (
        "UPDATE rewards SET reward = 0.5 WHERE decision_id = 'summing.7' AND reward_id = 'x'",
        "summing: rewards: decision summing.7, pick 0: they make",
    ),
    "a logged value": (
        f"UPDATE log SET after = after + 1e-9 WHERE bandit = {LINEAR} AND position = 9",
        "linear: log: row 9: its hash is not that of the log up to it",
    ),
    "a logged time": (
        f"UPDATE log SET time = time + 1 WHERE bandit = {LINEAR} AND position = 9",
        "linear: log: row 9: its hash is not that of the log up to it",
    ),
    "a learned value": (
        "UPDATE outcomes SET value = value + 1e-9 WHERE decision_id = 'linear.7'",
        "linear: outcomes: decision linear.7, pick 0: value",
    ),
    "an origin": (
        "UPDATE outcomes SET origin = origin + 1 WHERE decision_id = 'linear.7'",
        "linear: outcomes: decision linear.7, pick 0: log row 10 is not the first to learn it",
    ),
    "a log row": (
        f"DELETE FROM log WHERE bandit = {LINEAR} AND position = 9",
        "linear: log: row 9 is missing",
    ),
    "the newest log row": (
        f"DELETE FROM log WHERE bandit = {LINEAR} AND position = 106",
        "linear: outcomes: decision linear.104, pick 0: log row 106 is not the first to learn it",
    ),
    "an outcome": (
        "DELETE FROM outcomes WHERE decision_id = 'linear.7'",
        "linear: rewards: decision linear.7, pick 0: applied, but nothing was learned from it",
    ),
    "the rewards of a value": (
        "DELETE FROM rewards WHERE decision_id = 'linear.7'",
        "was learned, but no reward reported it",
    ),
    "a second reward that counts": (
        "INSERT INTO rewards SELECT decision_id, item, 'again', reward, status, time FROM rewards"
        " WHERE decision_id = 'linear.7'",
        "linear: rewards: decision linear.7, pick 0: 2 rewards count, of which one may",
    ),
    "a decision": (
        "DELETE FROM decisions WHERE decision_id = 'linear.7'",
        "linear: log: row 9 (decision linear.7, pick 0): its decision is missing",
    ),
    "what a decision saw": (
        "UPDATE decisions SET context = zeroblob(length(context)) WHERE decision_id = 'linear.90'",
        "linear: log: row 92: decision linear.90 is not what was written",
    ),
    "an action": (
        f"UPDATE log SET payload = substr(payload, 1, 20) WHERE bandit = {LINEAR} AND position = 1",
        "linear: log: row 1: its hash is not that of the log up to it",
    ),
}


def test_a_whole_directory_is_found_good(copy, specs):
    report = copy.verify()
    assert report.to_json()["num_problems"] == 0
    assert {check.bandit for check in report.checks} == {None, *specs} - {"photos"}
    models = {check.bandit: check for check in report.checks if check.name == "model"}
    for name, check in models.items():
        assert check.notes == []
        if name != "uniform":
            assert check.difference is not None
            assert check.difference <= 1e-8
    assert models["linear"].compared == "rows applied to older snapshots: 2 to 3, 3 to 4"
    assert models["neural"].compared == "rebuilt from the log: 2, 3, 4"


@pytest.mark.parametrize("what", DAMAGE)
def test_changed_rows_are_found(copy, what):
    statement, expected = DAMAGE[what]
    copy.execute(statement)
    problems = copy.problems()
    assert [text for text in problems if expected in text], problems
    assert all(text.startswith((expected.split(":")[0], "None")) for text in problems) or (
        not expected.startswith(("linear:", "summing:"))
    ), "the reports are of that bandit alone"


@pytest.mark.parametrize("origin", ["its own position", "the first row's"])
def test_a_value_that_was_learned_twice_is_found_under_a_whole_hash_chain(copy, origin):
    bandit = copy.key("linear")
    (row,) = copy.execute(
        "SELECT position, hash, time FROM log WHERE bandit = ? ORDER BY position DESC LIMIT 1",
        bandit,
    )
    position, row_hash, time = row[0] + 1, row[1], row[2]
    learned = ("linear.7", 0, position if origin == "its own position" else 9, None, 0.5)
    copy.execute(
        "INSERT INTO log VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, NULL, ?)", bandit, position, time,
        *learned, chain_hash(row_hash, (position, 1, time, *learned)),
    )  # fmt: skip
    what = "learned a second time" if origin == "its own position" else "a first value with origin"
    assert [text for text in copy.problems() if what in text]


def test_a_recomputed_chain_is_found_by_the_snapshots(copy):
    bandit, previous = copy.key("linear"), b""
    copy.execute("UPDATE log SET after = 0.125 WHERE bandit = ? AND position = 9", bandit)
    copy.execute("UPDATE outcomes SET value = 0.125 WHERE decision_id = 'linear.7'")
    copy.execute("UPDATE rewards SET reward = 0.125 WHERE decision_id = 'linear.7'")
    rows = copy.execute("SELECT * FROM log WHERE bandit = ? ORDER BY position", bandit)
    for _, position, kind, time, *learned, payload, _ in rows:
        fields = learned if kind == 1 else [payload]
        previous = chain_hash(previous, (position, kind, time, *fields))
        copy.execute(
            "UPDATE log SET hash = ? WHERE bandit = ? AND position = ?", previous, bandit, position
        )
    assert [text for text in copy.problems() if "its hash of the log at" in text]


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "manifest.json"])
def test_a_flipped_byte_in_a_snapshot_is_found(copy, file):
    path = copy.snapshots("neural") / "v00000003" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    assert [text for text in copy.problems() if text.startswith("neural: snapshot 3: ")]


def replace(directory, version, **changed):
    """Publish a snapshot of a version again with other tensors and correct hashes."""
    store = SnapshotStore(directory)
    snapshot = store.load(version)
    for name, tensor in changed.items():
        known = snapshot.tensors["model"]
        (key,) = [key for key in known if key.endswith(f"/{name}") and "/1/" not in key][:1]
        known[key] = tensor(known[key])
    shutil.rmtree(directory / f"v{version:08d}")
    store.publish(snapshot.manifest, snapshot.tensors)


@pytest.mark.parametrize("name", ["linear", "disjoint", "forgetting", "neural", "drifting"])
@pytest.mark.parametrize("version", [2, 4])
def test_a_snapshot_of_another_posterior_is_found(copy, name, version):
    replace(copy.snapshots(name), version, mean=lambda mean: mean * (1 + 1e-6))
    problems = copy.problems()
    assert [text for text in problems if text.startswith(f"{name}: ") and ": mean: " in text]
    assert all(text.startswith(f"{name}: ") for text in problems)


@pytest.mark.parametrize("tensor", ["root", "b", "zz", "zr", "rr", "n"])
def test_every_part_of_a_posterior_is_compared(copy, tensor):
    replace(copy.snapshots("linear"), 3, **{tensor: lambda values: values * (1 + 1e-6)})
    assert [text for text in copy.problems() if "relative difference" in text]


def test_other_memories_of_what_was_forgotten_are_found(copy):
    half_lives = {"half_lives": lambda sizes: sizes * (1 + 1e-6)}
    for name in ("forgetting", "drifting"):
        replace(copy.snapshots(name), 4, **half_lives)
    problems = copy.problems()
    for name in ("forgetting", "drifting"):
        found = [text for text in problems if text.startswith(f"{name}: ")]
        assert [text for text in found if "what was forgotten differs" in text], problems


def test_another_input_scaling_is_found(copy):
    replace(copy.snapshots("linear"), 2, x_mean=lambda mean: mean + 1e-6)
    assert [text for text in copy.problems() if text.startswith("linear: ")]


def test_a_bandit_without_a_snapshot_is_found(copy):
    shutil.rmtree(copy.snapshots("linear"))
    assert [text for text in copy.problems() if "no snapshot is left" in text]


def test_what_is_wrong_is_reported_and_exits_with_1(copy, tmp_path, capsys):
    copy.execute("UPDATE rewards SET reward = 7 WHERE decision_id = 'linear.7'")
    figures = tmp_path / "figures.json"
    settings = Settings(data_dir=copy.root)
    assert main(settings, live=None, api_key=None, json_file=figures, quiet=True) == 1
    printed = capsys.readouterr().out
    assert "WRONG: linear: rewards: decision linear.7, pick 0: they make 7.0" in printed
    assert "verdict: 1 differences were found" in printed
    report = json.loads(figures.read_text())
    assert not report["ok"]
    assert [c["bandit"] for c in report["checks"] if not c["ok"]] == ["linear"]


def test_many_problems_are_counted_and_some_reported(copy):
    copy.execute("UPDATE outcomes SET value = 7 WHERE decision_id LIKE 'linear.%'")
    (values,) = [c for c in copy.verify().checks if (c.bandit, c.name) == ("linear", "values")]
    assert values.num_problems == 2 * 105
    assert len(values.problems) == 20


@pytest.mark.parametrize("how", ["missing", "no database", "another schema"])
def test_what_cannot_be_read_exits_with_2(copy, how, capsys):
    database = copy.root / "bandexa.db"
    if how == "missing":
        database.unlink()
    elif how == "no database":
        database.write_bytes(np.random.default_rng(1).bytes(10_000))
    else:
        copy.execute("SELECT 1")
        data = bytearray(database.read_bytes())
        data[60:64] = (99).to_bytes(4, "big")  # user_version
        database.write_bytes(data)
    settings = Settings(data_dir=copy.root)
    assert main(settings, live=None, api_key=None, json_file=None, quiet=True) == 2
    assert "bandexa.db" in capsys.readouterr().err


def test_a_broken_page_of_the_database_is_found(copy):
    database = copy.root / "bandexa.db"
    (size,) = copy.execute("PRAGMA page_size")[0]
    data = bytearray(database.read_bytes())
    for page in range(8, len(data) // size):
        data[page * size : page * size + 8] = b"\xff" * 8
    database.write_bytes(data)
    assert [text for text in copy.problems() if text.startswith("None: database: ")]
