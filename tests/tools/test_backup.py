"""A backup that is taken while clients select and reward, and a server that goes on from it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.commands import bandexa

NAMES = ("linear", "disjoint", "neural", "forgetting")
CLIENTS = 4


class Load:
    """Clients that select and reward until they are stopped, and what was acknowledged."""

    def __init__(self, node, rig) -> None:
        self.node, self.rig = node, rig
        self.acknowledged: list[str] = []
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, client: int) -> None:
        name = NAMES[client]
        number = 1000
        try:
            while not self._stop.wait(0.02):
                self.rig.feed(self.node, name, number, 4)
                self.acknowledged += [f"{name}.{n}" for n in range(number, number + 4)]
                number += 4
                if number % 80 == 0:  # snapshots are published, and pruned, meanwhile
                    self.node.train(name)
        except BaseException as error:  # the test checks it
            self.failures.append(error)
            raise


@pytest.fixture(scope="module")
def backed_up(launch, rig, tmp_path_factory) -> tuple[Any, Path, list[str], list[str]]:
    """A server under load, a backup of it, and what was acknowledged before and after it."""
    node = launch("origin")
    specs = {
        "linear": rig.linear(),
        "disjoint": rig.disjoint(),
        "neural": rig.neural(replay={"backend": "disk", "flush_every": 16}),
        "forgetting": rig.linear(forgetting={"half_life": 64}),
    }
    for name, spec in specs.items():
        node.create(name, spec)
        rig.feed(node, name, 0, 40)
        node.train(name)
    export = node.http.get("/bandits/linear/snapshot")
    node.create("imported", rig.linear())
    assert node.http.put("/bandits/imported/snapshot", content=export.content).is_success
    node.create("gone", rig.linear())
    node.call("DELETE", "/bandits/gone")
    dest = tmp_path_factory.mktemp("backup") / "copy"
    with Load(node, rig) as load:
        rig.poll(lambda: len(load.acknowledged) > 100, "load")
        before = list(load.acknowledged)
        done = bandexa("backup", node.data_dir, dest)
        after = list(load.acknowledged)
        assert load.failures == []
    assert done.returncode == 0, done.stderr
    assert len(after) > len(before), "clients went on meanwhile"
    return node, dest, before, after


@pytest.fixture(scope="module")
def restored(backed_up, launch, rig):
    """A server on the backup."""
    _, dest, _, _ = backed_up
    return launch("restored", content=dest)


def test_a_backup_verifies(backed_up):
    _, dest, _, _ = backed_up
    done = bandexa("verify", dest, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok" in done.stdout
    assert sorted(path.name for path in dest.iterdir()) == [
        "backup.json", "bandexa.db", "snapshots",
    ]  # fmt: skip


def test_the_server_that_was_copied_still_verifies(backed_up):
    node, _, _, _ = backed_up
    done = bandexa("verify", node.data_dir, "--live", str(node.http.base_url), "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_marker_states_what_is_in_it(backed_up):
    _, dest, _, _ = backed_up
    marker = json.loads((dest / "backup.json").read_text())
    assert sorted(marker["bandits"]) == sorted([*NAMES, "imported"])
    for bandit in marker["bandits"].values():
        directory = dest / "snapshots" / bandit["uid"]
        versions = sorted(int(path.name[1:]) for path in directory.iterdir())
        assert versions == bandit["snapshots"] != []


def test_every_reward_acknowledged_before_the_backup_is_served_from_it(backed_up, restored):
    _, _, before, _ = backed_up
    assert len(before) > 100
    marker = json.loads((restored.data_dir / "backup.json").read_text())
    for name in NAMES:
        assert restored.state(name)["position"] == marker["bandits"][name]["position"]
    items = [{"decision_id": decision_id, "reward": 7.0} for decision_id in before]
    answers = []
    for first in range(0, len(items), 1000):
        body = {"items": items[first : first + 1000]}
        answers += restored.call("POST", "/reward/batch", body)["items"]
    assert {item["answer"]["status"] for item in answers} == {"ignored"}, "each has its reward"


def test_the_server_on_the_backup_learns_and_trains_on(restored, rig):
    for name in NAMES:
        state = restored.state(name)
        rig.feed(restored, name, 100_000, 10)
        assert restored.state(name)["position"] == state["position"] + 10
        restored.train(name)
    done = bandexa("verify", restored.data_dir, "--live", str(restored.http.base_url), "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_place_that_is_not_empty_is_refused(backed_up, tmp_path):
    node, _, _, _ = backed_up
    (tmp_path / "mine").write_text("keep me")
    done = bandexa("backup", node.data_dir, tmp_path)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_no_data_directory_is_refused(tmp_path):
    done = bandexa("backup", tmp_path, tmp_path / "copy")
    assert done.returncode == 2
    assert "holds no bandexa.db" in done.stderr
    assert not (tmp_path / "copy").exists()


def test_after_a_rollback_the_copy_has_every_snapshot_of_the_server(launch, rig, tmp_path):
    """The bandit can go back again, and older decisions are explained, from the copy too."""
    node = launch("rolled")
    node.create("linear", rig.linear())
    for first in (0, 10):
        rig.feed(node, "linear", first, 10)
        node.train("linear")
    node.call("POST", "/bandits/linear/rollback", {"version": 1})
    rig.feed(node, "linear", 20, 5)
    assert bandexa("backup", node.data_dir, tmp_path / "copy").returncode == 0
    copy = launch("copied", content=tmp_path / "copy")
    assert copy.state("linear") == node.state("linear")
    listed = [each.call("GET", "/bandits/linear/snapshots")["snapshots"] for each in (node, copy)]
    assert listed[1] == listed[0]
    assert len(listed[0]) == 4
    for number in (5, 15, 22):
        explained = copy.call("GET", f"/bandits/linear/decisions/linear.{number}")
        assert explained["explained"] == "yes", number
        assert explained["reproduced"]["action"]
    copy.call("POST", "/bandits/linear/rollback", {"version": 2})
    done = bandexa("verify", copy.data_dir, "--live", str(copy.http.base_url), "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_directory_of_an_older_release_is_copied_as_it_is(launch, tmp_path):
    """The copy opens in the older release, and in this one."""
    saved = Path(__file__).parents[1] / "recovery" / "data" / "0.2.0-reports"
    answers = json.loads(saved.with_name("0.2.0-reports.json").read_text())
    shutil.copytree(saved, tmp_path / "old")
    copy = tmp_path / "copy"
    done = bandexa("backup", tmp_path / "old", copy)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in copy.iterdir()) == [
        "backup.json", "bandexa.db", "snapshots",
    ]  # fmt: skip
    for folder in (tmp_path / "old", copy):
        with closing(sqlite3.connect(folder / "bandexa.db")) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (4,)
    done = bandexa("verify", copy, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a migrated copy was verified" in done.stdout
    node = launch("older", content=copy)
    for name, before in answers["bandits"].items():
        assert node.call("GET", f"/bandits/{name}")["position"] == before["position"]
