"""Changes of configurations under load and across kills: no request fails, nothing counts twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.fixtures.commands import bandexa
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll

NUM_CLIENTS = 4
LONG = 100_000  # optimizer steps of a round that outlasts what a test does meanwhile
TWO_TOWER = {"name": "two_tower", "params": {"tower_dim": 4}}


def verified(node) -> None:
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok" in done.stdout


def changed(node, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Change a bandit and wait until that is served."""
    state: dict[str, Any] = node.call("PUT", f"/bandits/{name}", spec, wait="true")
    return state


def client(node, rig, number: int, stop: threading.Event, failures: list[str]) -> int:
    """Select and reward until `stop`; returns how often."""
    with open_client(node.url) as http:
        for count in range(100_000):
            if stop.is_set():
                return count
            name = f"load.{number}.{count}"
            context = rig.context_of(name, 0)
            body = {"bandit": "load", "context": context, "decision_id": name}
            answer = http.post("/select", json=body)
            if answer.status_code != 200:
                failures.append(answer.text)
                continue
            reward = rig.reward_of(context, answer.json()["action"]["index"])
            for expected in ("applied", "duplicate"):
                answer = http.post("/reward", json={"decision_id": name, "reward": reward})
                if answer.status_code != 200 or answer.json()["status"] != expected:
                    failures.append(answer.text)
    return 100_000


@pytest.mark.slow
def test_every_part_changes_under_load(launch, rig) -> None:
    node = launch("load")
    short = rig.training(optimizer_steps=10)
    linear = rig.linear(training=short, reward_range=[-1, 1])
    neural = rig.neural(training=short)
    parts = [
        linear | {"posterior": {"prior_var": 2.0}},
        linear | {"reward_range": [-2, 2]},
        linear | {"reward_range": None},
        linear | {"encoder": {"name": "bilinear"}},
        neural,
        neural | {"encoder": TWO_TOWER, "forgetting": {"half_life": 500}},
        linear | {"policy": "uniform"},
        linear | {"rewards": {"aggregate": "last"}, "seed": 77},
        linear,
    ]
    node.create("load", linear)
    stop, failures = threading.Event(), list[str]()
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        running = [pool.submit(client, node, rig, n, stop, failures) for n in range(NUM_CLIENTS)]
        try:
            for spec in parts:
                state = changed(node, "load", spec)
                assert state["rebuild"]["state"] == "done"
                assert state["spec"]["policy"] == spec["policy"]
        finally:
            stop.set()
        num = sum(each.result() for each in running)
    assert failures == []
    state = node.state("load")
    assert state["num_learned"] == num
    assert state["spec"]["encoder"]["name"] == "concat"
    verified(node)
    before = node.state("load")
    scores = node.score("load")
    node.kill()
    node.start()
    assert node.state("load") == before
    assert (scores[0] == node.score("load")[0]).all()
    explained = node.call("GET", "/bandits/load/decisions/load.0.0")
    assert explained["decision_id"] == "load.0.0"


@pytest.mark.parametrize("ended", ["server", "trainer"])
def test_a_change_that_is_killed_is_finished(launch, rig, ended: str) -> None:
    node = launch(f"killed-{ended}")
    name = "killed"
    linear = rig.linear(training=rig.training())
    node.create(name, linear)
    rig.feed(node, name, 0, 60)
    slow = rig.neural(training=rig.training(optimizer_steps=LONG))
    state = node.call("PUT", f"/bandits/{name}", slow)
    assert state["rebuild"]["state"] in ("pending", "building")
    assert state["spec"]["policy"] == "linear_ts"
    poll(lambda: node.state(name)["rebuild"]["state"] == "building", "the round")
    rig.feed(node, name, 60, 20)
    if ended == "server":
        node.kill()
        node.start()
        assert node.state(name)["rebuild"]["state"] in ("pending", "building")
    else:
        node.kill_trainer()
    assert node.state(name)["num_learned"] == 80
    rig.feed(node, name, 80, 20)
    # The steps of a round hold at once; the attempt under way is ended, and the next one is short.
    node.call("PUT", f"/bandits/{name}", rig.neural(training=rig.training(optimizer_steps=5)))
    node.kill_trainer()
    poll(lambda: node.state(name)["rebuild"]["state"] == "done", "the change")
    state = node.state(name)
    assert (state["spec"]["policy"], state["num_learned"]) == ("neural_linear_ts", 100)
    rig.feed(node, name, 100, 10)
    trained = node.train(name)
    assert trained["metrics"]["rows"] == 110
    verified(node)


def test_a_change_can_be_taken_back_and_replaced_while_it_is_learned(launch, rig) -> None:
    node = launch("replaced")
    name = "replaced"
    linear = rig.linear(training=rig.training())
    node.create(name, linear)
    rig.feed(node, name, 0, 60)
    slow = rig.neural(training=rig.training(optimizer_steps=LONG))
    node.call("PUT", f"/bandits/{name}", slow)
    poll(lambda: node.state(name)["rebuild"]["state"] == "building", "the round")
    # What is said meanwhile of other keys neither takes it back, nor forgets what was said before.
    node.call("PUT", f"/bandits/{name}/mode", {"mode": "learn", "serve": rig.action_ids[0]})
    node.call("PUT", f"/bandits/{name}", slow | {"segment": None})
    done = bandexa(
        "actions", "limit", name, rig.action_ids[1], "--max-share", "0.5", "--url", node.url
    )
    assert done.returncode == 0, done.stderr
    state = node.state(name)
    assert state["rebuild"]["state"] == "building"
    assert state["rebuild"]["spec"]["policy"] == "neural_linear_ts"
    for spec in (state["spec"], state["rebuild"]["spec"]):
        assert (spec["serve"], spec["limits"][rig.action_ids[1]]["max_share"]) == (
            rig.action_ids[0],
            0.5,
        )
    node.call("PUT", f"/bandits/{name}/mode", {"mode": "learn"})
    assert node.call("PUT", f"/bandits/{name}", linear)["rebuild"] is None
    node.kill_trainer()
    state = changed(node, name, linear | {"posterior": {"prior_var": 3.0}})
    assert state["rebuild"]["keys"] == ["posterior.prior_var"]
    assert state["spec"]["policy"] == "linear_ts"
    node.kill()
    node.start()
    assert node.state(name)["spec"] == state["spec"]
    verified(node)


def test_a_kill_before_the_switch_is_committed_leaves_the_change_pending(launch, rig) -> None:
    """The snapshot is on disk and the row that switches to it is not: it is learned once more."""
    node = launch("unswitched")
    name = "unswitched"
    linear = rig.linear(training=rig.training())
    node.create(name, linear)
    rig.feed(node, name, 0, 50)
    wider = linear | {"posterior": {"prior_var": 5.0}}
    state = changed(node, name, wider)
    scores = node.score(name)
    node.kill()
    switch = state["rebuild"]["served_from"]
    assert rig.query(node, "SELECT max(position) FROM log") == [(switch,)]
    rig.query(node, "DELETE FROM log WHERE position = ?", switch)
    node.start()
    poll(lambda: node.state(name)["rebuild"]["state"] == "done", "the change")
    again = node.state(name)
    assert (again["spec"], again["num_learned"]) == (state["spec"], 50)
    assert again["snapshot"] > state["snapshot"]
    assert np.allclose(node.score(name), scores, rtol=1e-9)
    verified(node)


def test_an_import_waits_for_a_change_and_old_snapshots_of_another_kind_are_refused(
    launch, rig
) -> None:
    node = launch("imported")
    name = "imported"
    linear = rig.linear(training=rig.training())
    node.create(name, linear)
    rig.feed(node, name, 0, 40)
    trained = node.train(name)
    slow = rig.neural(training=rig.training(optimizer_steps=LONG))
    node.call("PUT", f"/bandits/{name}", slow)
    assert trained["snapshot"] == 1
    rollback = f"/bandits/{name}/snapshot"
    exported = node.http.get(rollback).content
    refused = node.http.put(rollback, content=exported)
    assert refused.status_code == 409, refused.text
    assert "another configuration is being learned" in refused.json()["detail"]
    assert node.call("PUT", f"/bandits/{name}", linear)["rebuild"] is None
    assert node.http.put(rollback, content=exported).status_code == 200
    node.kill_trainer()
    state = changed(node, name, rig.neural(training=rig.training(optimizer_steps=5)))
    assert state["spec"]["policy"] == "neural_linear_ts"
    other = node.http.put(rollback, content=exported)
    assert (other.status_code, "another shape" in other.json()["detail"]) == (409, True)
    rig.feed(node, name, 40, 10)
    verified(node)


def test_windows_and_defaults_hold_for_decisions_from_their_change_on(launch, rig) -> None:
    node = launch("windows")
    name = "windows"
    linear = rig.linear(training=rig.training())
    node.create(name, linear)
    context = rig.context_of(name, 0)

    def select(decision_id: str) -> None:
        body = {"bandit": name, "context": context, "decision_id": decision_id}
        node.call("POST", "/select", body)

    def reward(decision_id: str) -> str:
        body = {"decision_id": decision_id, "reward": 1.0}
        return str(node.call("POST", "/reward", body)["status"])

    select("before")
    windowed = linear | {"rewards": {"reward_window_s": 1, "default_reward": 0.5}}
    state = node.call("PUT", f"/bandits/{name}", windowed)
    assert state["spec"]["rewards"]["maturity"] == "auto"
    for decision_id in ("silent", "told"):
        select(decision_id)
    assert reward("told") == "pending"
    poll(lambda: node.state(name)["num_learned"] == 2, "the close of both windows")
    node.call("PUT", f"/bandits/{name}", linear | {"rewards": {"maturity": "report"}})
    select("after")
    node.kill()
    node.start()
    assert [reward(each) for each in ("before", "after", "silent")] == [
        "applied",
        "applied",
        "late",
    ]
    found = [
        node.call("GET", f"/bandits/{name}/decisions/{each}")["chosen"][0]["value"]
        for each in ("before", "silent", "told", "after")
    ]
    assert found == [1.0, 0.5, 1.0, 1.0]
    verified(node)


def test_a_network_after_a_change_is_that_of_a_round_on_the_same_rows(launch, rig) -> None:
    """Two servers have a bandit of the same name, and so of the same uid and seeds."""
    neural = rig.neural(training=rig.training(optimizer_steps=30))
    nodes = launch("from-linear"), launch("from-the-start")
    for node, spec in zip(nodes, (rig.linear(training=rig.training()), neural), strict=True):
        node.create("same", spec)
        selects = [
            {"bandit": "same", "context": rig.context_of("same", n), "candidates": [f"a{n % 5}"],
             "decision_id": f"same.{n}"}
            for n in range(60)
        ]  # fmt: skip
        node.call("POST", "/select/batch", {"items": selects})
        rewards = [
            {"decision_id": f"same.{n}", "reward": rig.reward_of(rig.context_of("same", n), n % 5)}
            for n in range(60)
        ]
        node.call("POST", "/reward/batch", {"items": rewards})
    changed(nodes[0], "same", neural)
    nodes[1].train("same")
    for found, expected in zip(nodes[0].score("same"), nodes[1].score("same"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_change_behind_the_first_reward_verifies(launch) -> None:
    """Of one row no scaling of inputs is known yet, and the rebuilt model has none either."""
    node = launch("early")
    spec = {"policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"}}
    node.call("PUT", "/bandits/early", spec)
    node.call("PUT", "/bandits/early/actions", {"actions": [{"id": "x"}, {"id": "y"}]})
    select = {"bandit": "early", "context": [0.5, 1.0], "decision_id": "first"}
    node.call("POST", "/select", select)
    node.call("POST", "/reward", {"decision_id": "first", "reward": 0.5})
    assert changed(node, "early", spec | {"reward_range": [0, 1]})["snapshot"] == 1
    verified(node)
