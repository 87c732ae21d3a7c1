"""The log of a bandit, exported from a running server."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest

from tests.fixtures.waiting import poll


def exported(api, name: str, **query: Any) -> list[dict[str, Any]]:
    """Return the rows of an export."""
    response = api.http.get(f"/bandits/{name}/log", params=query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.content.splitlines()]


def decisions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == "decision"]


def test_a_log_has_what_was_sent_and_what_came_of_it(api) -> None:
    name = api.two_actions()
    first = api.select(name, [0.5, 1], all_propensities=True)
    api.reward(first["decision_id"], 0.75, reward_id="click")
    second = api.select(name, [1, 0], candidates=["y"])
    third = api.select(
        name, [0, 0], candidates=[{"id": "z", "features": [2, 3]}], decision_id="own"
    )
    rows = exported(api, name)
    assert [row["kind"] for row in rows] == [
        "bandit", "actions", "decision", "decision", "decision", "audit", "audit", "end",
    ]  # fmt: skip
    header, actions, one, two, three, *trail, end = rows
    kept = api.call("GET", f"/bandits/{name}/audit")["entries"]
    assert [(row["what"], row["by"], row["changes"]) for row in trail] == [
        (entry["what"], entry["by"], entry["changes"]) for entry in reversed(kept)
    ]
    assert trail[-1]["what"] == f"PUT /bandits/{name}/actions"
    assert (header["bandit"], header["spec"]["seed"]) == (name, 1)
    assert header["position"] == api.state(name)["position"]
    assert actions["actions"] == [
        {"id": "x", "enabled": True, "features": [1, 0]},
        {"id": "y", "enabled": True, "features": [0, 1]},
    ]
    assert one["decision_id"] == first["decision_id"]
    assert one["context"] == [0.5, 1]
    assert (one["candidates"], one["num_candidates"]) == (None, 2)
    assert one["action"] == first["action"]["id"]
    assert one["propensity"] == first["propensity"]
    assert one["propensities"] == {p["id"]: p["propensity"] for p in first["all_propensities"]}
    assert one["value"] == 0.75
    (reward,) = one["rewards"]
    assert (reward["reward"], reward["reward_id"], reward["status"]) == (0.75, "click", "applied")
    assert reward["delay"] == pytest.approx(reward["time"] - one["time"], abs=1e-5)
    assert (two["action"], two["candidates"], two["value"]) == ("y", ["y"], None)
    assert two["decision_id"] == second["decision_id"]
    assert (three["decision_id"], three["features"]) == (third["decision_id"], [[2, 3]])
    assert (end["num_decisions"], end["more"]) == (3, False)


def test_pages_of_one_moment_are_the_log_of_that_moment(api) -> None:
    name = api.two_actions(rewards={"aggregate": "last"})
    made = [api.select(name, [number, 1])["decision_id"] for number in range(5)]
    for decision_id in made[:4]:
        api.reward(decision_id, 0.25)
    whole = exported(api, name)
    page = exported(api, name, limit=2)
    assert page[-1]["more"]
    moment = page[0]["moment"]
    # What comes afterwards belongs to no page of that moment: a correction, a first value, a
    # decision.
    api.reward(made[3], 1.0)
    api.reward(made[4], 1.0)
    api.select(name, [9, 9])
    pages = decisions(page)
    while page[-1]["more"]:
        page = exported(api, name, limit=2, after=page[-1]["row"], moment=moment)
        pages += decisions(page)
    for one, other in zip(pages, decisions(whole), strict=True):
        assert one | {"rewards": []} == other | {"rewards": []}
    assert [row["value"] for row in pages] == [0.25] * 4 + [None]
    now = decisions(exported(api, name))
    assert [row["value"] for row in now] == [0.25] * 3 + [1.0, 1.0, None]
    assert exported(api, name, after=now[-1]["row"])[-1]["num_decisions"] == 0


def test_changes_of_the_catalogue_stand_where_they_happened(api) -> None:
    name = api.two_actions()
    api.select(name, [0, 1])
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["w"], "features": [[1, 1]]})
    api.call("DELETE", f"/bandits/{name}/actions/x")
    api.select(name, [0, 1])
    rows = exported(api, name)
    assert [row["kind"] for row in rows[1:]] == [
        "actions", "decision", "actions", "decision", *["audit"] * 4, "end",
    ]  # fmt: skip
    changed = {line["id"]: line["enabled"] for line in rows[3]["actions"]}
    assert changed == {"w": True, "x": False}
    assert [row["num_candidates"] for row in decisions(rows)] == [2, 2]


def test_objects_come_as_they_were_sent(api) -> None:
    spec = {"context": {"features": "auto"}, "actions": {"features": "auto"}}
    name = api.fresh("bandit")
    api.call("PUT", f"/bandits/{name}", spec, 201)
    offered = [{"id": "a", "features": {"price": 3}}, {"id": "b", "features": {"kind": "x"}}]
    api.call("PUT", f"/bandits/{name}/actions", {"actions": offered})
    sent = {"user": {"age": 31, "city": "Ulm"}, "gap": None}
    api.select(name, sent)
    rows = exported(api, name)
    assert rows[2]["context"] == sent
    assert rows[1]["actions"][0]["features"] == {"price": 3}


def test_several_chosen_actions_have_a_value_each(api) -> None:
    name = api.two_actions()
    made = api.select(name, [1, 1], k=2)
    api.reward(made["decision_id"], 0.5, action=made["actions"][1]["id"])
    (row,) = decisions(exported(api, name))
    assert [line["value"] for line in row["actions"]] == [None, 0.5]
    assert row["rewards"][0]["action"] == made["actions"][1]["id"]


def test_erased_decisions_are_counted_and_not_shown(api) -> None:
    name = api.two_actions()
    api.select(name, [1, 1], unit="somebody")
    api.select(name, [1, 0])
    api.call("POST", "/erase", {"unit": "somebody", "bandit": name})
    rows = exported(api, name)
    assert (len(decisions(rows)), rows[-1]["num_erased"]) == (1, 1)


def test_what_is_no_export_is_refused(api, problem) -> None:
    name = api.two_actions()
    get = api.http.get
    problem(get("/bandits/nobody/log"), 404, "unknown-bandit")
    problem(get(f"/bandits/{name}/log?moment=x"), 422, "invalid-request", "moment")
    problem(get(f"/bandits/{name}/log?limit=0"), 422, "invalid-request", "limit")
    problem(get(f"/bandits/{name}/log?after=-1"), 422, "invalid-request", "after")
    assert exported(api, name)[-1]["num_decisions"] == 0


def test_a_third_export_at_once_waits_and_a_client_that_left_makes_room(api, problem) -> None:
    shape = [300_000]
    data = base64.b64encode(bytes(shape[0])).decode()
    context = {"dtype": "uint8", "shape": shape, "data": data}
    spec = {"policy": "uniform", "context": {"shape": shape, "dtype": "uint8"}, "action_dim": 0}
    name = api.bandit(["x"], **spec)
    for _ in range(40):  # more than the sockets between client and server hold
        api.select(name, context)
    with contextlib.ExitStack() as open_exports:
        for _ in range(2):
            stream = api.http.stream("GET", f"/bandits/{name}/log")
            assert open_exports.enter_context(stream).status_code == 200
        refused = api.http.get(f"/bandits/{name}/log")
        problem(refused, 503, "unavailable")
        assert refused.headers["retry-after"] == "10"
    poll(lambda: api.http.get(f"/bandits/{name}/log?limit=1").is_success, "room for an export")
    one = exported(api, name, limit=100)  # 16 MB: it ends after about 8
    assert 0 < len(decisions(one)) < 40
    assert one[-1]["more"]
    rest = exported(api, name, after=one[-1]["row"], moment=one[0]["moment"])
    assert len(decisions(one)) + len(decisions(rest)) == 40
    assert exported(api, name, limit=3)[-1] | {"row": 0} == {
        "kind": "end", "row": 0, "num_decisions": 3, "num_erased": 0, "more": True,
    }  # fmt: skip
