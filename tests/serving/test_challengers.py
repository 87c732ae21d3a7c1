"""Challengers of a served bandit: compared by its log, tried out, promoted, and taken back."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from bandexa_core.spec import ActionsSpec, BanditSpec, ContextSpec, RewardSpec
from service.serving.challengers import promoted_spec
from tests.fixtures.waiting import poll

CONTEXTS = [[1, 0], [0, 1]]  # one action each is the best of
CHAMPION: dict[str, Any] = {
    "encoder": {"name": "concat"}, "selection": {"epsilon": 0.1}, "seed": 5,
}  # fmt: skip
BETTER = {"encoder": {"name": "bilinear"}}
# Rounds scale inputs anew by the rows that there are then: those of two bandits come at other rows.
ALIKE = {"encoder": {"name": "concat", "standardize": False}, "training": {"mode": "lockstep"}}
BETTER_ALIKE = {"encoder": {"name": "bilinear", "standardize": False}}


def played(call, name: str, num: int, first: int = 0) -> dict[str, list[float]]:
    """Have a bandit decide and learn in a world whose best action depends on the context.

    Returns the rewards of each arm.
    """
    rng = np.random.default_rng(first)
    found: dict[str, list[float]] = {}
    for start in range(0, num, 250):
        kinds = rng.integers(2, size=min(250, num - start)).tolist()
        items = [{"bandit": name, "context": CONTEXTS[kind]} for kind in kinds]
        answers = call("POST", "/select/batch", {"items": items})["items"]
        rewards = []
        for kind, item in zip(kinds, answers, strict=True):
            answer = item["answer"]
            good = answer["action"]["id"] == "xy"[kind]
            reward = float(rng.random() < (0.8 if good else 0.3))
            found.setdefault(answer.get("arm") or "bandit", []).append(reward)
            rewards.append({"decision_id": answer["decision_id"], "reward": reward})
        call("POST", "/reward/batch", {"items": rewards})
    return found


def declared(call, name: str, challenger: str, **body: Any) -> dict[str, Any]:
    state: dict[str, Any] = call("PUT", f"/bandits/{name}/challengers/{challenger}", body, 201)
    return state


def compared(call, name: str, challenger: str) -> dict[str, Any]:
    """Return a challenger once it is compared on the whole log."""
    learned = call("GET", f"/bandits/{name}")["num_learned"]

    def score() -> dict[str, Any] | None:
        found: dict[str, Any] = call("GET", f"/bandits/{name}/challengers/{challenger}")
        known = found["score"]
        return found if known is not None and known["learned"] >= learned else None

    return poll(score, f"{challenger} is compared", 60)


@pytest.fixture(scope="module")
def shop(api) -> str:
    """A bandit that learns no products of context and action, with 2,000 decisions."""
    name: str = api.two_actions(**CHAMPION)
    played(api.call, name, 2000)
    return name


def test_challengers_are_compared_side_by_side_on_the_same_rows(api, shop: str) -> None:
    state = declared(api.call, shop, "products", **BETTER)
    assert (state["state"], state["share"], state["score"]) == ("learning", 0.0, None)
    assert set(state["differs"]) == {"encoder"}
    declared(api.call, shop, "greedy")
    better = compared(api.call, shop, "products")["score"]
    same = compared(api.call, shop, "greedy")["score"]
    assert (better["error"], better["reasons"]) == (None, [])
    assert (better["num"], same["num"]) == (2000, 2000)
    assert 0.0 < better["low"] < better["lift"] < better["high"]
    # It chooses the better action in 95 % of decisions. The standard error is .022 at most.
    assert better["value"] == pytest.approx(0.775, abs=0.09)
    assert better["value"] == pytest.approx(better["served"] + better["lift"])
    assert better["is_better"]
    assert not same["is_better"]
    assert abs(same["lift"]) < 0.1
    shown = api.call("GET", f"/bandits/{shop}")["challengers"]
    assert [each["name"] for each in shown] == ["greedy", "products"]
    assert shown == api.call("GET", f"/bandits/{shop}/challengers")["challengers"]
    newest = api.call("GET", f"/bandits/{shop}/audit")["entries"][0]
    assert newest["what"] == f"PUT /bandits/{shop}/challengers/greedy"


def taught(call, name: str, num: int, first: int = 0) -> None:
    """Have a bandit learn rows that depend on nothing but their numbers."""
    for number in range(first, first + num):
        kind, action = number % 2, "xy"[number // 2 % 2]
        body = {"bandit": name, "context": CONTEXTS[kind], "candidates": [action]}
        chosen = call("POST", "/select", body)
        reward = float(action == "xy"[kind]) - 0.01 * (number % 7)
        call("POST", "/reward", {"decision_id": chosen["decision_id"], "reward": reward})


def test_a_promotion_undone_restores_the_posterior_with_all_rows_since(api) -> None:
    name, twin = (api.two_actions(**CHAMPION | ALIKE) for _ in range(2))
    for each in (name, twin):
        taught(api.call, each, 60)
    declared(api.call, name, "products", **BETTER)
    where, before = f"/bandits/{name}/challengers/products", api.state(name)
    promoted = api.call("POST", f"{where}/promote?wait=true", {})
    assert promoted["spec"]["encoder"]["name"] == "bilinear"
    assert promoted["rebuild"]["state"] == "done"
    assert api.call("GET", where)["state"] == "served"
    api.call("POST", f"{where}/promote", {}, expect=409)
    for each in (name, twin):
        taught(api.call, each, 20, first=60)
    found = api.call("POST", f"{where}/demote")
    assert found["spec"]["encoder"]["name"] == "concat"
    assert found["snapshot"] == before["snapshot"], "nothing is learned anew for it"
    assert (found["num_learned"], found["rebuild"]["state"]) == (80, "done")
    assert api.call("GET", where)["state"] == "learning"
    for context in ([1, 0], [0.3, -0.7]):
        mine, others = (api.scores(each, context)["scores"] for each in (name, twin))
        for one, two in zip(mine, others, strict=True):
            assert one["mean"] == pytest.approx(two["mean"], rel=1e-9)
            assert one["std"] == pytest.approx(two["std"], rel=1e-9)
    api.call("POST", f"{where}/demote", expect=409)


def test_a_promotion_keeps_the_rules_of_rewards_and_what_is_learned_of_metrics(api) -> None:
    rules = {"learn": {"money": 1.0, "click": 0.5}, "aggregate": "last"}
    name, twin = (
        api.two_actions(**CHAMPION | ALIKE | each, rewards=rules) for each in ({}, BETTER_ALIKE)
    )
    for number in range(40):
        metrics = {"money": number % 7, "click": number % 2}
        for each in (name, twin):
            body = {"candidates": ["xy"[number // 2 % 2]]}
            chosen = api.select(each, CONTEXTS[number % 2], **body)["decision_id"]
            api.call("POST", "/reward", {"decision_id": chosen, "metrics": metrics})
    declared(api.call, name, "products", **BETTER_ALIKE)
    where, before = f"/bandits/{name}/challengers/products", api.state(name)["spec"]
    promoted = api.call("POST", f"{where}/promote?wait=true", {})
    assert promoted["spec"]["encoder"]["name"] == "bilinear"
    assert promoted["spec"]["rewards"] == before["rewards"]
    mine, others = (api.scores(each, [1, 0])["scores"] for each in (name, twin))
    for one, two in zip(mine, others, strict=True):
        assert one["mean"] == pytest.approx(two["mean"], rel=1e-9)


def test_what_is_promoted_is_what_was_learned_with_all_that_holds_at_once() -> None:
    learned = BanditSpec(
        context=ContextSpec(features="auto"), actions=ActionsSpec(features="auto"), seed=1,
        rewards=RewardSpec(learn={"money": 1.0}),
    )  # fmt: skip
    rules = RewardSpec(learn={"click": 1.0}, reward_window_s=60.0, metrics=("click", "money"))
    longer = ContextSpec(features="auto", max_bytes=99)
    served = dataclasses.replace(learned, seed=2, rewards=rules, segment="device", context=longer)
    found = promoted_spec(learned, served)
    assert (found.seed, found.rewards.learn) == (1, {"money": 1.0})
    assert found.rewards == dataclasses.replace(rules, learn={"money": 1.0})
    assert (found.segment, found.context.max_bytes) == ("device", 99)


def test_a_trial_decides_its_share_by_its_own_model_with_exact_propensities(api) -> None:
    name = api.two_actions(**CHAMPION)
    taught(api.call, name, 200)
    declared(api.call, name, "products", **BETTER)
    where = f"/bandits/{name}/challengers/products"
    state = api.call("POST", f"{where}/promote", {"share": 0.25})
    assert [(arm["name"], arm["share"]) for arm in state["arms"]] == [
        ("products", 0.25), ("bandit", 0.75),
    ]  # fmt: skip
    assert state["spec"]["encoder"]["name"] == "concat", "nothing is switched"
    assert api.call("GET", where)["share"] == 0.25
    found = played(api.call, name, 1000)
    assert 200 < len(found["products"]) < 300
    assert np.mean(found["products"]) > np.mean(found["bandit"]) + 0.1

    def counted() -> dict[str, Any] | None:
        arm: dict[str, Any] = api.state(name)["arms"][0]
        return arm if arm["lift"]["num"] >= 1000 else None

    mine = poll(counted, "the trial is counted")
    assert mine["lift"]["mean"] < 0.0
    for kind in (0, 1):
        surplus = []
        for number in range(40):
            own = api.fresh(f"trial{number}")
            answer = api.select(name, CONTEXTS[kind], decision_id=own)
            explained = api.call("GET", f"/bandits/{name}/decisions/{own}")
            assert explained["reproduced"] == {
                "action": True, "score": True, "propensity": True,
            }  # fmt: skip
            is_x, chance = answer["action"]["id"] == "x", answer["propensity"]
            surplus.append(is_x - (chance if is_x else 1.0 - chance))
        # The standard error of the mean is .08 at most.
        assert np.mean(surplus) == pytest.approx(0.0, abs=0.32), "x comes as often as it says"
    ended = api.call("POST", f"{where}/demote")
    assert ended["arms"] == []
    assert {each["answer"]["arm"] for each in _asked(api, name, 50)} == {None}


def _asked(api, name: str, num: int) -> list[dict[str, Any]]:
    items = [{"bandit": name, "context": [1, 0]}] * num
    found: list[dict[str, Any]] = api.call("POST", "/select/batch", {"items": items})["items"]
    return found


def test_a_configuration_neither_makes_nor_ends_a_trial(api) -> None:
    name = api.two_actions(**CHAMPION)
    taught(api.call, name, 20)
    declared(api.call, name, "products", **BETTER)
    where = f"/bandits/{name}/challengers/products"
    spec = api.call("POST", f"{where}/promote", {"share": 0.1})["spec"]
    control = {"name": "control", "share": 0.2, "action": "x"}
    changed = api.call("PUT", f"/bandits/{name}", spec | {"arms": [control]})
    assert [arm["name"] for arm in changed["spec"]["arms"]] == ["control", "products"]
    api.call("POST", f"{where}/demote")
    refused = api.call("PUT", f"/bandits/{name}", spec, expect=422)
    assert refused["detail"].startswith("arms.0.challenger: is made by promoting")
    assert [arm["name"] for arm in api.state(name)["arms"]] == ["control", "bandit"]


def test_what_makes_no_sense_is_refused_and_changes_nothing(api) -> None:
    name = api.two_actions(**CHAMPION)
    where = f"/bandits/{name}/challengers"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"encoder": {"name": "concat"}}, "challenger: has the configuration that is served"),
        ({"context": {"shape": [3]}}, "context.shape: is the form of the log"),
        ({"encoder": {"name": "unheard"}}, "encoder.name: must be one of"),
        (BETTER | {"promotion": {"steps": [0.25, 0.05, 1]}}, "promotion.steps: must ascend"),
        (BETTER | {"promotion": {"steps": [0.05]}}, "promotion.steps: the last one is 1"),
        (BETTER | {"selection": {"panel": 8}}, "selection: "),
        ({"rewards": {"learn": {"money": 1.0}}}, "rewards: "),  # values must be those of the log
    ]
    for body, detail in wrong:
        refused = api.call("PUT", f"{where}/wrong", body, expect=422)
        assert detail in refused["detail"], refused
    for number in range(3):
        other = {"posterior": {"prior_var": 2.0 + number}}
        api.call("PUT", f"{where}/c{number}", other, expect=201)
    assert "has 3 challengers" in api.call("PUT", f"{where}/c3", BETTER, expect=409)["detail"]
    assert api.call("PUT", f"{where}/c2", {"posterior": {"prior_var": 9.0}})["state"] == "learning"
    api.call("DELETE", f"{where}/c0", expect=204)
    api.call("GET", f"{where}/c0", expect=404)
    api.call("POST", f"{where}/c0/promote", {}, expect=404)
    assert [each["name"] for each in api.state(name)["challengers"]] == ["c1", "c2"]


def test_a_better_challenger_is_promoted_by_its_rule(api) -> None:
    name = api.two_actions(**CHAMPION)
    rule = {"rule": "auto", "margin": 0.05, "steps": [0.1, 0.2, 1], "step_values": 200}
    where = f"/bandits/{name}/challengers/products"
    played(api.call, name, 2000)  # before it is declared: it is compared once, not as the log grows
    declared(api.call, name, "products", **BETTER, promotion=rule)

    def state() -> str:
        found: str = api.call("GET", where)["state"]
        return found

    def has(share: float) -> bool:
        return bool(api.call("GET", where)["share"] == share)

    def begins() -> bool:
        found = api.call("GET", where)
        score = found["score"]
        if found["state"] == "learning" and score and not score["is_better"]:
            played(api.call, name, 250, first=score["learned"])  # the log does not say it yet
        return bool(found["state"] == "trial")

    poll(begins, "its trial begins", 180)  # what compares has the lowest priority
    for number, share in enumerate((0.1, 0.2)):
        poll(partial(has, share), "it has its share", 60)
        played(api.call, name, 250, first=9 + number)
    poll(lambda: state() == "served", "it is served", 60)
    done = poll(lambda: not api.state(name)["arms"] and api.state(name), "its trial has ended", 60)
    assert done["spec"]["encoder"]["name"] == "bilinear"
    steps = [
        each for each in api.call("GET", f"/bandits/{name}/audit")["entries"]
        if each["by"] == "(rule)"
    ]  # fmt: skip
    assert [each["changes"][0]["new"] for each in reversed(steps)] == [0.1, 0.2, 1.0, "promoted"]


@pytest.mark.slow
def test_a_worse_challenger_is_returned_and_not_tried_again_by_its_rule(api) -> None:
    name = api.two_actions(**CHAMPION | {"encoder": {"name": "bilinear"}})
    taught(api.call, name, 200)
    rule = {"rule": "auto", "margin": 0.02, "step_values": 100_000}
    declared(api.call, name, "sums", encoder={"name": "concat"}, promotion=rule)
    where = f"/bandits/{name}/challengers/sums"
    api.call("POST", f"{where}/promote", {"share": 0.5})
    played(api.call, name, 1000)
    poll(lambda: api.call("GET", where)["state"] == "returned", "it is returned", 60)
    state = api.state(name)
    assert state["arms"] == []
    newest = api.call("GET", f"/bandits/{name}/audit")["entries"][0]
    assert (newest["by"], newest["changes"][0]["new"]) == ("(rule)", "worse")
    assert api.call("PUT", where, {"encoder": {"name": "concat"}})["state"] == "learning"


def test_a_trial_takes_no_arm_away_and_its_name_is_free(api) -> None:
    name = api.two_actions(**CHAMPION)
    taught(api.call, name, 20)
    where = f"/bandits/{name}/challengers"
    for taken in ("bandit", "served"):
        refused = api.call("PUT", f"{where}/{taken}", BETTER, expect=422)
        assert refused["detail"] == "challenger: must be neither 'bandit' nor 'served'"
    declared(api.call, name, "products", **BETTER)
    own = {"name": "products", "share": 0.2, "action": "x"}
    api.call("PUT", f"/bandits/{name}", api.state(name)["spec"] | {"arms": [own]})
    refused = api.call("POST", f"{where}/products/promote", {"share": 0.1}, expect=409)
    assert "has an arm 'products'" in refused["detail"]
    (arm,) = api.state(name)["spec"]["arms"]
    assert {key: arm[key] for key in own} == own


def test_a_frozen_bandit_learns_no_challenger_to_serve(api) -> None:
    name = api.two_actions(**CHAMPION)
    taught(api.call, name, 20)
    declared(api.call, name, "products", **BETTER)
    api.call("PUT", f"/bandits/{name}", api.state(name)["spec"] | {"mode": "frozen"})
    before = api.state(name)
    for body in ({}, {"share": 0.1}):
        where = f"/bandits/{name}/challengers/products/promote"
        assert "is frozen" in api.call("POST", where, body, expect=409)["detail"]
    assert api.state(name) == before


def test_of_two_trials_asked_for_at_once_one_begins(api) -> None:
    name = api.two_actions(**CHAMPION)
    taught(api.call, name, 60)
    names = ("products", "wide")
    declared(api.call, name, "products", **BETTER)
    declared(api.call, name, "wide", **BETTER, posterior={"prior_var": 3.0})

    def tried(challenger: str) -> int:
        path = f"/bandits/{name}/challengers/{challenger}/promote"
        status: int = api.http.request("POST", path, json={"share": 0.1}).status_code
        return status

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tried, names * 2))
    assert set(found) == {200, 409}
    begun = [arm["name"] for arm in api.state(name)["arms"] if arm["name"] != "bandit"]
    assert len(begun) == 1
    versions = [
        each["version"] for each in api.call("GET", f"/bandits/{name}/snapshots")["snapshots"]
    ]
    assert max(versions) <= 4, "no round follows another"
