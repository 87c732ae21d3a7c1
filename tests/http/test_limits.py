"""Limits of actions over HTTP: dates, floors and caps, in answers, explanations and the log."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.http.test_arms import spec_of


def at(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


def select(api, name: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = api.select(name, [1, 0.5], decision_id=api.fresh("limit"), **more)
    return answer


def limited(api, **limits: Any) -> str:
    name: str = api.bandit(
        ["x", "y", "z"], [[1, 0], [0, 1], [1, 1]], limits=limits,
        selection={"epsilon": 0.3, "log_propensities": "chosen"},
    )  # fmt: skip
    return name


def log_of(api, name: str) -> list[dict[str, Any]]:
    text = api.http.get(f"/bandits/{name}/log").text
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["kind"] == "decision"]


def test_only_what_is_within_its_dates_is_served(api) -> None:
    name = limited(api, x={"ends_at": at(-1)}, y={"starts_at": at(-1), "ends_at": at(1)})
    answers = [select(api, name, all_propensities=True) for _ in range(20)]
    assert {answer["action"]["id"] for answer in answers} <= {"y", "z"}
    for answer in answers:
        assert [row["id"] for row in answer["all_propensities"]] == ["y", "z"]
    assert {answer["action"]["index"] for answer in answers} <= {1, 2}  # slots, as ever
    listed = select(api, name, candidates=["x", "y"])
    assert listed["action"]["id"] == "y"
    inline = [{"id": "x", "features": [1, 0]}, {"id": "p", "features": [0, 1]}]
    assert select(api, name, candidates=inline)["action"]["id"] == "p"
    refused = api.select(name, [1, 0.5], 422, candidates=["x"])
    assert "outside its dates" in refused["detail"]
    for row, answer in zip(log_of(api, name), answers, strict=False):
        assert (row["candidates"], row["num_candidates"]) == (["y", "z"], 2)
        assert row["action"] == answer["action"]["id"]
    assert [row["id"] for row in api.scores(name, [1, 0.5])["scores"]] == ["x", "y", "z"]


def test_where_no_action_is_within_its_dates_nothing_is_decided(api) -> None:
    name = api.two_actions(limits={n: {"starts_at": at(1)} for n in ("x", "y")})
    assert "within its dates" in api.select(name, [1, 0.5], 422)["detail"]
    assert log_of(api, name) == []


def test_a_decision_of_before_is_explained_with_what_was_offered_then(api) -> None:
    name = limited(api, x={"ends_at": at(-1)})
    answer = select(api, name)
    api.call("PUT", f"/bandits/{name}", spec_of(limits={"y": {"ends_at": at(-1)}}))
    later = select(api, name)
    for each, offered in ((answer, ["y", "z"]), (later, ["x", "z"])):
        why = api.call("GET", f"/bandits/{name}/decisions/{each['decision_id']}")
        assert why["reproduced"] == {"action": True, "score": True, "propensity": True}
        assert [row["id"] for row in why["candidates"]] == offered


def test_places_are_those_of_the_list_that_was_sent(api) -> None:
    """Also where an action before them is outside its dates, and of a repeated select."""
    name = limited(api, x={"ends_at": at(-1)})
    listed = ["x", "y", "z"]
    for _ in range(5):
        answer = select(api, name, candidates=listed, all_propensities=True)
        assert listed[answer["action"]["index"]] == answer["action"]["id"] != "x"
        chances = {row["id"]: row["propensity"] for row in answer["all_propensities"]}
        assert chances.keys() == {"y", "z"}
        assert answer["propensity"] == chances[answer["action"]["id"]]
        for row in answer["all_propensities"]:
            assert listed[row["index"]] == row["id"]
        again = {"decision_id": answer["decision_id"], "candidates": listed}
        assert api.select(name, [1, 0.5], all_propensities=True, **again) == answer


@pytest.mark.few(1)
@pytest.mark.parametrize("method", ["thompson", "squarecb", "greedy"])
def test_floors_and_caps_hold_in_every_decision(api, method: str) -> None:
    """And what is logged is what was used: the probabilities of all add up to 1."""
    name = api.bandit(
        ["x", "y", "z"], [[1, 0], [0, 1], [1, 1]], selection={"method": method},
        limits={"x": {"max_share": 0.4}, "y": {"floor": 0.1}},
    )  # fmt: skip
    for _ in range(10):
        api.teach(name, [1, 0.5], "x", 1.0)
        api.teach(name, [1, 0.5], "y", 0.0)
    served = set()
    for _ in range(60):
        answer = select(api, name, all_propensities=True)
        chances = {row["id"]: row["propensity"] for row in answer["all_propensities"]}
        assert sum(chances.values()) == pytest.approx(1.0)
        assert chances["x"] <= 0.4 + 1e-9
        assert chances["y"] >= 0.1 - 1e-9
        assert answer["propensity"] == pytest.approx(chances[answer["action"]["id"]])
        served.add(answer["action"]["id"])
        own = answer["decision_id"]
        assert api.select(name, [1, 0.5], decision_id=own, all_propensities=True) == answer
    assert served >= {"x", "z"}
    why = api.call("GET", f"/bandits/{name}/decisions/{own}")
    assert why["reproduced"] == {"action": True, "score": True, "propensity": True}
    assert {r["id"]: r["propensity"] for r in why["candidates"]} == pytest.approx(chances)


def test_batches_are_drawn_as_single_selects(api) -> None:
    name = limited(api, x={"max_share": 0.2}, z={"floor": 0.5})
    items = [
        {"bandit": name, "context": [1, n / 30], "decision_id": api.fresh("limit")}
        for n in range(30)
    ]
    batch = [i["answer"] for i in api.call("POST", "/select/batch", {"items": items})["items"]]
    assert batch == [
        api.select(name, item["context"], decision_id=item["decision_id"]) for item in items
    ]


def test_limits_change_at_once_and_stay_where_a_put_leaves_them_out(api) -> None:
    name = limited(api, x={"max_share": 0.0})
    assert {select(api, name)["action"]["id"] for _ in range(20)} <= {"y", "z"}
    state = api.call("PUT", f"/bandits/{name}", spec_of())
    assert state["rebuild"] is None
    assert state["spec"]["limits"]["x"]["max_share"] == 0.0
    plan = api.call("PUT", f"/bandits/{name}?dry_run=true", spec_of(limits={}))
    assert plan["relearned"] == []
    assert api.call("PUT", f"/bandits/{name}", spec_of(limits={}))["spec"]["limits"] == {}
    changes = api.call("GET", f"/bandits/{name}/audit")["entries"][0]["changes"]
    assert any(change["key"].startswith("spec.limits") for change in changes)


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        ({"starts_at": "soon"}, "starts_at"),
        ({"floor": 0.5, "max_share": 0.2}, "max_share"),
        ({"cap": 0.2}, "cap"),
    ],
)
def test_bad_limits_name_their_field_and_change_nothing(api, limit, field) -> None:
    name = api.two_actions()
    problem = api.call("PUT", f"/bandits/{name}", spec_of(limits={"x": limit}), 422)
    assert field in json.dumps(problem)
    assert api.state(name)["position"] == 1
