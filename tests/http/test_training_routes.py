"""POST .../train, the background schedule, and the lockstep protocol."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fixtures.waiting import poll

ANSWER_KEYS = {"status", "trained", "snapshot", "position", "metrics"}
NEURAL: dict[str, Any] = {
    "policy": "neural_linear_ts",
    "encoder": {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}},
}
QUICK = {"optimizer_steps": 4, "batch_size": 8}


def learn(api, name: str, num: int, first: int = 0) -> list[bool]:
    """Select and reward `num` times; returns `train_due` of each answer."""
    due = []
    for number in range(first, first + num):
        context = [number % 5 / 5, number % 3 / 3]
        decision = api.select(name, context)
        due.append(api.reward(decision["decision_id"], number % 2)["train_due"])
    return due


def test_train_and_wait_swaps_in_a_new_snapshot(api) -> None:
    name = api.two_actions(**NEURAL, training=QUICK | {"mode": "lockstep"})
    learn(api, name, 12)
    before = api.means(name, [1, 1])
    answer = api.train(name)
    assert set(answer) == ANSWER_KEYS
    assert answer["trained"] is True
    assert answer["snapshot"] == 1
    assert answer["position"] == 13
    assert answer["metrics"]["optimizer_steps"] == 4
    assert answer["metrics"]["rows"] == 12
    state = api.state(name)
    assert (state["snapshot"], state["position"], state["num_learned"]) == (1, 13, 12)
    assert api.means(name, [1, 1]) != before
    assert api.select(name, [1, 1])["snapshot"] == 1
    assert api.scores(name, [1, 1])["snapshot"] == 1


def test_rewards_after_a_swap_are_learned_on_top_of_it(api) -> None:
    name = api.two_actions(**NEURAL, training=QUICK | {"mode": "lockstep"})
    learn(api, name, 6)
    api.train(name)
    before = api.means(name, [1, 1])
    learn(api, name, 1)
    state = api.state(name)
    assert (state["snapshot"], state["position"], state["num_learned"]) == (1, 8, 7)
    assert api.means(name, [1, 1]) != before
    assert api.train(name)["metrics"]["rows"] == 7


@pytest.mark.few(1)
@pytest.mark.parametrize("policy", ["linear_ts", "greedy", "uniform"])
def test_without_an_encoder_to_train_a_snapshot_is_written_and_scores_stay(
    api, policy: str
) -> None:
    name = api.two_actions(policy=policy)
    learn(api, name, 5)
    before = api.scores(name, [1, 1])["scores"]
    answer = api.train(name)
    assert answer["trained"] is True
    assert answer["snapshot"] == 1
    after = api.scores(name, [1, 1])
    assert after["snapshot"] == 1
    for old, new in zip(before, after["scores"], strict=True):
        assert new["mean"] == pytest.approx(old["mean"], rel=1e-9, abs=1e-12)
        assert new["std"] == pytest.approx(old["std"], rel=1e-9)


def test_training_a_bandit_that_learned_nothing_is_no_error(api) -> None:
    name = api.two_actions(**NEURAL)
    assert api.train(name)["snapshot"] == 1
    assert api.means(name, [1, 1]) == [0.0, 0.0]


def test_without_wait_the_answer_comes_at_once_and_the_snapshot_later(api) -> None:
    name = api.two_actions(**NEURAL, training=QUICK | {"mode": "lockstep"})
    learn(api, name, 3)
    answer = api.call("POST", f"/bandits/{name}/train", expect=202)
    same = {"trained": False, "snapshot": 0, "position": 4, "metrics": {}}
    assert answer == same | {"status": "queued"}
    poll(lambda: api.state(name)["snapshot"], "the snapshot")
    queued = api.call("POST", f"/bandits/{name}/train?wait=false", expect=202)
    assert (queued["status"], queued["trained"]) == ("queued", False)


def test_lockstep_trains_when_the_client_requests_it_and_not_before(api) -> None:
    name = api.two_actions(**NEURAL, training=QUICK | {"mode": "lockstep", "train_every": 5})
    assert learn(api, name, 7) == [False] * 4 + [True] * 3
    assert api.state(name)["train_due"] is True
    assert api.state(name)["snapshot"] == 0
    api.train(name)
    assert api.state(name)["train_due"] is False
    assert learn(api, name, 5, first=7) == [False] * 4 + [True]
    assert api.train(name)["snapshot"] == 2


def test_in_the_background_a_round_starts_by_itself_when_it_is_due(api) -> None:
    name = api.two_actions(**NEURAL, training=QUICK | {"train_every": 4})
    learn(api, name, 4)
    poll(lambda: api.state(name)["snapshot"], "a round in the background")
    state = api.state(name)
    assert state["train_due"] is False
    assert state["num_learned"] == 4
    rounds = api.call("GET", f"/bandits/{name}")["trainer"]
    assert rounds["rounds"] >= 1
    assert rounds["state"] in ("idle", "training")
    assert isinstance(rounds["pid"], int)


def test_training_a_bandit_that_is_deleted_meanwhile_is_404(api, problem) -> None:
    busy, name = (
        api.two_actions(**NEURAL, training=QUICK | {"optimizer_steps": 300}) for _ in range(2)
    )
    learn(api, busy, 2)
    api.call("POST", f"/bandits/{busy}/train", expect=202)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.http.post, f"/bandits/{name}/train?wait=true")
        api.call("DELETE", f"/bandits/{name}", expect=204)
        response = waiting.result(60)
    if response.status_code != 200:  # the round may have come first
        problem(response, 404, "unknown-bandit")
    assert api.call("GET", "/readyz")["status"] == "ready"


def test_deleting_a_bandit_ends_its_round(api, problem) -> None:
    """The round would take far longer than anything here waits."""
    encoder = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [1024, 1024]}}
    training = {"mode": "lockstep", "optimizer_steps": 100_000, "batch_size": 64}
    name = api.two_actions(policy="neural_linear_ts", encoder=encoder, training=training)
    other = api.two_actions(**NEURAL, training=QUICK | {"mode": "lockstep"})
    learn(api, name, 2)
    learn(api, other, 2)

    def trainer(of: str) -> dict[str, Any]:
        found: dict[str, Any] = api.call("GET", f"/bandits/{of}")["trainer"]
        return found

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.http.post, f"/bandits/{name}/train?wait=true")
        poll(lambda: trainer(name)["phase"] == "optimizer", "the round")
        pid = trainer(name)["pid"]
        api.call("DELETE", f"/bandits/{name}", expect=204)
        problem(waiting.result(60), 404, "unknown-bandit")
    assert api.train(other)["snapshot"] == 1
    assert trainer(other)["pid"] == pid, "the trainer goes on"


@pytest.mark.parametrize(
    ("before", "after"),
    [({"train_every": 1000}, {"train_every": 4}), ({"mode": "lockstep"}, {"mode": "background"})],
)
def test_a_change_that_makes_a_round_due_has_it_done_without_a_reward(api, before, after) -> None:
    name = api.two_actions(**NEURAL, training=QUICK | {"train_every": 4} | before)
    learn(api, name, 5)
    state = api.state(name)
    assert state["snapshot"] == 0
    spec = state["spec"]
    body = spec | {"training": spec["training"] | after}
    api.call("PUT", f"/bandits/{name}", body)
    poll(lambda: api.state(name)["snapshot"], "a round in the background")
    assert api.state(name)["train_due"] is False


def test_an_unknown_bandit_or_a_wrong_wait_is_refused(api, problem) -> None:
    problem(api.http.post(f"/bandits/{api.fresh()}/train?wait=true"), 404, "unknown-bandit")
    name = api.two_actions()
    response = api.http.post(f"/bandits/{name}/train?wait=perhaps")
    problem(response, 422, "invalid-request", "wait")
    assert api.state(name)["snapshot"] == 0
