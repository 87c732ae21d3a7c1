"""How much exploration or control a difference needs: the rule, with the bandit's own figures."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from bandexa_core.evaluation import lasting
from tests.fixtures.waiting import poll


def advice(api, name: str, **query: Any) -> dict[str, Any]:
    asked = "&".join(f"{key}={value}" for key, value in query.items())
    found: dict[str, Any] = api.call("GET", f"/bandits/{name}/advice?{asked}")
    return found


def test_a_bandit_without_traffic_is_planned_by_what_is_given(api) -> None:
    """v = .2, d = .05: 800 / q values. 40,000 decisions need q = .02, of three actions each."""
    name = api.two_actions(
        arms=[{"name": "control", "share": 0.2, "action": "x"}], selection={"epsilon": 0.3},
        limits={"x": {"floor": 0.01}},
    )  # fmt: skip
    found = advice(api, name, decisions=40_000, variance=0.2, actions=3)
    inputs, needed = found["inputs"], found["needed"]
    assert (inputs["difference"], inputs["variance_from"], inputs["actions"]) == (0.05, "given", 3)
    assert (inputs["decisions_per_day"], inputs["values_per_decision"]) == (None, 1.0)
    assert needed["share"] == needed["control"] == pytest.approx(0.02)
    assert needed["floor"] == pytest.approx(0.02 / 0.8)  # of what the bandit decides
    falls = lasting(0, 40_000, 1000)
    assert needed["epsilon"] == pytest.approx(3 * 0.025 / falls)
    arm, least = found["now"]
    assert (arm["of"], arm["name"], arm["share"], arm["decisions"]) == ("arm", "control", 0.2, 4000)
    assert arm["days"] is None
    assert least["share"] == pytest.approx(0.8 * 0.1 * falls)
    assert least["decisions"] > 800 / least["share"], "it falls on"
    text = " ".join(found["text"])
    for part in ("n = 10 v / (q d^2)", "A control of 2 %", "limits.floor", "three of four"):
        assert part in text
    # 1,000 decisions would need q = .8: no control has that, and no floor beside a control of .2.
    few = advice(api, name, decisions=1000, variance=0.2, actions=3)["needed"]
    assert (few["control"], few["floor"], few["epsilon"]) == (None, pytest.approx(1.0), None)
    # Neither is by mode: that lasts for a while, and the arms are planned for the time after it.
    api.call("PUT", f"/bandits/{name}/mode", {"mode": "control_only"})
    assert advice(api, name, decisions=40_000, variance=0.2, actions=3) == found


def test_floors_of_actions_stay_where_the_uniform_one_falls(api) -> None:
    limits = {"x": {"floor": 0.1}, "y": {"floor": 0.05}}
    name = api.two_actions(limits=limits, selection={"epsilon": 0.02})
    (least,) = advice(api, name, decisions=1_000_000, variance=0.2)["now"]
    assert (least["name"], least["share"], least["decisions"]) == ("y", 0.05, 16_000)
    uniform = api.two_actions(policy="uniform")
    (least,) = advice(api, uniform, decisions=1_000_000, variance=0.2)["now"]
    assert (least["name"], least["share"], least["decisions"]) == (None, 0.5, 1600)
    greedy = api.two_actions(policy="greedy", selection={"epsilon": 0.5})  # which it ignores
    found = advice(api, greedy, decisions=1_000_000, variance=0.2)
    assert (found["now"][-1]["share"], found["now"][-1]["decisions"]) == (0.0, None)
    assert (found["inputs"]["epsilon"], found["needed"]["epsilon"]) == (0.0, None)


def test_variance_and_traffic_are_the_bandits_own(api) -> None:
    name = api.two_actions()
    items = [{"bandit": name, "context": [1, 0]} for _ in range(400)]
    answers = api.call("POST", "/select/batch", {"items": items})["items"]
    rewards = [
        {"decision_id": item["answer"]["decision_id"], "reward": float(number % 4 == 0)}
        for number, item in enumerate(answers[:200])
    ]
    unknown = advice(api, name, decisions=10_000)["inputs"]
    assert (unknown["variance"], unknown["variance_from"]) == (0.25, "range")
    api.call("POST", "/reward/batch", {"items": rewards})

    def counted() -> dict[str, Any] | None:
        seen = advice(api, name, decisions=10_000)
        return seen if seen["inputs"]["num_values"] == 200 else None

    found = poll(counted, "200 values are counted")
    inputs = found["inputs"]
    assert inputs["variance"] == pytest.approx(0.25 * 0.75)
    assert inputs["variance_from"] == "values"
    assert (inputs["values_per_decision"], inputs["values"]) == (0.5, 5000)
    assert inputs["decisions_per_day"] > 400
    assert found["needed"]["share"] == pytest.approx(10 * 0.1875 / (5000 * 0.05**2))
    usual = advice(api, name)["inputs"]
    assert usual["decisions"] == pytest.approx(28 * usual["decisions_per_day"], rel=1e-6)
    assert found["now"][-1]["days"] == pytest.approx(
        found["now"][-1]["decisions"] / inputs["decisions_per_day"], rel=0.2
    )


@pytest.mark.parametrize(
    ("spec", "query", "says"),
    [
        ({}, "decisions=0", "decisions"),
        ({}, "precision=2", "precision"),
        ({}, "variance=0&decisions=10", "variance"),
        ({}, "", "decisions: say how many"),
        ({"reward_range": None}, "decisions=10", "difference: name one"),
        ({"reward_range": None}, "decisions=10&difference=2", "variance: give one"),
        ({}, "decisions=10&difference=1e-60", "difference: 1e-60 is too small to be ever seen"),
        ({}, "decisions=10&difference=1e-200", "difference: 1e-200 is too small"),
        ({}, "decisions=10&variance=1e20", "difference: 0.05 is too small"),
    ],
)
def test_what_is_not_known_has_to_be_given(api, spec, query, says) -> None:
    name = api.two_actions(**spec)
    found = api.call("GET", f"/bandits/{name}/advice?{query}", expect=422)
    assert says in found["detail"]


def test_what_takes_more_rows_than_any_log_has_never_shows(api, http) -> None:
    """A number beyond 64 bits would be none of msgpack."""
    name = api.two_actions()
    path = f"/bandits/{name}/advice?decisions=10&precision=1e-4&actions=1000000"
    found = http.get(path, headers={"Accept": "application/msgpack"})
    assert found.status_code == 200, found.text
    least = msgpack.unpackb(found.content)["now"][-1]
    assert least["share"] > 0.0
    assert (least["decisions"], least["days"]) == (None, None)


def test_a_bandit_without_a_catalogue_is_asked_how_many_actions_there_are(api) -> None:
    name = api.bandit()
    found = api.call("GET", f"/bandits/{name}/advice?decisions=10", expect=422)
    assert "actions: say how many" in found["detail"]
    assert advice(api, name, decisions=10, actions=5)["inputs"]["actions"] == 5
    assert api.call("GET", "/bandits/nowhere/advice", expect=404)["status"] == 404
