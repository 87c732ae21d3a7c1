"""Swaps under load: 16 clients, a round due every few rewards, the catalogue changing meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import SnapshotStore
from service.store.loading import load_at, newest_snapshot
from service.store.sqlite.reader import StoreReader
from tests.fixtures.transport import open_client

NUM_CLIENTS, NUM_SWAPS = 16, 6
NAME = "live"


@dataclass
class Run:
    """What the clients received, and the server's state before it was ended."""

    node: Any
    failures: list[str] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, tuple[int, int]] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    scores: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: (np.empty(0),) * 2)
    metrics: str = ""


def client(run: Run, rig, number: int, stop: threading.Event) -> None:
    with open_client(run.node.url, 30) as http:
        for count in range(100_000):
            if stop.wait(0.01):
                return
            name = f"{number}.{count}"
            context = rig.context_of(name, 0)
            body = {"bandit": NAME, "context": context, "decision_id": name}
            answer = http.post("/select", json=body)
            if answer.status_code != 200:
                run.failures.append(answer.text)
                continue
            chosen = answer.json()
            run.decisions[name] = (chosen["snapshot"], chosen["position"])
            reward = rig.reward_of(context, chosen["action"]["index"])
            answer = http.post("/reward", json={"decision_id": name, "reward": reward})
            if answer.status_code != 200 or answer.json()["status"] != "applied":
                run.failures.append(answer.text)
            run.rewards[name] = reward


@pytest.fixture(scope="module")
def run(launch, rig) -> Run:
    node = launch("live", keep_snapshots=4)
    run = Run(node)
    training = {"train_every": 16, "optimizer_steps": 5}
    replay = {"backend": "disk", "shard_size": 64, "flush_every": 16}
    node.create(NAME, rig.neural(training=training, replay=replay))
    stop = threading.Event()
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        clients = [pool.submit(client, run, rig, n, stop) for n in range(NUM_CLIENTS)]
        try:
            for number in range(NUM_SWAPS):
                before = node.state(NAME)["snapshot"]
                action = {"id": f"more{number % 4}", "features": [0.1 * number] * 4}
                node.call("PUT", f"/bandits/{NAME}/actions", {"actions": [action]})
                rig.poll(lambda v=before: node.state(NAME)["snapshot"] > v, "a swap")
        finally:
            stop.set()
        for future in clients:
            future.result(30)
    rig.poll(lambda: settled(node), "the last round's end")
    run.metrics = node.http.get("/metrics").text
    run.state, run.scores = node.state(NAME), node.score(NAME)
    assert node.stop() == 0
    return run


def settled(node) -> bool:
    bandit = node.call("GET", f"/bandits/{NAME}")
    return bandit["trainer"]["state"] == "idle" and not bandit["train_due"]


def offline(run: Run, use: Callable[..., Any]) -> Any:
    with StoreReader(run.node.data_dir / "bandexa.db") as reader:
        (record,) = reader.bandits()
        snapshots = SnapshotStore(run.node.data_dir / "snapshots" / record.uid)
        return use(reader, record, snapshots)


def scores_of(model: ServingModel, rig) -> tuple[np.ndarray, np.ndarray]:
    contexts = [np.array(rig.context_of("probe", n), np.float32) for n in range(5)]
    found = [model.policy.score(context, model.enabled_candidates()) for context in contexts]
    return np.stack([means for means, _ in found]), np.stack([stds for _, stds in found])


def test_no_request_fails_over_half_a_dozen_swaps(run):
    assert run.failures == []
    assert run.state["snapshot"] >= NUM_SWAPS
    assert len(run.rewards) == len(run.decisions) > NUM_SWAPS * 16
    (swaps,) = [line for line in run.metrics.splitlines() if line.startswith("bandexa_swaps_total")]
    assert float(swaps.split()[-1]) >= NUM_SWAPS
    assert len({snapshot for snapshot, _ in run.decisions.values()}) >= NUM_SWAPS // 2


def test_every_reward_has_exactly_one_learn_row(run, rig):
    named = "SELECT d.own_id, {} FROM {} AS t LEFT JOIN decisions AS d ON d.key = t.key"
    rows = rig.query(run.node, named.format("after", "log") + " WHERE kind = 1")
    assert Counter(name for name, _ in rows) == Counter(run.rewards.keys())
    assert dict(rows) == run.rewards
    assert run.state["num_learned"] == len(rows)
    stored = rig.query(run.node, named.format("status", "rewards"))
    assert Counter(stored) == Counter((name, "applied") for name in run.rewards)
    counted = rig.query(run.node, named.format("version, rewards", "ledger"))
    assert Counter(counted) == Counter((name, 1, 1) for name in run.rewards)


def test_positions_have_no_gap(run, rig):
    positions = [p for (p,) in rig.query(run.node, "SELECT position FROM log ORDER BY position")]
    assert positions == list(range(1, run.state["position"] + 1))


def test_a_decision_records_the_snapshot_and_position_it_was_drawn_at(run, rig):
    stored = rig.query(run.node, "SELECT own_id, snapshot, position FROM decisions")
    assert {name: (version, position) for name, version, position in stored} == run.decisions

    def check(reader, record, snapshots):
        for version in snapshots.versions():
            built_at = snapshots.manifest(version).position
            assert all(at >= built_at for named, at in run.decisions.values() if named == version)

    offline(run, check)


def test_the_served_posterior_is_the_newest_snapshot_and_its_tail(run, rig):
    def load(reader, record, snapshots):
        head = reader.head(record.key)
        snapshot = newest_snapshot(reader, record, snapshots, head)
        return load_at(reader, record, EncoderRegistry(), snapshots, snapshot, head)

    model = offline(run, load)
    assert (model.version, model.position) == (run.state["snapshot"], run.state["position"])
    means, stds = scores_of(model, rig)
    np.testing.assert_allclose(means, run.scores[0], rtol=1e-8, atol=0)
    np.testing.assert_allclose(stds, run.scores[1], rtol=1e-8, atol=0)


def test_an_older_snapshot_with_its_longer_tail_comes_to_the_same_position(run):
    def check(reader, record, snapshots):
        head = reader.head(record.key)
        for version in snapshots.versions():
            snapshot = snapshots.load(version)
            model = load_at(reader, record, EncoderRegistry(), snapshots, snapshot, head)
            assert model.position == run.state["position"]
            assert model.progress.num_learned == run.state["num_learned"]
            assert len(model.catalogue) == 9
        return len(snapshots.versions())

    assert offline(run, check) == 4


def test_a_trainer_of_an_earlier_opening_may_not_publish(run, tmp_path):
    def publish(reader, record, snapshots):
        configuration = {
            "database": str(run.node.data_dir / "bandexa.db"),
            "snapshots": str(run.node.data_dir / "snapshots"),
            "replays": str(tmp_path / "replay"), "epoch": reader.epoch() - 1, "keep_snapshots": 3,
            "keep_snapshots_h": 0, "keep_snapshots_bytes": 0,
            "encoders": {}, "weights": {}, "device": "cpu", "threads": 1, "niceness": 0,
            "log_format": "json", "log_level": "info",
        }  # fmt: skip
        order = {"do": "round", "uid": record.uid, "position": run.state["position"], "served": 0}
        before = snapshots.versions()
        with subprocess.Popen(
            [sys.executable, "-m", "service.training.worker"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as stale:  # fmt: skip
            assert stale.stdin is not None
            assert stale.stdout is not None
            stale.stdin.write(json.dumps(configuration) + "\n" + json.dumps(order) + "\n")
            stale.stdin.flush()
            events = [json.loads(stale.stdout.readline())]
            while events[-1]["event"] in ("ready", "heartbeat"):
                events.append(json.loads(stale.stdout.readline()))
        assert stale.returncode == 0, "it ends when its input does"
        assert (events[0]["event"], events[-1]["event"]) == ("ready", "failed")
        assert "another server has opened" in events[-1]["error"]
        assert snapshots.versions() == before
        assert snapshots.clean() == []

    offline(run, publish)
