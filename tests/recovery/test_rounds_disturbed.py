"""Rounds that are disturbed: the trainer is killed, the bandit deleted, a model imported.

The service serves on, starts the trainer again where it is gone, and goes on learning.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bandexa_core.snapshots.store import SnapshotStore

LONG_ROUND = 10_000  # optimizer steps: seconds, so that there is time to kill it


@pytest.fixture(scope="module")
def node(launch, rig):
    """One server; every test has new bandits and starts with an idle trainer."""
    return launch("disturbed")


def kill_trainer(node, rig) -> int:
    """Kill the trainer process; returns its pid."""
    pid: int = node.trainer_pid()
    os.kill(pid, signal.SIGKILL)
    rig.poll(lambda: not rig.is_running(pid), "the end of the killed trainer")
    return pid


def in_state(node, state: str) -> bool:
    return bool(node.trainer()["state"] == state)


def start_long_round(node, rig, name: str, steps: int = LONG_ROUND) -> None:
    """Create a bandit and have the trainer in the middle of a long round of it."""
    training = rig.training(optimizer_steps=steps)
    node.create(name, rig.neural(training=training))
    rig.feed(node, name, 0, 40)
    node.call("POST", f"/bandits/{name}/train", wait="false")
    rig.poll(lambda: in_state(node, "training"), "a round under way")


def shorten_rounds(node, rig, name: str) -> None:
    node.call("PUT", f"/bandits/{name}", rig.neural(training=rig.training()))


def test_it_is_killed_while_idle(node, rig):
    node.create("idle", rig.neural(training=rig.training()))
    rig.feed(node, "idle", 0, 30)
    assert node.train("idle")["snapshot"] == 1
    memory = Path(f"/proc/{node.trainer_pid()}/oom_score_adj").read_text()
    assert int(memory) == 1000, "without memory the kernel ends the trainer, not the server"
    old = kill_trainer(node, rig)
    seen = rig.steps(node, "idle", 30, 30)
    assert {step.status for step in seen} == {"applied"}
    new = rig.poll(lambda: node.trainer()["pid"], "a new trainer")
    assert new != old
    trained = node.train("idle")
    assert (trained["snapshot"], trained["metrics"]["rows"]) == (2, 60)
    assert node.state("idle")["snapshot"] == 2


def test_it_is_killed_in_a_round(node, rig):
    start_long_round(node, rig, "middle")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node.train, "middle")
        old = kill_trainer(node, rig)
        seen = rig.steps(node, "middle", 40, 30)
        shorten_rounds(node, rig, "middle")
        assert {(step.status, step.snapshot) for step in seen} == {("applied", 0)}
        kill_trainer(node, rig)  # the round that was cut short was ordered again, as long
        # It is ordered once more, short, and then the awaited one.
        trained = waiting.result(60)
    assert trained["trained"]
    assert trained["snapshot"] == node.state("middle")["snapshot"] >= 1
    assert node.trainer_pid() != old
    assert {step.status for step in rig.steps(node, "middle", 70, 10)} == {"applied"}
    assert node.train("middle")["metrics"]["rows"] == 80


@pytest.mark.slow
def test_it_is_killed_while_clients_and_rounds_go_on(node, rig):
    """Background rounds are due all the time; the kill costs no request and no learning."""
    training = {"train_every": 20, "optimizer_steps": 10}
    node.create("often", rig.neural(training=training))
    stop = threading.Event()

    def client(number: int) -> int:
        done = 0
        while not stop.wait(0.02):
            seen = rig.steps(node, "often", number * 1_000_000 + done, 10, train=False)
            assert {step.status for step in seen} == {"applied"}
            done += 10
        return done

    def snapshot() -> int:
        return int(node.state("often")["snapshot"])

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        try:
            rig.poll(lambda: snapshot() > 1, "swaps")
            kill_trainer(node, rig)
            before = snapshot()
            rig.poll(lambda: snapshot() > before + 1, "swaps after the kill")
        finally:
            stop.set()
        num = sum(future.result(30) for future in clients)
    assert node.state("often")["num_learned"] == num


def test_a_bandit_is_deleted_in_its_round(node, rig):
    for _ in range(2):  # its name and decision ids are free again each time
        start_long_round(node, rig, "deleted")
        uid = node.state("deleted")["uid"]
        node.call("DELETE", "/bandits/deleted")
    node.create("survivor", rig.neural(training=rig.training()))
    rig.feed(node, "survivor", 0, 20)
    before = node.trainer_pid()
    os.kill(before, signal.SIGKILL)  # the rounds of the deleted bandit need not be waited for
    assert node.train("survivor")["metrics"]["rows"] == 20
    assert not (node.data_dir / "snapshots" / uid / "v00000001").exists()


def test_a_model_is_imported_in_a_round(node, rig):
    """The round publishes a newer version of an older position; the import stays what is served."""
    node.create("exporter", rig.neural(training=rig.training()))
    rig.feed(node, "exporter", 0, 40)
    node.train("exporter")
    export = node.http.get("/bandits/exporter/snapshot").content
    start_long_round(node, rig, "importer", 800)
    answer = node.http.put("/bandits/importer/snapshot", content=export).json()
    assert in_state(node, "training"), "the import came in the middle of the round"
    rig.poll(lambda: in_state(node, "idle"), "the end of the round")
    state = node.state("importer")
    assert state["snapshot"] == answer["snapshot"] == 1
    np.testing.assert_array_equal(node.score("importer")[0], node.score("exporter")[0])
    trained = node.train("importer")
    snapshots = SnapshotStore(node.data_dir / "snapshots" / state["uid"])
    parents = {v: snapshots.manifest(v).parent for v in snapshots.versions()}
    assert (trained["snapshot"], parents) == (3, {1: None, 2: 0, 3: 1})


def test_it_is_gone_soon_after_its_server_was_killed_in_a_round(node, rig):
    start_long_round(node, rig, "orphan")
    pid = node.trainer_pid()
    assert in_state(node, "training")
    node.kill()
    rig.poll(lambda: not rig.is_running(pid), "the end of the orphaned trainer", 5.0)
    node.start()
    assert node.state("orphan")["snapshot"] == 0
    shorten_rounds(node, rig, "orphan")
    assert node.train("orphan")["metrics"]["rows"] == 40
