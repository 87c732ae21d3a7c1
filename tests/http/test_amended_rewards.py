"""An administrator voids and corrects rewards over HTTP; what they did can be seen."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tests.fixtures.waiting import poll

CONTEXTS = [[0.5, -1.0], [1.0, 2.0], [-0.3, 0.7], [2.0, 0.1], [0.0, 1.0], [-1.5, -0.5]]


def decide(api: Any, name: str, number: int, **more: Any) -> str:
    """Select with one action on offer, so that what is learned depends on nothing else."""
    offered = {"candidates": [["x", "y"][number % 2]]} | more
    decision: str = api.select(name, CONTEXTS[number], **offered)["decision_id"]
    return decision


def scores(api: Any, name: str) -> Any:
    found = [api.scores(name, context)["scores"] for context in CONTEXTS]
    return np.array([[[row["mean"], row["std"]] for row in rows] for rows in found])


def correct(api: Any, name: str, decision_id: str, reward: float, **more: Any) -> Any:
    body = {"decision_id": decision_id, "reward": reward} | more
    return api.call("POST", f"/bandits/{name}/rewards/correct", body)


def void(api: Any, name: str, **body: Any) -> Any:
    return api.call("POST", f"/bandits/{name}/rewards/void", {"wait": True} | body)


def chosen(api: Any, name: str, decision_id: str) -> Any:
    return api.call("GET", f"/bandits/{name}/decisions/{decision_id}")["chosen"]


@pytest.mark.few(2)
@pytest.mark.parametrize("aggregate", ["first", "last", "sum", "mean"])
def test_a_correction_replaces_the_value_exactly(api, aggregate):
    """The model is that of a bandit which got the right values at once."""
    wrong, right = (api.two_actions(rewards={"aggregate": aggregate}) for _ in range(2))
    for number, value in enumerate([5.0, 0.25, -3.0, 1.0]):
        decision = decide(api, wrong, number)
        api.reward(decision, value, reward_id="r0")
        found = correct(api, wrong, decision, value / 8)
        expected = {"status": "applied", "before": value, "after": value / 8}
        assert expected.items() <= found.items()
        assert correct(api, wrong, decision, value / 8)["status"] == "duplicate"
        api.reward(decide(api, right, number), value / 8, reward_id="r0")
    np.testing.assert_allclose(scores(api, wrong), scores(api, right), rtol=1e-9, atol=1e-12)


def test_the_explanation_has_every_value_before_and_after(api):
    name = api.two_actions()
    decision = decide(api, name, 0)
    api.reward(decision, 3.0)
    correct(api, name, decision, 2.0)
    correct(api, name, decision, 1.0)
    void(api, name, decision_ids=[decision])
    correct(api, name, decision, 0.5)
    [found] = chosen(api, name, decision)
    changes = [(each["before"], each["after"]) for each in found["amendments"]]
    assert changes == [(3.0, 2.0), (2.0, 1.0), (1.0, None), (None, 0.5)]
    positions = [each["position"] for each in found["amendments"]]
    assert positions == sorted(positions)
    rewards = [(each["reward"], each["status"]) for each in found["rewards"]]
    assert rewards == [(3.0, "replaced"), (2.0, "replaced"), (1.0, "void"), (0.5, "corrected")]
    assert (found["value"], found["void"]) == (0.5, False)
    assert api.reward(decision, 0.75)["status"] == "ignored"
    assert api.reward(decision, 0.5)["status"] == "duplicate"


def test_rewards_after_a_correction_go_on_by_the_rules(api):
    """Under a sum they come on top of it, a newer one replaces it under last."""
    for aggregate, value in (("sum", 3.0), ("mean", 1.5), ("last", 2.0)):
        name = api.two_actions(rewards={"aggregate": aggregate})
        decision = decide(api, name, 0)
        for number in range(3):
            api.reward(decision, 7.0 + number, reward_id=f"r{number}")
        correct(api, name, decision, 1.0)
        api.reward(decision, 2.0, reward_id="later")
        assert chosen(api, name, decision)[0]["value"] == value, aggregate


def test_one_of_several_chosen_actions_is_amended(api, problem):
    name = api.two_actions()
    decision = api.select(name, CONTEXTS[0], k=2)["decision_id"]
    for action in ("x", "y"):
        api.reward(decision, 1.0, action=action)
    assert void(api, name, decision_ids=[decision], action="x")["values"] == 1
    found = {each["id"]: each["void"] for each in chosen(api, name, decision)}
    assert found == {"x": True, "y": False}
    body = {"decision_id": decision, "reward": 0.5}
    where = f"/bandits/{name}/rewards/correct"
    problem(api.http.post(where, json=body), 422, "invalid-request", "action")
    assert correct(api, name, decision, 0.5, action="y")["before"] == 1.0
    problem(api.http.post(where, json=body | {"action": "z"}), 422, "invalid-request", "action")


def test_a_time_range_and_an_action_say_what_becomes_void(api):
    name, without = api.two_actions(), api.two_actions()
    early = [decide(api, name, number) for number in (0, 1)]
    between = time.time()
    late = [decide(api, name, number) for number in (2, 3)]
    for number, decision in enumerate([*early, *late]):
        api.reward(decision, 1.0 + number)
    for number in (0, 1, 3):
        api.reward(decide(api, without, number), 1.0 + number)
    nothing = void(api, name, since=between + 1e6)
    assert (nothing["decisions"], nothing["unlearning"]) == (0, "none")
    dry = void(api, name, since=between, action="x", dry_run=True)
    done = void(api, name, since=between, action="x")
    for answer in (dry, done):
        assert (answer["decisions"], answer["values"], answer["rewards"]) == (1, 1, 1)
    assert [chosen(api, name, each)[0]["void"] for each in (*early, *late)] == [
        False, False, True, False,
    ]  # fmt: skip
    api.train(without)
    np.testing.assert_allclose(scores(api, name), scores(api, without), rtol=1e-9, atol=1e-12)
    assert void(api, name, until=between)["values"] == 2
    assert void(api, name, action="y")["values"] == 1
    assert api.state(name)["num_learned"] == 0


def test_a_value_that_waits_for_its_window_becomes_void_at_once(api):
    """Nothing was learned of it: nothing is rebuilt, and its window closes without it."""
    rules = {"reward_window_s": 1.0, "default_reward": 0.0}
    name = api.two_actions(rewards=rules)
    decision, other = decide(api, name, 0), decide(api, name, 1)
    assert api.reward(decision, 9.0)["status"] == "pending"
    done = void(api, name, decision_ids=[decision], wait=False)
    assert (done["values"], done["learned"], done["unlearning"]) == (1, 0, "none")
    assert api.reward(decision, 8.0)["status"] == "void"
    poll(lambda: chosen(api, name, other)[0]["value"] == 0.0, "the end of the windows")
    [found] = chosen(api, name, decision)
    assert (found["value"], found["void"], found["learned"]) == (None, True, [])
    assert api.state(name)["num_learned"] == 1
    assert void(api, name, decision_ids=[other])["values"] == 1  # a default is a value, too
    assert api.state(name)["num_learned"] == 0


def test_corrections_wait_for_windows_and_activations(api):
    rules = {"reward_window_s": 60.0, "default_reward": 0.0}
    name = api.two_actions(rewards=rules)
    decision = decide(api, name, 0)
    api.reward(decision, 9.0)
    assert correct(api, name, decision, 1.0)["status"] == "pending"
    name = api.two_actions()
    decision = decide(api, name, 0, activate=False)
    api.reward(decision, 9.0)
    assert correct(api, name, decision, 1.0)["status"] == "aggregated"
    api.call("POST", "/activate", {"decision_id": decision})
    assert chosen(api, name, decision)[0]["value"] == 1.0


def test_a_closed_window_does_not_keep_an_administrator_out(api):
    name = api.two_actions(rewards={"reward_window_s": 1.0})
    decision = decide(api, name, 0)
    where = f"/bandits/{name}/decisions/{decision}"
    poll(lambda: api.call("GET", where)["window_closed"], "the end of the window")
    assert api.reward(decision, 2.0)["status"] == "late"
    assert correct(api, name, decision, 1.0)["status"] == "applied"
    assert chosen(api, name, decision)[0]["value"] == 1.0


def test_a_check_says_what_would_become_of_rewards(api):
    name = api.two_actions(rewards={"aggregate": "last"})
    decision = decide(api, name, 0)
    api.reward(decision, 1.0, reward_id="r0")
    gone = decide(api, name, 1)
    api.reward(gone, 1.0)
    void(api, name, decision_ids=[gone])
    position = api.state(name)["position"]
    items = [
        {"decision_id": decision, "reward": 2.0}, {"decision_id": gone, "reward": 2.0},
        {"decision_id": decision, "reward": 1.0, "reward_id": "r0"},
        {"decision_id": "nobody", "reward": 2.0}, {"decision_id": decision, "reward": "much"},
    ]  # fmt: skip
    found = api.call("POST", "/reward/check", {"items": items})["items"]
    statuses = [each["answer"] and each["answer"]["status"] for each in found]
    assert statuses == ["applied", "void", "duplicate", None, None]
    assert [each["code"] for each in found] == [200, 200, 200, 404, 422]
    assert api.state(name)["position"] == position
    assert len(chosen(api, name, decision)[0]["rewards"]) == 1


def test_bad_requests_name_the_field_and_change_nothing(api, problem):
    name = api.two_actions()
    decision = decide(api, name, 0)
    api.reward(decision, 1.0)
    where = f"/bandits/{name}/rewards"
    bad = [
        ({}, "decision_ids"), ({"decision_ids": [decision], "since": 1.0}, "decision_ids"),
        ({"since": 2.0, "until": 1.0}, "until"), ({"decision_ids": []}, "decision_ids"),
        ({"since": "yesterday"}, "since"), ({"decision_ids": [decision], "why": "x"}, "why"),
    ]  # fmt: skip
    for body, field in bad:
        problem(api.http.post(f"{where}/void", json=body), 422, "invalid-request", field)
    for body, field in (({"decision_id": decision}, "reward"), ({"reward": 1.0}, "decision_id")):
        problem(api.http.post(f"{where}/correct", json=body), 422, "invalid-request", field)
    body = {"decision_id": "nobody", "reward": 1.0}
    problem(api.http.post(f"{where}/correct", json=body), 404, "unknown-decision")
    other = api.two_actions()
    body = {"decision_id": decision, "reward": 0.0}
    problem(api.http.post(f"/bandits/{other}/rewards/correct", json=body), 404, "unknown-decision")
    assert void(api, other, decision_ids=[decision, "nobody"])["unknown"] == [decision, "nobody"]
    problem(api.http.post("/bandits/none/rewards/void", json={"since": 1.0}), 404, "unknown-bandit")
    assert chosen(api, name, decision)[0]["value"] == 1.0
