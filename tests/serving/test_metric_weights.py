"""What is learned of metrics changes: the log's metrics are learned anew under other weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fixtures.waiting import poll

OLD, NEW = {"money": 1.0, "click": 0.25}, {"click": -2.0, "seconds": 0.125}
LOCKSTEP = {"training": {"mode": "lockstep"}}


def taught(api: Any, name: str, numbers: range) -> None:
    """Report metrics that depend on nothing but their numbers; some come later, some are wrong."""
    for number in numbers:
        rng = np.random.default_rng(number)
        context = rng.normal(size=2).round(3).tolist()
        action = "xy"[number % 2]
        decision = api.select(name, context, candidates=[action])["decision_id"]
        report(api, decision, {"click": number % 3, "money": round(float(rng.normal()), 3)})
        if number % 5 == 4:
            report(api, decision, {"seconds": number % 7})
        where = f"/bandits/{name}/rewards"
        if number % 20 == 19:
            body = {"decision_id": decision, "metrics": {"money": 3, "seconds": 1}}
            api.call("POST", f"{where}/correct", body)
        if number % 20 == 17:
            api.call("POST", f"{where}/void", {"decision_ids": [decision], "wait": True})


def report(api: Any, decision: str, metrics: dict[str, float]) -> str:
    status: str = api.call("POST", "/reward", {"decision_id": decision, "metrics": metrics})[
        "status"
    ]
    return status


def scores(api: Any, name: str) -> Any:
    found = [api.scores(name, context)["scores"] for context in ([1, 0.5], [-0.3, 2], [0, 1])]
    return np.array([[[row["mean"], row["std"]] for row in rows] for rows in found])


def changed(api: Any, name: str, **spec: Any) -> Any:
    whole = api.state(name)["spec"] | spec
    state = api.call("PUT", f"/bandits/{name}?wait=true", whole)
    assert state["rebuild"]["state"] == "done"
    assert state["rebuild"]["keys"] == ["rewards.learn"]
    return state


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "spec",
    [{"posterior": {"noise": "fixed"}}, {"forgetting": {"half_life": 64}, "policy": "greedy"}],
    ids=["linear", "greedy, which forgets"],
)
def test_a_model_under_other_weights_is_that_of_these_weights_from_the_start(api, spec):
    spec = {"encoder": {"name": "per_action", "standardize": False}} | LOCKSTEP | spec
    name = api.two_actions(rewards={"learn": OLD}, **spec)
    other = api.two_actions(rewards={"learn": NEW}, **spec)
    for each in (name, other):
        taught(api, each, range(40))
    api.call("PUT", f"/bandits/{name}?dry_run=true", api.state(name)["spec"])
    state = changed(api, name, rewards={"learn": NEW})
    assert (state["spec"]["rewards"]["learn"], state["metrics"]["money"]["weight"]) == (NEW, None)
    for every in (7, 8):  # as many rows as the change and the switch take: forgetting counts rows
        again = api.state(other)["spec"] | {"training": {"mode": "lockstep", "train_every": every}}
        api.call("PUT", f"/bandits/{other}", again)
    for each in (name, other):
        taught(api, each, range(40, 60))
    found, expected = scores(api, name).astype(float), scores(api, other).astype(float)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    totals = {each: api.state(each)["metrics"] for each in (name, other)}
    assert totals[name]["seconds"] == totals[other]["seconds"]


def test_single_rewards_count_what_they_were_under_any_weights(api):
    spec = {"encoder": {"name": "per_action", "standardize": False}} | LOCKSTEP
    name, other = (api.two_actions(**spec) for _ in range(2))
    decided = [api.select(name, [1.0, n], candidates=["x"])["decision_id"] for n in range(3)]
    api.reward(decided[0], 2.0)
    changed(api, name, rewards={"learn": {"money": 3.0}})
    # Decisions of before take what their callers know, whatever that is.
    assert api.reward(decided[1], 4.0)["status"] == "applied"
    assert report(api, decided[2], {"money": 5.0}) == "applied"
    assert "metrics" in api.reward(decided[2], 5.0, expect=422)["detail"]
    later = api.select(name, [1.0, 3.0], candidates=["x"])["decision_id"]
    assert "metrics" in api.reward(later, 1.0, expect=422)["detail"]
    assert report(api, later, {"money": 1.0, "click": 1.0}) == "applied"
    for number, value in enumerate((2.0, 4.0, 15.0, 3.0)):
        api.teach(other, [1.0, number], "x", value)
    np.testing.assert_allclose(scores(api, name), scores(api, other), rtol=1e-9, atol=1e-12)
    api.call("PUT", f"/bandits/{name}?wait=true", api.state(name)["spec"] | {"rewards": {}})
    # Without weights, values are what they were when they were learned.
    np.testing.assert_allclose(scores(api, name), scores(api, other), rtol=1e-9, atol=1e-12)
    last = api.select(name, [1.0, 4.0], candidates=["x"])["decision_id"]
    body = {"decision_id": last, "metrics": {"money": 1.0}}
    assert "single rewards" in api.call("POST", "/reward", body, 422)["detail"]
    assert api.reward(last, 1.0)["status"] == "applied"


def test_a_replay_teaches_what_metrics_make_under_the_new_weights(api):
    spec = {"encoder": {"name": "per_action", "standardize": False}, **LOCKSTEP}
    name = api.two_actions(rewards={"learn": OLD}, **spec)
    taught(api, name, range(10))
    wanted = api.state(name)["spec"] | {"rewards": {"learn": NEW}}
    target = api.fresh("replayed")
    api.call("POST", f"/bandits/{name}/replay", {"to": target, "spec": wanted}, 201)
    poll(lambda: api.state(target)["spec"]["rewards"]["learn"] == NEW, "the weights")
    changed(api, name, rewards={"learn": NEW})
    np.testing.assert_allclose(scores(api, target), scores(api, name), rtol=1e-9, atol=1e-12)
