"""Data directories that older schema versions wrote are served, and go on learning.

They lie in `data`, with what their servers answered. Version 1: a linear bandit with three actions,
24 decisions and 20 rewards. Version 2: the same size, with reward windows, corrections and a
decision that was activated after its reward. Version 3: a linear bandit with features of actions.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bandexa_core.ids import LogPosition
from service.store.sqlite.reader import StoreReader
from service.store.sqlite.schema import SCHEMA_VERSION, TABLES

DATA = Path(__file__).parent / "data"


def schema(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return sorted((kind, name, " ".join(sql.split())) for kind, name, sql in rows)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_store_of_an_older_version_is_migrated_and_served(launch, rig, tmp_path, version):
    expected = json.loads((DATA / f"version-{version}.json").read_text())
    num_learned = expected["num_learned"]
    node = launch("old", content=DATA / f"version-{version}")
    state = node.call("GET", "/bandits/offers")
    assert (state["num_learned"], state["position"]) == (num_learned, expected["position"])
    found = node.call("POST", "/bandits/offers/score", {"context": [0.5, -1.0, 2.0]})
    for row, before in zip(found["scores"], expected["scores"]["scores"], strict=True):
        assert row["id"] == before["id"]
        assert abs(row["mean"] - before["mean"]) < 1e-12
        assert abs(row["std"] - before["std"]) < 1e-12
    statuses = [
        node.call("POST", "/reward", {"decision_id": name, "reward": value})["status"]
        for name, value in [*expected["values"].items(), ("d20", 0.5)]
    ]
    assert statuses == ["duplicate"] * num_learned + ["applied"]
    windowed = rig.linear(rewards={"reward_window_s": 3600.0})
    node.create("windowed", windowed)
    rig.feed(node, "windowed", 0, 3)
    assert node.stop() == 0
    with StoreReader(node.data_dir / "bandexa.db") as reader:
        offers = next(record for record in reader.bandits() if record.name == "offers")
        counted = reader.count_learned(offers.key, LogPosition(0), LogPosition(99))
        assert counted == num_learned + 1
    with closing(sqlite3.connect(node.data_dir / "bandexa.db")) as migrated:
        assert migrated.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        latest = "SELECT o.latest = max(l.position) FROM outcomes AS o JOIN log AS l"
        joined = f"{latest} USING (decision_id, item) GROUP BY o.decision_id, o.item"
        assert set(migrated.execute(joined)) == {(1,)}
        with closing(sqlite3.connect(tmp_path / "new.db")) as fresh:
            fresh.executescript(TABLES)
            assert schema(migrated) == schema(fresh)
