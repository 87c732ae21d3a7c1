"""Arms of a served bandit: how they stand, the guard, the mode; over a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from bandexa_client import BanditClient
from tests.fixtures.nodes import Node
from tests.fixtures.waiting import poll

ARMS = [{"name": "control", "share": 0.5, "action": "y"}]


def rewarded(
    call, name: str, num: int, reward_of: Mapping[Any, Any], contexts: Any = ([1, 0],)
) -> dict[str, int]:
    """Have a bandit decide and learn; rewards are those of the arms. Returns how many each had."""
    items = [{"bandit": name, "context": contexts[n % len(contexts)]} for n in range(num)]
    counts: dict[str, int] = {}
    for first in range(0, num, 500):
        answers = call("POST", "/select/batch", {"items": items[first : first + 500]})["items"]
        rewards = []
        for item in answers:
            answer = item["answer"]
            counts[answer["arm"]] = counts.get(answer["arm"], 0) + 1
            reward = reward_of[answer["arm"]]
            what = {"metrics": reward} if isinstance(reward, dict) else {"reward": reward}
            rewards.append({"decision_id": answer["decision_id"]} | what)
        call("POST", "/reward/batch", {"items": rewards})
    return counts


def counted(call, name: str, num: int) -> dict[str, Any]:
    """Return the state of a bandit once the comparison of its arms has so many values."""

    def state() -> dict[str, Any] | None:
        found: dict[str, Any] = call("GET", f"/bandits/{name}")
        return found if sum(arm["reward"]["num"] for arm in found["arms"]) >= num else None

    return poll(state, f"{num} values of arms are counted")


def test_state_values_and_metrics_say_how_arms_stand(api) -> None:
    name = api.two_actions(arms=ARMS)
    nothing = {"num": 0, "mean": None, "low": None, "high": None}
    parts: dict[str, Any] = {"metrics": {}, "segments": {}}
    assert api.state(name)["arms"] == [
        {"name": "control", "share": 0.5, "reward": nothing, "lift": nothing}
        | parts
        | {"agreement": {"share": nothing, "reward_share": None}},
        {"name": "bandit", "share": 0.5, "reward": nothing, "lift": None}
        | parts
        | {"agreement": None},
    ]
    counts = rewarded(api.call, name, 1000, {"control": 0.25, "bandit": 0.75})
    control, bandit = counted(api.call, name, 1000)["arms"]
    assert (control["reward"]["num"], bandit["reward"]["num"]) == (
        counts["control"], counts["bandit"],
    )  # fmt: skip
    assert control["reward"]["mean"] == pytest.approx(0.25)
    assert bandit["reward"]["mean"] == pytest.approx(0.75)
    assert 0.0 < control["lift"]["low"] < 0.5 < control["lift"]["high"]
    values = api.call("GET", f"/bandits/{name}/values")
    assert values["arms"] == [control, bandit]
    assert values["num_actions"] == 2
    assert sum(each["reward"]["num"] for each in values["actions"]) == 1000
    assert len(api.call("GET", f"/bandits/{name}/values?limit=1")["actions"]) == 1
    lines = api.http.get("/metrics").text.splitlines()
    label = f'{{bandit="{name}",arm="control"}}'
    found = {line.split("{")[0]: float(line.split()[-1]) for line in lines if label in line}
    assert found["bandexa_arm_share"] == 0.5
    assert found["bandexa_arm_values"] == counts["control"]
    assert found["bandexa_arm_lift_low"] == pytest.approx(control["lift"]["low"])
    guarded = api.state(name)["spec"] | {"guard": {"margin": 0.5}}
    assert api.call("PUT", f"/bandits/{name}", guarded)["arms"] == [control, bandit]
    for mode in ("control_only", "learn"):
        state = api.call("PUT", f"/bandits/{name}/mode", {"mode": mode})
        assert [arm["reward"]["num"] for arm in state["arms"]] == [0, 0]


def test_an_apprentice_and_a_shadow_say_how_often_they_choose_like_the_bandit(api) -> None:
    """The caller serves x. It is told to be worth 1 there, so that the bandit learns to agree."""
    apprentice = {"name": "control", "share": 0.5, "policy": "request"}
    dark = {"name": "dark", "share": 0.0, "action": "y", "shadow": True}
    name = api.two_actions(arms=[apprentice, dark], mode="control_only")
    made: dict[str, Any] = {}
    for number in range(60):
        served = "xy"[number % 3 == 0]
        body = {"served": served, "decision_id": api.fresh("pupil")}
        made[served] = api.select(name, [1, 0], **body)
        assert (made[served]["arm"], made[served]["propensity"]) == ("control", 1.0)
        report = {
            "decision_id": made[served]["decision_id"],
            "reward": {"x": 1.0, "y": 0.5}[served],
        }
        api.call("POST", "/reward", report)

    def state() -> Any:
        arms = {arm["name"]: arm for arm in api.state(name)["arms"]}
        return arms if arms["dark"]["agreement"]["share"]["num"] == 60 else None

    arms = poll(state, "60 agreements of the shadow")
    share = arms["dark"]["agreement"]["share"]
    assert share["mean"] == pytest.approx(20 / 60)  # it would have served y, as every third did
    assert share["low"] < 20 / 60 < share["high"]
    assert arms["dark"]["agreement"]["reward_share"] == pytest.approx(20 * 0.5 / (20 * 0.5 + 40))
    assert (arms["dark"]["share"], arms["dark"]["reward"]["num"]) == (0.0, 0)
    # Of the apprentice: where the bandit has the best mean of what was served, by its decisions.
    pupil = arms["control"]["agreement"]
    assert pupil["share"]["num"] == 60
    assert pupil["share"]["mean"] > 0.5
    assert pupil["reward_share"] > pupil["share"]["mean"], "it agrees where more was earned"
    lines = api.http.get("/metrics").text.splitlines()
    for arm, found in (("control", pupil), ("dark", arms["dark"]["agreement"])):
        label, share = f'{{bandit="{name}",arm="{arm}"}}', found["share"]
        wanted = {
            "": share["mean"],
            "_low": share["low"],
            "_high": share["high"],
            "_reward_share": found["reward_share"],
        }
        for ending, number in wanted.items():
            line = f"bandexa_arm_agreement{ending}{label} "
            (shown,) = [float(each.removeprefix(line)) for each in lines if each.startswith(line)]
            assert shown == pytest.approx(number)
    kept = api.call("GET", f"/bandits/{name}/decisions/{made['x']['decision_id']}")
    assert kept["shadows"] == {"dark": "y"}
    assert kept["reproduced"] == {"action": True, "score": True, "propensity": True}
    log = api.http.get(f"/bandits/{name}/log").text.splitlines()
    rows = [row for row in map(json.loads, log) if row["kind"] == "decision"]
    assert [row["shadows"] for row in rows] == [{"dark": "y"}] * 60


def test_the_guard_hands_over_and_a_restart_leaves_it_so(launch) -> None:
    spec = {
        "policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1,
        "reward_range": [0, 1], "arms": ARMS, "guard": {"margin": 0.1},
    }  # fmt: skip
    node: Node = launch("guard")
    node.call("PUT", "/bandits/shop", spec)
    node.call("PUT", "/bandits/shop/actions", {"ids": ["x", "y"], "features": [[1, 0], [0, 1]]})
    rewarded(node.call, "shop", 1000, {"control": 0.8, "bandit": 0.4})

    def tripped() -> dict[str, Any] | None:
        found: dict[str, Any] = node.call("GET", "/bandits/shop")
        return found if found["guarded"] is not None else None

    state = poll(tripped, "the guard acts")
    guarded = state["guarded"]
    assert (guarded["arm"], guarded["margin"], state["spec"]["mode"]) == (
        "control", 0.1, "control_only",
    )  # fmt: skip
    assert guarded["low"] < -0.4 < guarded["high"] < -0.1
    assert "guard-tripped" in {each["name"] for each in state["learning"]["findings"]}

    def noted() -> bool:
        newest = node.call("GET", "/bandits/shop/audit")["entries"][0]
        return (newest["by"], newest["what"]) == ("(guard)", "guard")

    poll(noted, "what the guard did is in the audit trail")
    node.call("PUT", "/bandits/shop", spec | {"training": {"train_every": 77}})  # says no mode
    version = node.http.get("/bandits/shop").headers["etag"]
    node.stop()
    node.start()
    assert node.http.get("/bandits/shop").headers["etag"] == version
    answers = [
        node.call("POST", "/select", {"bandit": "shop", "context": [1, 0]}) for _ in range(10)
    ]
    assert {(each["arm"], each["action"]["id"], each["propensity"]) for each in answers} == {
        ("control", "y", 1.0)
    }
    assert node.call("GET", "/bandits/shop")["guarded"] == guarded
    state = node.call("PUT", "/bandits/shop/mode", {"mode": "learn"})
    assert (state["guarded"], state["spec"]["mode"]) == (None, "learn")
    assert [arm["reward"]["num"] for arm in state["arms"]] == [0, 0]
    rewarded(node.call, "shop", 50, {"control": 0.5, "bandit": 0.5})
    state = counted(node.call, "shop", 50)  # anew: what came before is no reason any more
    assert sum(arm["reward"]["num"] for arm in state["arms"]) == 50
    assert state["guarded"] is None


def test_one_call_serves_one_action_and_one_takes_it_back(api) -> None:
    name = api.two_actions()
    state = api.call("PUT", f"/bandits/{name}/mode", {"serve": "y"})
    assert (state["spec"]["mode"], state["spec"]["serve"]) == ("learn", "y")
    for _ in range(5):
        answer = api.select(name, [1, 0])
        assert (answer["arm"], answer["action"]["id"], answer["propensity"]) == ("served", "y", 1.0)
    assert api.select(name, [1, 0], candidates=["x"])["arm"] is None
    again = api.call("PUT", f"/bandits/{name}/mode", {"serve": "y"})
    assert again["position"] == state["position"]  # nothing changed, and no row says so
    api.call("PUT", f"/bandits/{name}/mode", {})
    assert api.select(name, [1, 0])["arm"] is None
    api.call("PUT", f"/bandits/{name}/mode", {"serve": "z"}, 404)
    api.call("DELETE", f"/bandits/{name}/actions/x")
    for body in ({"serve": "x"}, {"mode": "control_only"}, {"mode": "off"}, {"serve": "no id"}):
        api.call("PUT", f"/bandits/{name}/mode", body, 422)


def test_a_guard_acts_on_a_metric_that_is_not_learned(launch) -> None:
    """Sales are equal, and the bandit's returns are many more: the control takes over."""
    node: Node = launch("metrics")
    spec = {
        "policy": "uniform", "context": {"shape": [2]}, "arms": ARMS,
        "rewards": {"learn": {"sale": 1.0}, "metrics": ["sale", "refund"]},
        "guard": {"margin": 0.2, "metrics": {"refund": {"margin": 0.1, "better": "lower"}}},
    }  # fmt: skip
    node.call("PUT", "/bandits/shop", spec)
    node.call("PUT", "/bandits/shop/actions", {"ids": ["x", "y"]})
    reward_of = {
        "control": {"sale": 0.5, "refund": 0.1}, "bandit": {"sale": 0.5, "refund": 0.9},
    }  # fmt: skip
    rewarded(node.call, "shop", 1000, reward_of)

    def tripped() -> dict[str, Any] | None:
        found: dict[str, Any] = node.call("GET", "/bandits/shop")
        return found if found["guarded"] is not None else None

    state = poll(tripped, "the guard acts")
    guarded = state["guarded"]
    assert (guarded["metric"], guarded["arm"], guarded["margin"]) == ("refund", "control", 0.1)
    assert 0.1 < guarded["low"] < 0.8 < guarded["high"]
    assert state["spec"]["mode"] == "control_only"
    (finding,) = [f for f in state["learning"]["findings"] if f["name"] == "guard-tripped"]
    assert "by refund" in finding["message"]


def test_the_lift_by_each_metric_is_a_metric_of_prometheus(api) -> None:
    name = api.two_actions(
        policy="uniform", arms=ARMS, rewards={"learn": {"sale": 1.0}, "metrics": ["sale", "click"]}
    )
    reward_of = {"control": {"sale": 0.5, "click": 0.1}, "bandit": {"sale": 0.5, "click": 0.9}}
    rewarded(api.call, name, 400, reward_of)
    control, _ = counted(api.call, name, 400)["arms"]
    text = api.http.get("/metrics").text
    for metric in ("sale", "click"):
        label = f'bandit="{name}",arm="control",metric="{metric}"'
        lift = control["metrics"][metric]["lift"]
        for end, key in (("", "mean"), ("_low", "low"), ("_high", "high")):
            line = f"bandexa_arm_metric_lift{end}{{{label}}} "
            (value,) = [one.split()[-1] for one in text.splitlines() if one.startswith(line)]
            assert float(value) == pytest.approx(lift[key])
    click = control["metrics"]["click"]["lift"]
    assert 0.0 < click["low"] < 0.8 < click["high"]


def test_values_have_each_metric_of_each_action(api) -> None:
    name = api.two_actions(
        policy="uniform",
        reward_range=[0, 10],
        rewards={"learn": {"click": 1.0, "money": 0.1}, "aggregate": "last"},
    )
    reports: list[tuple[str, dict[str, float]]] = [
        ("x", {"click": 1, "money": 20}), ("x", {"click": 0}), ("y", {"click": 1}),
    ]  # fmt: skip
    ids = []
    for action, metrics in reports:
        made = api.select(name, [1, 2], candidates=[action])
        ids.append(made["decision_id"])
        api.call("POST", "/reward", {"decision_id": ids[-1], "metrics": metrics})
    api.call("POST", "/reward", {"decision_id": ids[1], "metrics": {"click": 1, "money": 10}})
    api.call("POST", f"/bandits/{name}/rewards/void", {"decision_ids": [ids[2]]})

    def found() -> dict[str, Any] | None:
        values = api.call("GET", f"/bandits/{name}/values")["actions"]
        whole = {each["id"]: {"reward": each["reward"]} | each["metrics"] for each in values}
        nums = {key: {name: part["num"] for name, part in of.items()} for key, of in whole.items()}
        wanted = {"x": {"reward": 2, "click": 2, "money": 2}, "y": {"reward": 0, "click": 0}}
        return whole if nums == wanted else None

    metrics = poll(found, "corrections and void values are counted")["x"]
    assert metrics["click"]["mean"] == pytest.approx(1.0)
    assert metrics["money"]["mean"] == pytest.approx(15.0)
    assert metrics["reward"]["mean"] == pytest.approx(2.5)


def test_the_state_has_the_lift_for_each_value_of_the_segment(api) -> None:
    name = api.fresh("segments")
    spec = {
        "policy": "uniform", "context": {"features": "auto"}, "arms": ARMS, "segment": "country",
        "reward_range": [0, 1],
    }  # fmt: skip
    api.call("PUT", f"/bandits/{name}", spec, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["x", "y"]})
    contexts = [{"country": "DE"}, {"country": "FR"}, {}]
    rewarded(api.call, name, 300, {"control": 0.2, "bandit": 0.6}, contexts)
    control, bandit = counted(api.call, name, 300)["arms"]
    assert set(control["segments"]) == {"DE", "FR", "(missing)"}
    for value, found in control["segments"].items():
        assert found["reward"]["mean"] == pytest.approx(0.2)
        assert found["reward"]["num"] + bandit["segments"][value]["reward"]["num"] == 100
    assert api.call("GET", f"/bandits/{name}/values")["arms"] == [control, bandit]
    bad = api.call(
        "PUT", f"/bandits/{api.fresh()}", {"context": {"shape": [2]}, "segment": "x"}, 422
    )
    assert "segment" in bad["detail"]


def learnz(api, name: str) -> dict[str, Any]:
    """Return what `/learnz` says of a bandit; 503 where one of another test has an alarm."""
    found: dict[str, Any] = api.http.get("/learnz").json()["bandits"][name]
    return found


def test_learnz_says_whether_it_is_better_in_figures_and_in_words(api) -> None:
    name = api.fresh("lifted")
    spec = {
        "policy": "uniform", "context": {"features": "auto"}, "segment": "country",
        "arms": [*ARMS, {"name": "dark", "share": 0, "action": "x", "shadow": True}],
        "reward_range": [0, 1], "rewards": {"learn": {"sale": 1.0}, "metrics": ["sale", "refund"]},
    }  # fmt: skip
    api.call("PUT", f"/bandits/{name}", spec, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["x", "y"]})
    (nothing,) = learnz(api, name)["lifts"]  # a shadow serves nothing, and has none
    assert nothing["text"] == "Is it better than control? There are too few values to say."
    assert learnz(api, name)["action_values"] == []
    reward_of = {"control": {"sale": 0.2, "refund": 0.1}, "bandit": {"sale": 0.8, "refund": 0.1}}
    rewarded(api.call, name, 600, reward_of, [{"country": "DE"}, {"country": "FR"}])
    control, _ = (arm for arm in counted(api.call, name, 600)["arms"] if arm["name"] != "dark")
    found = learnz(api, name)
    (line,) = found["lifts"]
    assert (line["arm"], line["share"], line["lift"]) == ("control", 0.5, control["lift"])
    assert line["lift"]["low"] > 0
    assert line["text"].startswith("Is it better than control? Yes. +0.")
    assert f"{line['lift']['low']:.3g} to {line['lift']['high']:.3g}, of 600" in line["text"]
    assert line["metrics"]["sale"]["lift"] == control["metrics"]["sale"]["lift"]
    assert line["metrics"]["sale"]["text"].startswith("sale: more than control, +0.")
    assert "not known to differ" in line["metrics"]["refund"]["text"]
    assert set(line["segments"]) == {"DE", "FR"}
    assert line["segments"]["DE"]["lift"] == control["segments"]["DE"]["lift"]
    text = api.http.get("/metrics").text
    label = f'bandexa_arm_segment_lift_low{{bandit="{name}",arm="control",segment="FR"}} '
    (low,) = [one.split()[-1] for one in text.splitlines() if one.startswith(label)]
    assert float(low) == pytest.approx(control["segments"]["FR"]["lift"]["low"])
    with BanditClient(str(api.http.base_url)) as client:
        learned = client.learnz().bandits[name]
    assert learned.lifts is not None
    assert learned.lifts[0].text == line["text"]


def test_state_learnz_and_metrics_have_what_the_first_actions_earned(launch) -> None:
    node: Node = launch("earned")
    spec = {"policy": "uniform", "context": {"shape": [2]}, "reward_range": [0, 1]}
    node.call("PUT", "/bandits/shop", spec)
    ids = [f"a{number}" for number in range(12)]
    node.call("PUT", "/bandits/shop/actions", {"ids": ids})
    for number, action in enumerate(ids):
        for _ in range(14 - number):
            ask = {"bandit": "shop", "context": [1, 0], "candidates": [action]}
            made = node.call("POST", "/select", ask)
            report = {"decision_id": made["decision_id"], "reward": number / 12}
            node.call("POST", "/reward", report)

    def known() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = node.call("GET", "/bandits/shop")["action_values"]
        nums = [(each["id"], each["reward"]["num"]) for each in found]
        return found if nums == [(f"a{n}", 14 - n) for n in range(10)] else None

    values = poll(known, "the ten actions with the most values")
    assert values == node.call("GET", "/bandits/shop/values", limit=10)["actions"]
    assert node.call("GET", "/learnz")["bandits"]["shop"]["action_values"] == values
    lines = node.http.get("/metrics").text.splitlines()
    for each in values:
        label = f'{{bandit="shop",action="{each["id"]}"}} '
        found = {line.split("{")[0]: float(line.split()[-1]) for line in lines if label in line}
        assert found == {
            "bandexa_action_values": each["reward"]["num"],
            "bandexa_action_reward_mean": pytest.approx(each["reward"]["mean"]),
            "bandexa_action_reward_low": pytest.approx(each["reward"]["low"]),
            "bandexa_action_reward_high": pytest.approx(each["reward"]["high"]),
        }
    fewer = node.http.get("/metrics?histograms=false").text
    assert "bandexa_action_values{" not in fewer
    node.stop()
    node.start()  # quiet since: what is stored is there again
    poll(known, "the same after a restart")
