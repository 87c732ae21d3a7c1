"""Going back to an older snapshot: its exact state, at a new position of the log."""

from __future__ import annotations

from typing import Any

import pytest

MLP = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}}
SHAPES: dict[str, dict[str, Any]] = {
    "linear": {},
    "per_action": {"encoder": {"name": "per_action"}},
    "mlp": {"policy": "neural_linear_ts", "encoder": MLP},
    "forgetting": {"forgetting": {"half_life": 40}},
}
TRAINING = {"mode": "lockstep", "optimizer_steps": 4}
PROBE = [0.5, -1.0]


def versions(api, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.call("GET", f"/bandits/{name}/snapshots")["snapshots"]
    return found


def learn(api, name: str, rows: int, reward: float) -> None:
    for number in range(rows):
        api.teach(name, [number / 5, 1 - number / 3], "xy"[number % 2], reward)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_came_after_the_snapshot_leaves_the_model(api, shape: str) -> None:
    name = api.two_actions(**SHAPES[shape], training=TRAINING)
    learn(api, name, 6, 1.0)
    good = api.train(name)["snapshot"]
    means = api.means(name, PROBE)
    learn(api, name, 6, -5.0)
    bad = api.train(name)["snapshot"]
    assert api.means(name, PROBE) != means
    before = api.state(name)

    answer = api.call("POST", f"/bandits/{name}/rollback", {"version": good})
    assert answer == {"snapshot": bad + 1, "position": before["position"] + 1}
    assert api.means(name, PROBE) == means
    state = api.state(name)
    assert (state["snapshot"], state["num_learned"]) == (bad + 1, 6)
    assert [row["version"] for row in versions(api, name)][-1] == bad + 1

    learn(api, name, 1, 2.0)  # and it learns on from there
    assert api.means(name, PROBE) != means


def test_a_restart_serves_what_was_rolled_back_to(start_server, api_of) -> None:
    server = start_server()
    with server.client() as client:
        api = api_of(client)
        name = api.two_actions(training=TRAINING)
        learn(api, name, 4, 1.0)
        api.call("POST", f"/bandits/{name}/rollback", {"version": 0})
        learn(api, name, 3, 0.5)
        means, position = api.means(name, PROBE), api.state(name)["position"]
    server.kill()
    with start_server(server.data_dir).client() as client:
        api = api_of(client)
        assert api.means(name, PROBE) == means
        assert api.state(name)["position"] == position


def test_actions_added_since_remain(api) -> None:
    name = api.two_actions(encoder={"name": "per_action"}, action_dim=0)
    learn(api, name, 4, 1.0)
    means = api.means(name, PROBE)
    version = api.train(name)["snapshot"]
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["z"]})
    api.teach(name, [1, 1], "z", 3.0)
    api.call("POST", f"/bandits/{name}/rollback", {"version": version})
    assert api.means(name, PROBE) == pytest.approx([*means, 0.0], rel=1e-9)


def test_there_has_to_be_such_a_snapshot(api, problem) -> None:
    name = api.two_actions()
    before = api.state(name)
    path = f"/bandits/{name}/rollback"
    problem(api.http.post(path, json={"version": 7}), 404, "unknown-snapshot")
    problem(api.http.post(path, json={"version": -1}), 422, "invalid-request", "version")
    problem(api.http.post(path, json={}), 422, "invalid-request", "version")
    nowhere = f"/bandits/{api.fresh()}"
    problem(api.http.post(f"{nowhere}/rollback", json={"version": 0}), 404, "unknown-bandit")
    problem(api.http.get(f"{nowhere}/snapshots"), 404, "unknown-bandit")
    assert api.state(name) == before


def test_snapshots_are_listed_with_what_they_were_built_from(api) -> None:
    name = api.two_actions(policy="neural_linear_ts", encoder=MLP, training=TRAINING)
    learn(api, name, 5, 1.0)
    api.train(name)
    first, second = versions(api, name)
    assert (first["version"], first["parent"], first["num_learned"]) == (0, None, 0)
    assert (second["version"], second["parent"], second["num_learned"]) == (1, 0, 5)
    assert second["position"] == api.state(name)["position"]
    assert second["metrics"]["optimizer_steps"] == 4
    assert second["bytes"] > 0
    assert second["created_at"] >= first["created_at"]


def test_the_catalogue_is_listed_in_slot_order(api, problem) -> None:
    name = api.bandit(["x", "y", "z"], [[1, 0], [0, 1], [0.5, 2]])
    api.call("DELETE", f"/bandits/{name}/actions/y")
    answer = api.call("GET", f"/bandits/{name}/actions")
    assert answer["total"] == 3
    assert answer["actions"] == [
        {"id": "x", "index": 0, "enabled": True, "features": [1, 0]},
        {"id": "y", "index": 1, "enabled": False, "features": [0, 1]},
        {"id": "z", "index": 2, "enabled": True, "features": [0.5, 2]},
    ]
    part = api.call("GET", f"/bandits/{name}/actions?offset=1&limit=1")
    assert [action["id"] for action in part["actions"]] == ["y"]
    assert api.call("GET", f"/bandits/{name}/actions?offset=9")["actions"] == []
    problem(api.http.get(f"/bandits/{name}/actions?limit=0"), 422, "invalid-request", "limit")
