"""Damage to a data directory is found: in snapshots, in the file of the database, as a whole.

`test_damaged_rows_are_found` has the kinds of damage to single rows, `test_whole_directories` one
without damage.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from bandexa_core.ids import LogPosition
from bandexa_core.snapshots.store import SnapshotStore
from service.settings import Settings
from service.tools.verify import main

BANDITS = ("linear", "disjoint", "forgetting", "neural", "drifting")
SEVEN = "(SELECT key FROM decisions WHERE own_id = 'linear.7')"


@pytest.mark.few(2)
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


@pytest.mark.few(3)
@pytest.mark.parametrize("version", [2, 4])
def test_a_snapshot_of_another_posterior_is_found(copy, version):
    names = [name for name in BANDITS if name != "linear"]
    for name in names:
        replace(copy.snapshots(name), version, mean=lambda mean: mean * (1 + 1e-6))
    problems = copy.problems()
    for name in names:
        assert [text for text in problems if text.startswith(f"{name}: ") and ": mean: " in text]
    assert not [text for text in problems if text.startswith("linear: ")], "it is as it was"


@pytest.mark.few(3)
@pytest.mark.parametrize("tensor", ["mean", "root", "b", "zz", "zr", "rr", "n"])
def test_every_part_of_a_posterior_is_compared(copy, tensor):
    replace(copy.snapshots("linear"), 3, **{tensor: lambda values: values * (1 + 1e-6)})
    assert [text for text in copy.problems() if "relative difference" in text]


def test_sums_of_no_rows_are_found(copy):
    replace(copy.snapshots("linear"), 3, zz=lambda values: -1e6 * np.eye(len(values)))
    assert [t for t in copy.problems() if t.startswith("linear: snapshot 3 against its own sums: ")]


def test_other_memories_of_what_was_forgotten_are_found(copy):
    half_lives = {"half_lives": lambda sizes: sizes * (1 + 1e-6)}
    for name in ("forgetting", "drifting"):
        replace(copy.snapshots(name), 4, **half_lives)
    problems = copy.problems()
    for name in ("forgetting", "drifting"):
        found = [text for text in problems if text.startswith(f"{name}: ")]
        assert [text for text in found if "what was forgotten differs" in text], problems


@pytest.mark.parametrize("where", ["where no group of rows ends", "beyond the log"])
def test_a_snapshot_of_no_position_of_the_log_is_found(copy, where):
    inside = copy.group("linear")[1]
    position = LogPosition(10_000 if where == "beyond the log" else inside)
    store = SnapshotStore(copy.snapshots("linear"))
    snapshot = store.load(3)
    shutil.rmtree(copy.snapshots("linear") / "v00000003")
    manifest = dataclasses.replace(snapshot.manifest, position=position)
    store.publish(manifest, snapshot.tensors)
    assert f"linear: snapshot 3: built at {position}, {where}" in copy.problems()


def test_another_input_scaling_is_found(copy):
    replace(copy.snapshots("linear"), 2, x_mean=lambda mean: mean + 1e-6)
    assert [text for text in copy.problems() if text.startswith("linear: ")]


def test_a_bandit_without_a_snapshot_is_found(copy):
    shutil.rmtree(copy.snapshots("linear"))
    assert [text for text in copy.problems() if "no snapshot is left" in text]


def test_what_is_wrong_is_reported_and_exits_with_1(copy, tmp_path, capsys):
    copy.execute(f"UPDATE rewards SET reward = 7 WHERE key = {SEVEN}")
    figures = tmp_path / "figures.json"
    settings = Settings(data_dir=copy.root)
    assert main(settings, live=None, api_key=None, json_file=figures, quiet=True) == 1
    printed = capsys.readouterr().out
    assert "WRONG: linear: rewards: decision linear.7, pick 0: they make 7.0" in printed
    assert "WRONG: linear: ledger: decision linear.7, pick 0: its partial sums" in printed
    assert "verdict: 2 differences were found" in printed
    report = json.loads(figures.read_text())
    assert not report["ok"]
    assert [c["bandit"] for c in report["checks"] if not c["ok"]] == ["linear"]


def test_many_problems_are_counted_and_some_reported(copy):
    for number in range(105):
        copy.change(f"linear.{number}", value=7.0)
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
    for page in range(len(data) // size // 2, len(data) // size):  # not those of the schema
        data[page * size : page * size + 8] = b"\xff" * 8
    database.write_bytes(data)
    assert [text for text in copy.problems() if text.startswith("None: database: ")]
