"""Damage between two starts or beneath a running server: it falls back or rebuilds, and serves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DISK = {"backend": "disk", "shard_size": 32, "flush_every": 8}
REPLAYS = ("deleted", "torn", "headless", "garbled")


def replay_of(node, name: str) -> Path:
    return Path(node.data_dir / "replay" / node.state(name)["uid"])


def tear(path: Path) -> None:
    """Cut the last bytes off a file, as a disk that lost them would."""
    os.truncate(path, path.stat().st_size - 7)


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def damage_replay(root: Path, how: str) -> None:
    if how == "deleted":
        shutil.rmtree(root)
    elif how == "torn":
        tear(min(root.glob("shard-*.rows")))
    elif how == "headless":
        (root / "replay.json").unlink()
    else:
        (root / "replay.json").write_text("{")


@pytest.fixture(scope="module")
def restarted(launch, rig) -> tuple[Any, dict[str, Any]]:
    """A server that was ended, damaged and started again; and its state before."""
    node = launch("damaged")
    on_demand = rig.neural(training=rig.training(), replay=DISK)
    for name in ("corrupt", "head-only", *REPLAYS):
        node.create(name, on_demand)
        for first in (0, 40):
            rig.feed(node, name, first, 40)
            node.train(name)
        rig.feed(node, name, 80, 10)
    for kind, spec in (("linear", rig.linear()), ("neural", on_demand)):
        source, target = f"{kind}-source", f"{kind}-target"
        for name in (source, target):
            node.create(name, spec)
        rig.feed(node, source, 0, 40)
        node.train(source)
        rig.feed(node, source, 40, 10)
        export = node.http.get(f"/bandits/{source}/snapshot")
        rig.feed(node, target, 0, 5)
        answer = node.http.put(f"/bandits/{target}/snapshot", content=export.content)
        assert answer.is_success, answer.text
        np.testing.assert_array_equal(node.score(target)[0], node.score(source)[0])
        rig.feed(node, target, 5, 10)
    node.create("half-deleted", on_demand)
    rig.feed(node, "half-deleted", 0, 3)
    names = [bandit["name"] for bandit in node.call("GET", "/bandits")["bandits"]]
    before: dict[str, Any] = {name: (node.state(name), node.score(name)) for name in names}
    snapshots = node.data_dir / "snapshots"
    roots = {name: replay_of(node, name) for name in REPLAYS}
    assert node.stop() == 0
    uid = before["corrupt"][0]["uid"]
    flip(snapshots / uid / "v00000002" / "model.safetensors")
    uid = before["head-only"][0]["uid"]
    flip(snapshots / uid / "v00000002" / "training.safetensors")
    for how, root in roots.items():
        damage_replay(root, how)
    rig.query(node, "UPDATE bandits SET deleted = 1.0 WHERE name = 'half-deleted'")
    node.start()
    return node, before


def test_a_corrupt_snapshot_is_passed_over_for_the_one_before(restarted, rig):
    node, before = restarted
    state = node.state("corrupt")
    assert (before["corrupt"][0]["snapshot"], state["snapshot"]) == (2, 1)
    assert state["position"] == before["corrupt"][0]["position"]
    assert state["num_learned"] == 90
    assert np.isfinite(node.score("corrupt")[0]).all()
    assert {s.status for s in rig.steps(node, "corrupt", 90, 10)} == {"applied"}
    assert "snapshot 2 is not used" in node.log.read_text()
    trained = node.train("corrupt")
    assert (trained["snapshot"], trained["metrics"]["rows"]) == (3, 100)
    assert node.state("corrupt")["snapshot"] == 3


def test_a_snapshot_that_serves_but_cannot_be_trained_on_is_still_served(restarted):
    node, before = restarted
    assert node.state("head-only")["snapshot"] == 2
    np.testing.assert_array_equal(node.score("head-only")[0], before["head-only"][1][0])
    assert node.train("head-only")["snapshot"] == 3


def test_a_deletion_that_was_cut_short_is_finished(restarted, rig):
    node, before = restarted
    uid = before["half-deleted"][0]["uid"]
    assert not (node.data_dir / "snapshots" / uid).exists()
    node.create("half-deleted", rig.neural(training=rig.training(), replay=DISK))
    assert node.state("half-deleted")["uid"] != uid
    rig.feed(node, "half-deleted", 0, 3)


@pytest.mark.few(2)
@pytest.mark.parametrize("how", REPLAYS)
def test_a_damaged_replay_is_rebuilt_from_the_log(restarted, rig, how):
    node, before = restarted
    assert node.state(how) == before[how][0]
    np.testing.assert_array_equal(node.score(how)[0], before[how][1][0])
    rig.feed(node, how, 90, 5)
    trained = node.train(how)
    assert (trained["snapshot"], trained["metrics"]["rows"]) == (3, 95)


@pytest.mark.parametrize("how", ["deleted", "torn"])
def test_a_replay_damaged_beneath_the_trainer_is_rebuilt(restarted, rig, how):
    node, _ = restarted
    name = f"live-{how}"
    node.create(name, rig.neural(training=rig.training(), replay=DISK | {"cache_shards": 1}))
    rig.feed(node, name, 0, 60)
    assert node.train(name)["metrics"]["rows"] == 60
    damage_replay(replay_of(node, name), how)
    rig.feed(node, name, 60, 60)
    assert node.train(name)["metrics"]["rows"] == 120
    assert node.trainer()["state"] == "idle"


@pytest.mark.parametrize("name", ["linear-target", "neural-target"])
def test_an_imported_model_is_served_again_after_a_restart(restarted, rig, name):
    node, before = restarted
    assert node.state(name) == before[name][0]
    np.testing.assert_allclose(node.score(name)[0], before[name][1][0], rtol=1e-9, atol=0)
    assert {s.status for s in rig.steps(node, name, 15, 5)} == {"applied"}
    position = node.state(name)["position"]
    trained = node.train(name)
    assert trained["position"] == position
    assert node.state(name)["snapshot"] == trained["snapshot"]
