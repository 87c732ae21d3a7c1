"""Arms over HTTP: marked in answers, repeated, explained, exported, changed without a round."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from service.tools.export import files

CONTROL = {"name": "control", "share": 0.5, "action": "y"}
CALLER = {"name": "caller", "share": 0.3, "policy": "request"}
ARMS = [CONTROL, CALLER]


def spec_of(**more: Any) -> dict[str, Any]:
    return {
        "policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1,
        "reward_range": [0, 1], "posterior": {"prior_mean": 0.0},
    } | more  # fmt: skip


def decisions(api, name: str, num: int, **more: Any) -> list[dict[str, Any]]:
    return [
        api.select(name, [1, 0.5], decision_id=api.fresh("arm"), **({"served": "x"} | more))
        for _ in range(num)
    ]


def test_answers_name_the_arm_and_are_the_same_again(api) -> None:
    name = api.two_actions(arms=ARMS)
    answers = decisions(api, name, 60)
    counts = Counter(answer["arm"] for answer in answers)
    assert set(counts) == {"control", "caller", "bandit"}
    for answer in answers:
        if answer["arm"] != "bandit":
            assert answer["action"]["id"] == {"control": "y", "caller": "x"}[answer["arm"]]
        assert 0.3 < answer["propensity"] <= 1.0
        own = answer["decision_id"]
        assert api.select(name, [1, 0.5], decision_id=own, served="x") == answer
    api.select(name, [1, 0.5], decision_id=answers[0]["decision_id"], served="y", expect=409)


def test_a_bandit_without_arms_names_none(api) -> None:
    name = api.two_actions()
    answer = api.select(name, [1, 0.5], decision_id=api.fresh("arm"), served="x")
    assert answer["arm"] is None
    assert api.call("GET", f"/bandits/{name}/decisions/{answer['decision_id']}")["arm"] is None


@pytest.mark.parametrize("arms", [[], [{"name": "control", "share": 0.3, "action": "y"}]])
def test_a_session_keeps_its_action_with_sticky_action(api, arms: list[Any]) -> None:
    """Alone and in batches; a session explores as often as a decision, and keeps what it got."""
    name = api.two_actions(arms=arms, sticky="action", selection={"epsilon": 1.0})
    kept: dict[str, str] = {}
    for number in range(40):
        unit = f"session-{number}"
        items = [{"bandit": name, "context": [1, -1], "unit": unit}] * 3
        batch = api.call("POST", "/select/batch", {"items": items})["items"]
        made = [each["answer"] for each in batch] + [api.select(name, [1, -1], unit=unit)]
        assert len({each["decision_id"] for each in made}) == 4
        (kept[unit],) = {each["action"]["id"] for each in made}
    assert set(kept.values()) == {"x", "y"}
    alone = {api.select(name, [1, -1])["action"]["id"] for _ in range(40)}
    assert alone == {"x", "y"}, "without a unit each decision is drawn by itself"
    listed = api.select(name, [1, -1], unit="session-0", k=2)
    why = api.call("GET", f"/bandits/{name}/decisions/{listed['decision_id']}")
    assert why["reproduced"] == {"action": True, "score": True, "propensity": True}


@pytest.mark.parametrize("sticky", [None, "unit", "action"])
def test_a_decision_is_explained_with_its_arm(api, sticky: str | None) -> None:
    """Drawn again it has the same arm, action, value and probability, whichever arm decided."""
    name = api.two_actions(arms=[*ARMS, {"name": "best", "share": 0.1, "policy": "greedy"}],
                           sticky=sticky)  # fmt: skip
    for _ in range(3):
        api.teach(name, [1, -1], "x", 1.0)
    seen: set[tuple[str, str]] = set()
    arms = {"bandit", "control", "caller", "best"}
    for number in range(1000):  # ids differ from run to run, and so do the arms that come
        if number >= 40 and {arm for arm, _ in seen} == arms:
            break
        (answer,) = decisions(api, name, 1, unit=f"u{number}")
        if (answer["arm"], answer["action"]["id"]) in seen:
            continue
        seen.add((answer["arm"], answer["action"]["id"]))
        why = api.call("GET", f"/bandits/{name}/decisions/{answer['decision_id']}")
        assert why["arm"] == answer["arm"]
        assert why["reproduced"] == {"action": True, "score": True, "propensity": True}
        chances = {row["id"]: row["propensity"] for row in why["candidates"]}
        assert sum(chances.values()) == pytest.approx(1.0)
        assert chances[answer["action"]["id"]] == pytest.approx(answer["propensity"], abs=1e-9)
    assert {arm for arm, _ in seen} == arms


def test_arms_change_at_once_and_without_relearning(api) -> None:
    name = api.two_actions()
    state = api.call("PUT", f"/bandits/{name}", spec_of(arms=ARMS))
    assert state["rebuild"] is None
    assert [arm["name"] for arm in state["spec"]["arms"]] == ["control", "caller"]
    assert any(answer["arm"] == "control" for answer in decisions(api, name, 20))
    state = api.call("PUT", f"/bandits/{name}", spec_of(arms=[CONTROL | {"share": 0.0}]))
    assert {answer["arm"] for answer in decisions(api, name, 10)} == {"bandit"}
    api.call("PUT", f"/bandits/{name}", spec_of())
    assert {answer["arm"] for answer in decisions(api, name, 10)} == {None}
    assert api.state(name)["position"] == 4  # the catalogue, and three changes


def test_every_way_of_selecting_knows_arms(api) -> None:
    name = api.two_actions(arms=ARMS)
    items = [
        {"bandit": name, "context": [1, 0], "served": "x", "decision_id": api.fresh("arm")}
        for _ in range(40)
    ]
    batch = [
        item["answer"] for item in api.call("POST", "/select/batch", {"items": items})["items"]
    ]
    single = [api.select(name, [1, 0], served="x", decision_id=i["decision_id"]) for i in items]
    assert batch == single
    assert {answer["arm"] for answer in batch} == {"bandit", "control", "caller"}
    own = [{"id": "p", "features": [1, 0]}, {"id": "y", "features": [0.5, 0]}]
    inline = decisions(api, name, 20, candidates=own, k=2, served="p", all_propensities=True)
    for answer in inline:
        first = {"control": "y", "caller": "p"}.get(answer["arm"], answer["action"]["id"])
        assert answer["action"]["id"] == first
        chances = {row["id"]: row["propensity"] for row in answer["all_propensities"]}
        assert chances[first] == pytest.approx(answer["propensity"])
        assert answer["propensities"][0] == pytest.approx(answer["propensity"])
    missing = decisions(api, name, 10, candidates=["x"])  # y, the control's action, is not offered
    assert {answer["arm"] for answer in missing} == {None}


def test_the_export_has_arms(api, tmp_path: Path) -> None:
    name = api.two_actions(arms=ARMS)
    answers = {answer["decision_id"]: answer for answer in decisions(api, name, 20)}
    response = api.http.get(f"/bandits/{name}/log")
    rows = [json.loads(line) for line in response.text.splitlines()]
    found = {row["decision_id"]: row for row in rows if row["kind"] == "decision"}
    files.write(iter(rows), tmp_path / "log.parquet", "parquet")
    again = [row for row in files.lines(tmp_path / "log.parquet") if row["kind"] == "decision"]
    assert [(row["arm"], row["served"]) for row in again] == [
        (row["arm"], row["served"]) for row in found.values()
    ]
    assert {key: (row["arm"], row["served"]) for key, row in found.items()} == {
        key: (answer["arm"], "x") for key, answer in answers.items()
    }


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"arms": [CONTROL | {"share": 0.7}]}, "arms.0"),
        ({"arms": [CONTROL | {"policy": "first"}]}, "arms.0"),
        ({"arms": [CONTROL | {"weight": 1}]}, "arms.0.weight"),
        ({"mode": "control_only"}, "mode"),
        ({"guard": {"margin": 0.1}}, "guard"),
    ],
)
def test_what_makes_no_sense_is_refused(api, changes: dict[str, Any], field: str) -> None:
    name = api.two_actions()
    problem = api.call("PUT", f"/bandits/{name}", spec_of(**changes), 422)
    assert field in json.dumps(problem)
    assert api.state(name)["position"] == 1


def test_arms_and_the_policy_that_they_need_change_by_one_call(api) -> None:
    """The arms hold at once, the policy once it is relearned: no row of the log ends the bandit."""
    name = api.two_actions(policy="greedy")
    spec = api.state(name)["spec"]
    del spec["encoder"], spec["posterior"]
    arms = [{"name": "control", "share": 0.5, "policy": "thompson"}]
    state = api.call(
        "PUT", f"/bandits/{name}?wait=true", spec | {"policy": "linear_ts", "arms": arms}
    )
    assert (state["spec"]["policy"], state["rebuild"]["state"]) == ("linear_ts", "done")
    assert {api.select(name, [1, 0])["arm"] for _ in range(40)} == {"control", "bandit"}
