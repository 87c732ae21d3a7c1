"""POST /reward: what becomes of a reward, and which ones are refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


def test_the_first_value_is_applied_and_the_same_again_is_a_duplicate(api) -> None:
    name = api.two_actions()
    decision_id = api.select(name, [1, 2])["decision_id"]
    position = api.state(name)["position"]
    assert api.reward(decision_id, 0.5) == {"status": "applied", "train_due": False}
    state, means = api.state(name), api.means(name, [1, 2])
    assert state["num_learned"] == 1
    assert state["position"] == position + 1
    assert api.reward(decision_id, 0.5, reward_id="r-1")["status"] == "duplicate"
    assert api.reward(decision_id, 0.75)["status"] == "ignored"
    assert api.state(name) == state
    assert api.means(name, [1, 2]) == means


def test_a_reward_moves_the_score_towards_it(api) -> None:
    name = api.two_actions()
    before = api.scores(name, [1, 2])["scores"][0]
    api.teach(name, [1, 2], "x", 1.0)
    after = api.scores(name, [1, 2])["scores"][0]
    assert before["mean"] < after["mean"] < 1.0
    assert after["std"] < before["std"]


def test_concurrent_rewards_of_one_decision_are_learned_once(api) -> None:
    name = api.two_actions()
    decision_id = api.select(name, [1, 2])["decision_id"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.reward(decision_id, 1.0), range(16)))
    statuses = sorted(answer["status"] for answer in answers)
    assert statuses == ["applied"] + ["duplicate"] * 15
    assert api.state(name)["num_learned"] == 1


def test_each_of_several_actions_has_a_separate_value(api, problem) -> None:
    name = api.bandit(["a", "b", "c"], [[1, 0], [0, 1], [1, 1]])
    answer = api.select(name, [1, 2], k=2)
    first, second = (action["id"] for action in answer["actions"])
    [left] = {"a", "b", "c"} - {first, second}
    body: dict[str, Any] = {"decision_id": answer["decision_id"], "reward": 1.0}
    problem(api.http.post("/reward", json=body), 422, "invalid-request", "action")
    body["action"] = left
    problem(api.http.post("/reward", json=body), 422, "invalid-request", "action")
    assert api.state(name)["num_learned"] == 0
    assert api.reward(answer["decision_id"], 1.0, action=first)["status"] == "applied"
    assert api.reward(answer["decision_id"], 0.0, action=second)["status"] == "applied"
    assert api.reward(answer["decision_id"], 1.0, action=first)["status"] == "duplicate"
    assert api.reward(answer["decision_id"], 1.0, action=second)["status"] == "ignored"
    assert api.state(name)["num_learned"] == 2


def test_naming_the_only_action_is_fine_and_naming_another_is_not(api, problem) -> None:
    name = api.two_actions()
    answer = api.select(name, [1, 2], candidates=["x"])
    body = {"decision_id": answer["decision_id"], "reward": 1.0, "action": "y"}
    problem(api.http.post("/reward", json=body), 422, "invalid-request", "action")
    assert api.reward(answer["decision_id"], 1.0, action="x")["status"] == "applied"


def test_a_decision_never_seen_is_404(api, problem) -> None:
    body = {"decision_id": api.fresh("never"), "reward": 1.0}
    found = problem(api.http.post("/reward", json=body), 404, "unknown-decision")
    assert body["decision_id"] in found["detail"]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("reward", {"reward": float("nan")}),
        ("reward", {"reward": float("inf")}),
        ("reward", {"reward": float("-inf")}),
        ("reward", {"reward": 1e60}),
        ("reward", {"reward": -1.7e308}),
        ("reward", {"reward": 10**400}),
        ("reward", {"reward": "1"}),
        ("reward", {"reward": True}),
        ("reward", {"reward": None}),
        ("reward", {"reward": [1]}),
        ("reward", {"reward": {}}),
        ("action", {"action": "a b"}),
        ("action", {"action": 3}),
        ("reward_id", {"reward_id": ""}),
        ("decision_id", {"decision_id": "a" * 129}),
        ("decision_id", {"decision_id": 7}),
        ("decision_id", {"decision_id": None}),
        ("weight", {"weight": 2.0}),
    ],
)
def test_a_wrong_reward_names_the_field_and_changes_nothing(
    api, problem, field: str, change: dict[str, Any]
) -> None:
    name = api.two_actions()
    decision_id = api.select(name, [1, 2])["decision_id"]
    before = api.state(name), api.scores(name, [1, 2])
    body = json.dumps({"decision_id": decision_id, "reward": 1.0} | change)
    response = api.http.post("/reward", content=body, headers={"content-type": "application/json"})
    problem(response, 422, "invalid-request", field)
    assert (api.state(name), api.scores(name, [1, 2])) == before
    assert api.reward(decision_id, 1.0)["status"] == "applied"


@pytest.mark.parametrize("field", ["decision_id", "reward"])
def test_a_missing_field_is_named(api, problem, field: str) -> None:
    body = {"decision_id": "d", "reward": 1.0}
    del body[field]
    problem(api.http.post("/reward", json=body), 422, "invalid-request", field)


@pytest.mark.parametrize("policy", ["linear_ts", "neural_linear_ts"])
def test_the_largest_numbers_allowed_stop_nothing(api, policy: str) -> None:
    """Whatever is accepted is learned: the bandit goes on answering, and trains."""
    name = api.two_actions(
        policy=policy, context={"shape": [2], "dtype": "float64"},
        encoder={"name": "concat" if policy == "linear_ts" else "mlp"},
        training={"mode": "lockstep", "optimizer_steps": 5},
    )  # fmt: skip
    for context, reward in (([1e20, -1e20], 1e20), ([1, 2], -1e20), ([3e19, 1], 1.0)):
        decision = api.select(name, context)
        assert api.reward(decision["decision_id"], reward)["status"] == "applied"
    assert api.train(name)["snapshot"] == 1
    assert isinstance(api.select(name, [1, 2])["score"], float)
    assert all(isinstance(mean, float) for mean in api.means(name, [1, 2]))
    assert api.state(name)["num_learned"] == 3
