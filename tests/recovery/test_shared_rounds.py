"""A server whose rounds are shared by two processes: what is published, and a rank that dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bandexa_core.snapshots.publishing import WORLD_SIZE
from bandexa_core.snapshots.store import SnapshotStore
from tests.fixtures.commands import bandexa

PEER = b"service.training.worker.peer"
LONG_ROUND = 10_000  # optimizer steps
# Ranks are started, not forked from a process that has imported torch: on a crowded machine that
# takes long enough without being nice.
SETTINGS = {"BANDEXA_TRAINER_PROCESSES": "2"}
WITHIN_S = 300.0


@pytest.fixture(scope="module")
def node(launch):
    return launch("ranks", environment=SETTINGS)


def peers(parent: int) -> list[int]:
    """Return the further ranks of a trainer: its children."""
    found = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in task.read_text().split():
            if PEER in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                found.append(int(child))
    return found


def a_peer(node) -> list[int]:
    try:
        return peers(node.trainer_pid())
    except OSError:  # one of both has ended just now
        return []


def trained_round(node, name: str) -> dict[str, Any]:
    """Train a bandit, and wait for ranks that start meanwhile."""
    answer = node.http.post(f"/bandits/{name}/train", params={"wait": "true"}, timeout=WITHIN_S)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def manifest(node, name: str, version: int):
    return SnapshotStore(node.data_dir / "snapshots" / node.state(name)["uid"]).manifest(version)


def test_rank_0_publishes_what_both_have_learned(node, rig):
    node.create("shared", rig.neural(training=rig.training(), replay={"backend": "disk"}))
    rig.feed(node, "shared", 0, 40)
    trained = trained_round(node, "shared")
    assert (trained["snapshot"], trained["metrics"]["rows"]) == (1, 40)
    assert manifest(node, "shared", 1).meta[WORLD_SIZE] == 2
    assert len(a_peer(node)) == 1
    assert {step.snapshot for step in rig.steps(node, "shared", 40, 20)} == {1}
    assert trained_round(node, "shared")["metrics"]["rows"] == 60
    found = bandexa("verify", node.data_dir, "--quiet", "--live", node.url)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_linear_bandit_needs_no_other_rank(node, rig):
    node.create("linear", rig.linear())
    rig.feed(node, "linear", 0, 20)
    trained = trained_round(node, "linear")
    assert trained["snapshot"] == 1


def test_a_rank_that_is_killed_in_a_round_starts_the_round_again(node, rig):
    node.create("killed", rig.neural(training=rig.training(optimizer_steps=LONG_ROUND)))
    rig.feed(node, "killed", 0, 40)
    node.call("POST", "/bandits/killed/train", wait="false")
    rig.poll(lambda: node.trainer()["phase"] == "optimizer", "a round under way")
    trainer, (peer,) = node.trainer_pid(), a_peer(node)
    os.kill(peer, signal.SIGKILL)
    node.call("PUT", "/bandits/killed", rig.neural(training=rig.training()))
    assert {step.status for step in rig.steps(node, "killed", 40, 10)} == {"applied"}
    # The round that was cut short was ordered again, perhaps as long: it does not matter here.
    rig.poll(lambda: not rig.is_running(trainer), "the end of the trainer that lost its rank")
    new = rig.poll(lambda: a_peer(node), "a new rank")
    os.kill(node.trainer_pid(), signal.SIGKILL)
    rig.poll(lambda: not any(rig.is_running(pid) for pid in new), "the end of the rank as well")
    assert trained_round(node, "killed")["trained"]
    assert manifest(node, "killed", node.state("killed")["snapshot"]).meta[WORLD_SIZE] == 2
    assert "rank 1 of 2 ended with -9" in node.log_text()


def test_files_of_all_ranks_go_with_their_bandit(node, rig):
    node.create("gone", rig.neural(training=rig.training(), replay={"backend": "disk"}))
    rig.feed(node, "gone", 0, 40)
    trained_round(node, "gone")
    uid = node.state("gone")["uid"]
    replays = [node.data_dir / "replay" / uid, node.data_dir / "replay" / "rank-1" / uid]
    assert all((root / "replay.json").exists() for root in replays)
    node.call("DELETE", "/bandits/gone")
    rig.poll(lambda: not any(root.exists() for root in replays), "the end of both replays")
