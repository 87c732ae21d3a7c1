"""Several rewards of a decision over HTTP: aggregates, activation, windows."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
import pytest

from tests.fixtures.waiting import poll

CONTEXTS = [[0.5, -1.0], [1.0, 2.0], [-0.3, 0.7], [2.0, 0.1], [0.0, 1.0], [-1.5, -0.5]]
PARTS = [[0.25, 0.5], [1.0], [0.1, 0.2, 0.3], [0.0, 0.5], [0.75, -0.25, 0.5], [0.4]]
FINAL = {
    "last": [parts[-1] for parts in PARTS],
    "sum": [sum(parts) for parts in PARTS],
    "mean": [sum(parts) / len(parts) for parts in PARTS],
    "median": [median(parts) for parts in PARTS],
    "min": [min(parts) for parts in PARTS],
    "max": [max(parts) for parts in PARTS],
}
NEURAL = {
    "policy": "neural_linear_ts",
    "encoder": {"name": "mlp", "params": {"feature_dim": 8, "hidden": [8]}},
    "training": {"mode": "lockstep", "optimizer_steps": 5},
}


def decide(api: Any, name: str, number: int, **more: Any) -> str:
    """Select with one action on offer, so that what is learned depends on nothing else."""
    offered = ["x", "y"][number % 2]
    decision: str = api.select(name, CONTEXTS[number], candidates=[offered], **more)["decision_id"]
    return decision


def scores(api: Any, name: str) -> Any:
    """Return means and deviations, (contexts, actions, 2)."""
    found = [api.scores(name, context)["scores"] for context in CONTEXTS]
    return np.array([[[row["mean"], row["std"]] for row in rows] for rows in found])


def assert_alike(mine: Any, theirs: Any) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def report_in_parts(api: Any, name: str, aggregate: str) -> None:
    """Have a bandit learn every value by several rewards, and check the answer to each."""
    decisions = [decide(api, name, number) for number in range(len(CONTEXTS))]
    reports = [(n, part) for n, parts in enumerate(PARTS) for part in range(len(parts))]
    if aggregate != "last":  # these aggregates do not depend on the order
        random.Random(4).shuffle(reports)
    statuses: dict[int, list[str]] = {}
    for n, part in reports:
        answer = api.reward(decisions[n], PARTS[n][part], reward_id=f"r{part}")
        statuses.setdefault(n, []).append(answer["status"])
    later = "applied" if aggregate == "last" else "aggregated"
    for n, parts in enumerate(PARTS):
        assert statuses[n] == ["applied"] + [later] * (len(parts) - 1)


@pytest.mark.few(3)
@pytest.mark.parametrize("aggregate", FINAL)
def test_what_is_learned_is_as_if_only_the_final_value_had_been_reported(api, aggregate) -> None:
    name, other = api.two_actions(rewards={"aggregate": aggregate}), api.two_actions()
    report_in_parts(api, name, aggregate)
    for n in range(len(CONTEXTS)):
        assert api.reward(decide(api, other, n), FINAL[aggregate][n])["status"] == "applied"
    assert api.state(name)["num_learned"] == api.state(other)["num_learned"] == len(CONTEXTS)
    assert_alike(scores(api, name), scores(api, other))


def test_a_trained_network_learned_the_final_values(api, configured) -> None:
    """On two servers, as equal names make equal networks: uid and seed are the same."""
    name = api.two_actions(rewards={"aggregate": "last"}, name="reported-in-parts", **NEURAL)
    configured.two_actions(name=name, **NEURAL)
    report_in_parts(api, name, "last")
    for n in range(len(CONTEXTS)):
        configured.reward(decide(configured, name, n), FINAL["last"][n])
    assert_alike(scores(api, name), scores(configured, name))
    for each in (api, configured):
        each.train(name)
    assert_alike(scores(api, name), scores(configured, name))


def test_a_repeated_reward_id_counts_once_and_with_another_value_not_at_all(api) -> None:
    name = api.two_actions(rewards={"aggregate": "sum"})
    decision = decide(api, name, 0)
    assert api.reward(decision, 0.5, reward_id="a")["status"] == "applied"
    assert api.reward(decision, 0.5, reward_id="a")["status"] == "duplicate"
    assert api.reward(decision, 0.7, reward_id="a")["status"] == "ignored"
    state = api.state(name)
    assert api.reward(decision, 0.5, reward_id="b")["status"] == "aggregated"
    assert api.state(name)["position"] == state["position"] + 1


@pytest.mark.parametrize("aggregate", ["sum", "mean", "median", "min", "max"])
def test_sum_and_mean_need_a_reward_id(api, problem, aggregate) -> None:
    name = api.two_actions(rewards={"aggregate": aggregate})
    body = {"decision_id": decide(api, name, 0), "reward": 0.5}
    problem(api.http.post("/reward", json=body), 422, "invalid-request", "reward_id")
    assert api.state(name)["num_learned"] == 0


def test_a_sum_that_could_not_be_learned_is_refused_and_not_stored(api, problem) -> None:
    name = api.two_actions(rewards={"aggregate": "sum"})
    decision = decide(api, name, 0)
    api.reward(decision, 9e19, reward_id="a")
    body = {"decision_id": decision, "reward": 9e19, "reward_id": "b"}
    problem(api.http.post("/reward", json=body), 422, "invalid-request", "reward")
    assert api.reward(decision, -9e19, reward_id="b")["status"] == "aggregated"


def test_a_thousand_rewards_at_once_are_all_in_the_sum(api) -> None:
    name = api.two_actions(rewards={"aggregate": "sum"})
    other = api.two_actions()
    decision = decide(api, name, 0)

    def send(first: int) -> list[str]:
        items = [
            {"decision_id": decision, "reward": 0.001, "reward_id": f"r{n}"}
            for n in range(first, first + 125)
        ]
        answers = api.call("POST", "/reward/batch", {"items": items})["items"]
        return [answer["answer"]["status"] for answer in answers]

    with ThreadPoolExecutor(8) as pool:
        statuses = [status for part in pool.map(send, range(0, 1000, 125)) for status in part]
    assert sorted(statuses) == ["aggregated"] * 999 + ["applied"]
    api.reward(decide(api, other, 0), 1.0)
    assert_alike(scores(api, name), scores(api, other))


def test_more_rewards_than_a_decision_takes_are_refused_and_change_nothing(
    start_server, api_of, problem
) -> None:
    server = start_server(env={"BANDEXA_MAX_REWARDS_PER_DECISION": "3"})
    with server.client() as client:
        api = api_of(client)
        name = api.two_actions(rewards={"aggregate": "sum"})
        decision = decide(api, name, 0)
        for number in range(3):
            api.reward(decision, 0.25, reward_id=f"r{number}")
        before = scores(api, name)
        body = {"decision_id": decision, "reward": 0.25, "reward_id": "r3"}
        problem(client.post("/reward", json=body), 422, "invalid-request", "reward")
        assert api.reward(decision, 0.25, reward_id="r0")["status"] == "duplicate"
        assert (scores(api, name) == before).all()


def test_what_is_not_activated_is_not_learned(api) -> None:
    name, other = api.two_actions(), api.two_actions()
    decision = decide(api, name, 0, activate=False)
    before = api.state(name)
    assert api.reward(decision, 0.5)["status"] == "aggregated"
    assert api.reward(decision, 0.5)["status"] == "duplicate"
    assert api.reward(decision, 0.9)["status"] == "ignored"
    assert api.state(name) == before
    body = {"decision_id": decision}
    assert api.call("POST", "/activate", body) == {"status": "applied"}
    assert api.call("POST", "/activate", body) == {"status": "duplicate"}
    assert api.state(name)["num_learned"] == 1
    api.reward(decide(api, other, 0), 0.5)
    assert_alike(scores(api, name), scores(api, other))
    assert api.reward(decision, 0.5)["status"] == "duplicate"


def test_a_reward_behind_its_activation_is_learned_at_once(api) -> None:
    name = api.two_actions()
    decision = decide(api, name, 0, activate=False)
    assert api.call("POST", "/activate", {"decision_id": decision}) == {"status": "applied"}
    assert api.state(name)["num_learned"] == 0
    assert api.reward(decision, 0.5)["status"] == "applied"
    assert api.state(name)["num_learned"] == 1


def test_activating_what_was_never_decided_is_404(api, problem) -> None:
    problem(api.http.post("/activate", json={"decision_id": "nobody"}), 404, "unknown-decision")


def test_a_window_closes_with_the_default_reward_and_what_comes_later_is_late(api) -> None:
    rewards = {"reward_window_s": 1.0, "default_reward": 0.25}
    name, other = api.two_actions(rewards=rewards), api.two_actions()
    silent, answered = decide(api, name, 0), decide(api, name, 1)
    unused = decide(api, name, 2, activate=False)
    assert api.reward(answered, 0.5)["status"] == "pending"
    assert api.reward(answered, 0.5)["status"] == "duplicate"
    assert api.state(name)["spec"]["rewards"]["maturity"] == "auto"
    assert api.state(name)["maturity_s"] == 1.0, "the window, until delays are known"
    poll(lambda: api.state(name)["num_learned"] == 2, "the window is closed")
    api.reward(decide(api, other, 1), 0.5)
    api.reward(decide(api, other, 0), 0.25)
    assert_alike(scores(api, name), scores(api, other))
    assert api.reward(silent, 1.0)["status"] == "late"
    assert api.reward(silent, 1.0)["status"] == "duplicate"
    assert api.reward(answered, 1.0)["status"] == "late"
    assert api.call("POST", "/activate", {"decision_id": unused}) == {"status": "late"}
    assert api.state(name)["num_learned"] == 2
    assert_alike(scores(api, name), scores(api, other))


def test_at_an_age_click_and_silence_are_learned_and_corrected_within_the_window(api) -> None:
    rewards = {"reward_window_s": 60.0, "default_reward": 0.25, "maturity": 0.1}
    name, other = api.two_actions(rewards=rewards), api.two_actions()
    silent, answered = decide(api, name, 0), decide(api, name, 1)
    assert api.reward(answered, 0.5)["status"] == "pending"
    poll(lambda: api.state(name)["num_learned"] == 2, "both are mature")
    assert api.reward(silent, 1.0)["status"] == "applied"
    for number, value in ((1, 0.5), (0, 1.0)):
        api.reward(decide(api, other, number), value)
    assert_alike(scores(api, name), scores(api, other))
    assert (api.state(name)["maturity_s"], api.state(other)["maturity_s"]) == (0.1, None)
    explained = api.call("GET", f"/bandits/{name}/decisions/{silent}")
    assert explained["matured"] >= explained["time"]
    assert explained["window_closed"] is None
    assert [row["after"] for row in explained["chosen"][0]["learned"]] == [0.25, 1.0]
    gauge = f'bandexa_maturity_seconds{{bandit="{name}"}} 0.1'
    assert gauge in api.http.get("/metrics").text


@pytest.mark.parametrize(
    ("field", "rewards"),
    [
        ("rewards", {"aggregate": "mode"}),
        ("rewards", {"reward_window_s": 0}),
        ("rewards", {"reward_window_s": float("inf")}),
        ("rewards", {"default_reward": 0.0}),
        ("rewards", {"maturity": "close"}),
        ("rewards", {"reward_window_s": 60, "maturity": "soon"}),
        ("rewards", {"reward_window_s": 60, "maturity": 0}),
        ("rewards", {"reward_window_s": 60, "maturity": 61}),
        ("rewards", {"maturity": 5}),
        ("rewards", {"reward_window_s": 60, "default_reward": 1e21}),
        ("rewards", {"reward_window_s": 60, "default_reward": float("nan")}),
        ("rewards", {"aggregates": "sum"}),
    ],
)
def test_a_wrong_contract_is_refused(api, problem, field, rewards) -> None:
    body = {"policy": "linear_ts", "context": {"shape": [2]}, "rewards": rewards}
    content = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    answer = api.http.put(f"/bandits/{api.fresh()}", content=content, headers=headers)
    assert answer.status_code == 422
    assert any(e["field"].startswith(field) for e in answer.json()["errors"])
