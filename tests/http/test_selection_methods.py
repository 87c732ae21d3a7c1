"""Methods of selection over HTTP: changed on a live bandit, explained, as frequent as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.fixtures.matrices import spread

IDS = ["a", "b", "c", "d"]
EYE = np.eye(4).tolist()
METHODS = ["thompson", "squarecb", "greedy", "uniform"]
WAYS: list[dict[str, Any]] = [
    {}, {"k": 3}, {"retrieve": 2}, {"retrieve": 3, "k": 2}, {"candidates": ["c", "a", "b"]},
    {"candidates": [{"id": "x", "features": [1, 0, 0, 0]}, {"id": "y", "features": [1, 1, 0, 0]}]},
]  # fmt: skip


@pytest.fixture
def taught(api):
    """Return a bandit that has learned d > c > b > a."""

    def make(**spec: Any) -> str:
        name: str = api.bandit(IDS, EYE, action_dim=4, **spec)
        for rank, action in enumerate(IDS):
            for _ in range(3):
                api.teach(name, [0, 0], action, rank / 3)
        return name

    return make


def put(api: Any, name: str, **selection: Any) -> dict[str, Any]:
    """Change the selection of a bandit, and nothing else."""
    spec = api.call("GET", f"/bandits/{name}")["spec"]
    answer = api.call("PUT", f"/bandits/{name}", spec | {"selection": selection})
    changed: dict[str, Any] = answer["spec"]["selection"]
    return changed


@pytest.mark.parametrize(
    ("field", "value"),
    [("method", "ucb"), ("method", None), ("gamma", 0), ("gamma", -1), ("gamma", 1e10)],
)  # fmt: skip
def test_a_bad_value_is_refused_by_its_name(api, problem, field: str, value: Any) -> None:
    body = {"context": {"shape": [2]}, "selection": {field: value}}
    response = api.http.put(f"/bandits/{api.fresh()}", json=body)
    found = problem(response, 422, "invalid-request")["errors"]
    assert field in found[0]["field"] + found[0]["message"]


def test_a_method_is_changed_on_a_live_bandit_and_back(api, taught) -> None:
    name = taught(selection={"epsilon": 0.0})
    before = api.call("GET", f"/bandits/{name}")["spec"]["selection"]
    assert (before["method"], before["gamma"]) == ("thompson", 10.0)
    assert put(api, name, epsilon=0.2, method="greedy")["method"] == "greedy"
    found = {api.select(name, [0, 0])["action"]["id"] for _ in range(60)}
    assert len(found) > 1
    certain = put(api, name, epsilon=0.0, method="greedy")
    assert certain["epsilon"] == 0.0
    for _ in range(10):
        answer = api.select(name, [0, 0])
        assert (answer["action"]["id"], answer["propensity"]) == ("d", 1.0)
    put(api, name, method="uniform")
    assert {api.select(name, [0, 0])["propensity"] for _ in range(5)} == {0.25}
    assert put(api, name, **before) == before


@pytest.mark.few(6)
@pytest.mark.parametrize(("method", "way"), spread(METHODS, WAYS))
def test_every_decision_is_explained_as_it_was_served(api, taught, method, way) -> None:
    name = taught(selection={"method": method, "epsilon": 0.3, "gamma": 1.0})
    for _ in range(8):
        own = {"decision_id": api.fresh("explained")} | way
        answer = api.select(name, [0.5, -0.5], **own)
        why = api.call("GET", f"/bandits/{name}/decisions/{own['decision_id']}")
        assert why["reproduced"] == {"action": True, "score": True, "propensity": True}
        assert why["propensity"] == answer["propensity"]
        by_id = {line["id"]: line["propensity"] for line in why["candidates"]}
        assert by_id[answer["action"]["id"]] == pytest.approx(answer["propensity"], abs=1e-12)
        if "k" in way:
            assert answer["propensities"][0] == pytest.approx(answer["propensity"], abs=1e-12)
            assert len(answer["propensities"]) == way["k"]


def test_served_actions_are_as_frequent_as_squarecb_says_over_http(api, taught) -> None:
    """1 / (4 + 10 sqrt(12) gap) for all but the best, with a floor of a tenth."""
    name = taught(selection={"method": "squarecb", "epsilon": 0.1, "gamma": 3.0})
    means = np.array(api.means(name, [0, 0]))
    shares = 1.0 / (4 + 3.0 * np.sqrt(12) * (means.max() - means))
    shares[3] = 1.0 - shares[:3].sum()
    expected = 0.9 * shares + 0.1 / 4
    items = [
        {"bandit": name, "context": [0, 0], "decision_id": f"{name}:{number}"}
        for number in range(1000)
    ]
    answers = api.call("POST", "/select/batch", {"items": items})["items"]
    indexes = [item["answer"]["action"]["index"] for item in answers]
    for item, index in zip(answers, indexes, strict=True):
        assert item["answer"]["propensity"] == pytest.approx(expected[index], abs=1e-12)
        assert item["answer"]["score"] == pytest.approx(means[index], abs=1e-12)
    counts = np.bincount(indexes, minlength=4)
    assert stats.chisquare(counts, 1000 * expected).pvalue > 1e-3


def test_the_policies_greedy_and_uniform_remain_what_they_are(api, taught) -> None:
    greedy = taught(policy="greedy", selection={"method": "squarecb", "epsilon": 0.5})
    for _ in range(5):
        answer = api.select(greedy, [0, 0])
        assert (answer["action"]["id"], answer["propensity"]) == ("d", 1.0)
    uniform = taught(policy="uniform", selection={"method": "squarecb"})
    assert api.select(uniform, [0, 0])["propensity"] == 0.25


def test_a_warm_up_is_uniform_under_every_method(api) -> None:
    for method in METHODS:
        name = api.two_actions(selection={"method": method, "warmup_random": 1})
        assert api.select(name, [1, 0])["propensity"] == 0.5
        api.teach(name, [1, 0], "x", 1.0)
        propensities = {api.select(name, [1, 0])["propensity"] for _ in range(40)}
        assert (propensities == {0.5}) == (method == "uniform")


@pytest.mark.few(1)
@pytest.mark.parametrize("method", METHODS)
def test_a_catalogue_of_ten_thousand_is_selected_from(api, packed, envelope, method) -> None:
    num = 10_000
    name = api.bandit(
        policy="neural_linear_ts", action_dim=4, selection={"method": method},
        encoder={"name": "two_tower", "params": {"tower_dim": 64, "hidden": []}},
    )  # fmt: skip
    features = np.random.default_rng(0).normal(size=(num, 4))
    body = {
        "ids": [f"a{number}" for number in range(num)],
        "features": envelope(features, "float32", binary=True),
    }
    assert packed("PUT", f"/bandits/{name}/actions", body).status_code == 200
    api.teach(name, [1, 1], "a3", 1.0)
    for more in ({}, {"k": 5}, {"retrieve": 20, "k": 5}):
        answer = api.select(name, [1, 2], all_propensities=True, **more)
        everyone = answer["all_propensities"]
        assert [row["id"] for row in everyone] == body["ids"]
        assert sum(row["propensity"] for row in everyone) == pytest.approx(1.0)
        index = answer["action"]["index"]
        assert everyone[index]["propensity"] == pytest.approx(answer["propensity"], abs=1e-12)
        assert answer["propensity"] > 0.0


@pytest.mark.parametrize("encoder", ["per_action", "bilinear"])
def test_older_draws_are_kept_until_they_are_changed_and_then_still_explained(api, encoder) -> None:
    """A configuration that says nothing of the draws leaves them as they are."""
    name = api.bandit(IDS, EYE, action_dim=4, encoder={"name": encoder}, selection={"draws": 1})
    assert put(api, name, panel=32)["draws"] == 1
    decided = {}
    for draws in (1, 2):
        assert put(api, name, draws=draws)["draws"] == draws
        assert put(api, name, panel=32)["draws"] == draws
        decided[draws] = [api.fresh("drawn") for _ in range(6)]
        for own_id in decided[draws]:
            api.select(name, [0.5, -1.0], decision_id=own_id)
    for own_id in decided[1] + decided[2]:
        found = api.call("GET", f"/bandits/{name}/decisions/{own_id}")
        assert found["reproduced"] == {"action": True, "score": True, "propensity": True}
    fresh = api.bandit(IDS, EYE, action_dim=4, encoder={"name": encoder})
    assert api.call("GET", f"/bandits/{fresh}")["spec"]["selection"]["draws"] == 2
