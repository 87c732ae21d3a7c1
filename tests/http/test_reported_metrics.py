"""Several metrics of a decision over HTTP: what is learned of them, reported, and refused."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from tests.fixtures.waiting import poll

LEARN = {"money": 1.0, "click": 0.25}
PACKED = {"content-type": "application/msgpack", "accept": "application/msgpack"}


def bandit(api: Any, **rewards: Any) -> str:
    name: str = api.two_actions(rewards={"learn": LEARN} | rewards)
    return name


def decide(api: Any, name: str, action: str = "x", context: Any = (1.0, 0.5), **more: Any) -> str:
    """Select with one action on offer, so that what is learned depends on nothing else."""
    more = {"candidates": [action]} | more
    decision: str = api.select(name, list(context), **more)["decision_id"]
    return decision


def report(api: Any, decision: str, expect: int = 200, **body: Any) -> Any:
    answer = api.call("POST", "/reward", {"decision_id": decision} | body, expect)
    return answer["status"] if expect == 200 else answer["errors"][0]


def chosen(api: Any, name: str, decision: str) -> Any:
    return api.call("GET", f"/bandits/{name}/decisions/{decision}")["chosen"][0]


def means(api: Any, name: str) -> Any:
    return np.array([api.means(name, context) for context in ([1, 0.5], [-0.3, 2], [0, 1])])


def test_the_value_is_the_weighted_sum(api):
    """The model is that of a bandit which got 0.25 click + money as a single reward."""
    name, single = bandit(api), api.two_actions()
    for number in range(6):
        context = [0.5 * number, 1.0 - number]
        metrics = {"click": 1, "money": 1.5 * number, "seconds": 7.0}
        assert report(api, decide(api, name, context=context), metrics=metrics) == "applied"
        report(api, decide(api, single, context=context), reward=0.25 + 1.5 * number)
    np.testing.assert_allclose(means(api, name), means(api, single), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("aggregate", "click", "money"),
    [("first", 1.0, 4.0), ("last", 0.0, 6.0), ("sum", 1.0, 10.0), ("mean", 0.5, 5.0)],
)
def test_each_metric_is_aggregated_by_itself(api, aggregate, click, money):
    name = bandit(api, aggregate=aggregate)
    decision = decide(api, name)
    assert report(api, decision, metrics={"click": 1}, reward_id="a") == "applied"
    assert report(api, decision, metrics={"money": 4}, reward_id="b") == "aggregated"
    changed = report(api, decision, metrics={"click": 0, "money": 6}, reward_id="c")
    assert changed == ("ignored" if aggregate == "first" else "aggregated")
    assert report(api, decision, metrics={"money": 6, "click": 0}, reward_id="c") == "duplicate"
    assert report(api, decision, metrics={"click": 1}, reward_id="c") == "ignored"
    found = chosen(api, name, decision)
    assert found["metrics"] == {"click": click, "money": money}
    assert found["value"] == 0.25 * click + money
    assert [line["metrics"] for line in found["rewards"][:2]] == [{"click": 1.0}, {"money": 4.0}]
    assert [line["reward"] for line in found["rewards"]] == [None] * len(found["rewards"])
    single = api.two_actions()
    report(api, decide(api, single), reward=0.25 * click + money)
    np.testing.assert_allclose(means(api, name), means(api, single), rtol=1e-9, atol=1e-12)
    state = api.state(name)["metrics"]
    assert state["money"] == {"count": 1, "sum": money, "mean": money, "weight": 1.0}


def test_under_first_the_new_metrics_of_a_report_count_beside_old_ones(api):
    name = bandit(api)
    decision = decide(api, name)
    assert report(api, decision, metrics={"click": 1}) == "applied"
    assert report(api, decision, metrics={"click": 0, "money": 2}) == "aggregated"
    assert report(api, decision, metrics={"money": 2}) == "duplicate"
    assert chosen(api, name, decision)["metrics"] == {"click": 1.0, "money": 2.0}


def test_the_totals_leave_void_values_out_and_follow_corrections(api):
    name = bandit(api)
    decisions = [decide(api, name, action) for action in "xyx"]
    for decision, money in zip(decisions, (1.0, 2.0, 30.0), strict=True):
        report(api, decision, metrics={"money": money, "views": 3})
    where = f"/bandits/{name}/rewards"
    body = {"decision_id": decisions[0], "metrics": {"money": 5, "click": 1}}
    done = api.call("POST", f"{where}/correct", body)
    assert (done["status"], done["before"], done["after"]) == ("applied", 1.0, 5.25)
    assert api.call("POST", f"{where}/correct", body)["status"] == "duplicate"
    api.call("POST", f"{where}/void", {"decision_ids": [decisions[2]], "wait": True})
    assert api.state(name)["metrics"] == {
        "click": {"count": 1, "sum": 1.0, "mean": 1.0, "weight": 0.25},
        "money": {"count": 2, "sum": 7.0, "mean": 3.5, "weight": 1.0},
        "views": {"count": 1, "sum": 3.0, "mean": 3.0, "weight": None},
    }
    lines = api.http.get("/metrics").text.splitlines()
    labels = f'bandit="{name}",metric="money"'
    assert f"bandexa_reported_metric_values{{{labels}}} 2.0" in lines
    assert f"bandexa_reported_metric_mean{{{labels}}} 3.5" in lines
    other = bandit(api)
    report(api, decide(api, other, "x"), metrics={"money": 5, "click": 1})
    report(api, decide(api, other, "y"), metrics={"money": 2})
    np.testing.assert_allclose(means(api, name), means(api, other), rtol=1e-9, atol=1e-12)


def test_metrics_wait_for_an_activation_and_for_the_close_of_a_window(api):
    name = bandit(api)
    decision = decide(api, name, activate=False)
    assert report(api, decision, metrics={"click": 1}) == "aggregated"
    assert api.call("POST", "/activate", {"decision_id": decision})["status"] == "applied"
    assert chosen(api, name, decision)["learned"][0]["metrics"] == {"click": 1.0}
    waits = bandit(api, reward_window_s=1, default_reward=-1.0, outside="keep")
    decision, silent = decide(api, waits), decide(api, waits)
    assert report(api, decision, metrics={"click": 1}) == "pending"
    assert report(api, decision, metrics={"money": 3}) == "aggregated"
    poll(lambda: api.state(waits)["num_learned"] == 2, "closed windows")
    assert chosen(api, waits, decision)["value"] == 3.25
    assert chosen(api, waits, silent)["value"] == -1.0
    assert report(api, silent, metrics={"money": 3}) == "late"
    assert report(api, silent, metrics={"money": 3}) == "duplicate"


def test_what_is_wrong_is_refused_by_name_and_changes_nothing(api, problem):
    name, single = bandit(api, metrics=["money", "click", "visits"]), api.two_actions()
    decision, other = decide(api, name), decide(api, single)
    assert report(api, decision, 422, metrics={"clicks": 1}) == {
        "field": "metrics.clicks", "message": "must be one of click, money, visits",
    }  # fmt: skip
    assert report(api, decision, 422, reward=1)["field"] == "reward"
    assert report(api, decision, 422)["field"] == "reward"
    assert report(api, decision, 422, reward=1, metrics={"click": 1})["field"] == "metrics"
    assert report(api, decision, 422, metrics={})["field"] == "metrics"
    assert report(api, decision, 422, metrics={"click": 1e21})["field"].startswith("metrics")
    assert report(api, decision, 422, metrics={"click": True})["field"].startswith("metrics")
    assert report(api, other, 422, metrics={"click": 1})["field"] == "metrics"
    assert report(api, decision, 422, metrics={"click": 1e20, "money": 1e20})["field"] == "metrics"
    body = msgpack.packb({"decision_id": decision, "metrics": {"click": float("nan")}})
    problem(api.http.post("/reward", content=body, headers=PACKED), 422, "invalid-request")
    assert chosen(api, name, decision)["rewards"] == []
    assert api.state(name)["num_learned"] == 0
    assert report(api, decision, metrics={"visits": 1}) == "applied"


def test_undeclared_names_are_stored_up_to_a_number(api):
    name = bandit(api)
    asked = [{"decision_id": decide(api, name), "metrics": {f"q{n}": 1.0}} for n in range(20)]
    checked = api.call("POST", "/reward/check", {"items": asked})["items"]
    assert [item["code"] for item in checked] == [200] * 20, "a check notes no names"
    for number in range(14):
        report(api, decide(api, name), metrics={f"m{number}": number})
    found = report(api, decide(api, name), 422, metrics={"one-more": 1})
    assert found["field"] == "metrics.one-more"
    assert "at most 16" in found["message"]
    assert "no name" in report(api, decide(api, name), 422, metrics={"a b": 1})["message"]
    assert report(api, decide(api, name), metrics={"m3": 1, "reward": 2}, expect=422)
    assert report(api, decide(api, name), metrics={"m3": 1, "money": 2}) == "applied"


@pytest.mark.parametrize(
    ("rewards", "field"),
    [
        ({"learn": {}}, "rewards.learn"),
        ({"learn": {"a": 0}}, "rewards.learn"),
        ({"learn": {"a b": 1}}, "rewards.learn"),
        ({"learn": {str(n): 1 for n in range(17)}}, "rewards.learn"),
        ({"learn": {"a": 1}, "metrics": ["b"]}, "rewards.learn"),
        ({"learn": {"a": 1}, "metrics": ["a", "a"]}, "rewards.metrics"),
        ({"metrics": ["a"]}, "rewards.metrics"),
        ({"learn": {"a": 1}, "clip_outliers": True}, "rewards.clip_outliers"),
    ],
)
def test_a_configuration_that_makes_no_sense_names_its_key(api, problem, rewards, field):
    body = {"policy": "linear_ts", "context": {"shape": [2]}, "rewards": rewards}
    response = api.http.put(f"/bandits/{api.fresh()}", json=body)
    problem(response, 422, "invalid-request", field)


def test_batches_checks_and_msgpack_take_metrics(api):
    name = bandit(api)
    one, two = decide(api, name), decide(api, name)
    items = [
        {"decision_id": one, "metrics": {"money": 2, "reward_id": 1}, "reward_id": "r"},
        {"decision_id": two, "reward": 2},
    ]
    asked = api.call("POST", "/reward/check", {"items": items})["items"]
    assert [item["code"] for item in asked] == [200, 422]
    assert api.state(name)["num_learned"] == 0
    body = msgpack.packb({"items": items})
    answer = api.http.post("/reward/batch", content=body, headers=PACKED).content
    found = msgpack.unpackb(answer)["items"]
    assert [item["code"] for item in found] == [200, 422]
    assert found[0]["answer"]["status"] == "applied"
    asked = api.call("POST", "/reward/check", {"items": items[:1]})["items"]
    assert asked[0]["answer"]["status"] == "duplicate"
    assert chosen(api, name, one)["value"] == 2.0
