"""`all_propensities` of a select: the probability of every candidate, in every form and way."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from service.http.hot import MAX_OF_BATCH
from service.serving.select.decide import MAX_PROPENSITIES

METHODS = ["thompson", "squarecb", "greedy", "uniform"]


def by_id(answer: dict[str, Any]) -> dict[str, float]:
    """Return the propensities of an answer by action; they sum to 1."""
    found = {row["id"]: row["propensity"] for row in answer["all_propensities"]}
    assert len(found) == len(answer["all_propensities"])
    assert sum(found.values()) == pytest.approx(1.0)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_has_them_where_it_was_asked_and_not_otherwise(api, method: str) -> None:
    name = api.two_actions(selection={"method": method, "epsilon": 0.1})
    api.teach(name, [1, -1], "x", 1.0)
    assert api.select(name, [1, -1])["all_propensities"] is None
    assert api.select(name, [1, -1], all_propensities=False)["all_propensities"] is None
    for _ in range(10):
        answer = api.select(name, [1, -1], all_propensities=True)
        found = by_id(answer)
        assert list(found) == ["x", "y"]
        assert found[answer["action"]["id"]] == pytest.approx(answer["propensity"], abs=1e-12)
        assert min(found.values()) >= 0.1 / 2 - 1e-12


def test_they_come_in_candidate_order_with_the_places_of_the_request(api) -> None:
    name = api.two_actions()
    sent = api.select(name, [1, 0], candidates=["y", "x"], all_propensities=True)
    rows = [(row["id"], row["index"]) for row in sent["all_propensities"]]
    assert rows == [("y", 0), ("x", 1)]
    own = [{"id": "p", "features": [1, 0]}, {"id": "q", "features": [0.5, 0]}]
    inline = api.select(name, [1, 0], candidates=own, k=2, all_propensities=True)
    assert list(by_id(inline)) == ["p", "q"]
    api.call("DELETE", f"/bandits/{name}/actions/x")
    left = api.select(name, [1, 0], all_propensities=True)["all_propensities"]
    assert left == [{"id": "y", "index": 1, "propensity": 1.0}]


def test_a_repeat_has_those_of_the_stored_decision(api) -> None:
    """Also when the model has learned since, an action is new, and another one is retired."""
    name = api.two_actions()
    own = {"decision_id": api.fresh("all"), "all_propensities": True}
    first = api.select(name, [1, 0], **own)
    api.teach(name, [1, 0], "y", 1.0)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["z"], "features": [[1, 1]]})
    api.call("DELETE", f"/bandits/{name}/actions/x")
    assert api.select(name, [1, 0], **own) == first
    assert list(by_id(first)) == ["x", "y"]
    api.select(name, [1, 0], decision_id=own["decision_id"], expect=409)


def test_they_are_those_of_the_explanation(api) -> None:
    name = api.two_actions(selection={"epsilon": 0.2})
    for _ in range(3):
        api.teach(name, [1, -1], "x", 1.0)
    decision = api.fresh("all")
    answer = api.select(name, [1, -1], decision_id=decision, all_propensities=True)
    why = api.call("GET", f"/bandits/{name}/decisions/{decision}")
    explained = {row["id"]: row["propensity"] for row in why["candidates"]}
    assert explained == pytest.approx(by_id(answer), abs=1e-12)


@pytest.mark.parametrize("arms", [[], [{"name": "control", "share": 0.3, "action": "y"}]])
def test_a_bandit_may_log_them_with_every_decision(api, arms: list[dict[str, Any]]) -> None:
    """Those that were drawn together as well; answers have them where the request asks."""
    selection = {"epsilon": 0.2, "log_propensities": "all"}
    name = api.two_actions(selection=selection, arms=arms)
    api.teach(name, [1, -1], "x", 1.0)
    body: dict[str, Any] = {"bandit": name, "context": [1, -1]}
    more: list[dict[str, Any]] = [
        {},
        {"candidates": ["y", "x"]},
        {"k": 2},
        {"retrieve": 1},
        {"all_propensities": True},
    ]
    items = [body] * 20 + [body | each for each in more]
    answers = [
        each["answer"] for each in api.call("POST", "/select/batch", {"items": items})["items"]
    ]
    assert [each["all_propensities"] is None for each in answers] == [True] * 24 + [False]
    lines = api.http.get(f"/bandits/{name}/log").text.splitlines()
    logged = {row.get("decision_id"): row for row in map(json.loads, lines)}
    for number, answer in enumerate(answers):
        row = logged[answer["decision_id"]]
        if number == 23:  # one was retrieved: of the others, nothing is in the log
            assert "propensities" not in row
            continue
        assert row["propensities"][row["action"]] == pytest.approx(row["propensity"], abs=1e-12)
        assert sum(row["propensities"].values()) == pytest.approx(1.0)
        why = api.call("GET", f"/bandits/{name}/decisions/{answer['decision_id']}")
        explained = {each["id"]: each["propensity"] for each in why["candidates"]}
        assert row["propensities"] == pytest.approx(explained, abs=1e-12)
    spec = api.state(name)["spec"] | {"selection": {"log_propensities": "chosen"}}
    position = api.state(name)["position"]
    api.call("PUT", f"/bandits/{name}", spec)
    assert api.state(name)["rebuild"] is None  # nothing is learned anew for it
    made = api.select(name, [1, -1])
    assert api.state(name)["position"] == position + 1
    rows = map(json.loads, api.http.get(f"/bandits/{name}/log").text.splitlines())
    last = [row for row in rows if "decision_id" in row][-1]
    assert last["decision_id"] == made["decision_id"]
    assert "propensities" not in last


def test_msgpack_has_them_too(api, packed) -> None:
    name = api.two_actions()
    body = {"bandit": name, "context": [1, 0], "all_propensities": True}
    response = packed("POST", "/select", body, accept="application/msgpack")
    assert response.status_code == 200
    assert list(by_id(msgpack.unpackb(response.content))) == ["x", "y"]


def test_items_of_a_batch_have_them_where_they_ask(api) -> None:
    name = api.two_actions(selection={"method": "squarecb"})
    item = {"bandit": name, "context": [1, 0]}
    items = [item | {"all_propensities": number % 2 == 0} for number in range(6)]
    answers = api.call("POST", "/select/batch", {"items": items})["items"]
    for number, each in enumerate(answers):
        assert each["code"] == 200
        if number % 2 == 0:
            assert list(by_id(each["answer"])) == ["x", "y"]
        else:
            assert each["answer"]["all_propensities"] is None


def test_a_wrong_value_is_refused_by_name(api, problem) -> None:
    name = api.two_actions()
    body = {"bandit": name, "context": [1, 0], "all_propensities": "all"}
    problem(api.http.post("/select", json=body), 422, "invalid-request", "all_propensities")


def test_there_are_limits_of_a_select_and_of_a_batch(api, problem) -> None:
    name = api.bandit(policy="uniform", action_dim=0)
    for first in range(0, MAX_PROPENSITIES, 5000):
        ids = [f"a{number}" for number in range(first, first + 5000)]
        api.call("PUT", f"/bandits/{name}/actions", {"ids": ids})
    body = {"bandit": name, "context": [1, 0], "all_propensities": True}
    assert len(api.call("POST", "/select", body)["all_propensities"]) == MAX_PROPENSITIES
    room = MAX_OF_BATCH // MAX_PROPENSITIES
    answers = api.call("POST", "/select/batch", {"items": [body] * (room + 1)})["items"]
    assert [each["code"] for each in answers] == [200] * room + [422]
    assert answers[-1]["error"]["errors"][0]["field"] == "all_propensities"
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["one-more"]})
    problem(api.http.post("/select", json=body), 422, "invalid-request", "all_propensities")
    api.call("POST", "/select", body | {"all_propensities": False})
