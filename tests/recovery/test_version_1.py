"""A data directory that was written with schema version 1 is served, and goes on learning.

It lies in `data/version-1`: a linear bandit with three actions, 24 decisions, 20 rewards, and what
its server answered in `version-1.json`.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from bandexa_core.ids import LogPosition
from service.store import StoreReader
from service.store.schema import SCHEMA_VERSION, TABLES

DATA = Path(__file__).parent / "data"


def schema(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return sorted((kind, name, " ".join(sql.split())) for kind, name, sql in rows)


def test_a_store_of_version_1_is_migrated_and_served(launch, rig, tmp_path):
    expected = json.loads((DATA / "version-1.json").read_text())
    node = launch("old")
    assert node.stop() == 0
    shutil.rmtree(node.data_dir)
    shutil.copytree(DATA / "version-1", node.data_dir)
    node.start()
    state = node.call("GET", "/bandits/offers")
    assert (state["num_learned"], state["position"]) == (20, expected["position"])
    found = node.call("POST", "/bandits/offers/score", {"context": [0.5, -1.0, 2.0]})
    for row, before in zip(found["scores"], expected["scores"]["scores"], strict=True):
        assert row["id"] == before["id"]
        assert abs(row["mean"] - before["mean"]) < 1e-12
        assert abs(row["std"] - before["std"]) < 1e-12
    statuses = [
        node.call("POST", "/reward", {"decision_id": name, "reward": value})["status"]
        for name, value in [*expected["values"].items(), ("d20", 0.5)]
    ]
    assert statuses == ["duplicate"] * 20 + ["applied"]
    windowed = rig.linear(rewards={"reward_window_s": 3600.0})
    node.create("windowed", windowed)
    rig.feed(node, "windowed", 0, 3)
    assert node.stop() == 0
    with StoreReader(node.data_dir / "bandexa.db") as reader:
        offers = next(record for record in reader.bandits() if record.name == "offers")
        assert reader.count_learned(offers.key, LogPosition(0), LogPosition(99)) == 21
    with closing(sqlite3.connect(node.data_dir / "bandexa.db")) as migrated:
        assert migrated.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        with closing(sqlite3.connect(tmp_path / "new.db")) as fresh:
            fresh.executescript(TABLES)
            assert schema(migrated) == schema(fresh)
