"""A decision is explained by drawing it again: what comes out is what was served."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.observe.dashboard.fed import Fed


@pytest.fixture(scope="module")
def server(start_module_server: Any) -> Any:
    return start_module_server()


@pytest.fixture
def fed(server: Any) -> Iterator[Fed]:
    found = Fed(server.url)
    yield found
    found.http.close()


KINDS: dict[str, dict[str, Any]] = {
    "linear": {},
    "per_action": {"encoder": {"name": "per_action"}, "action_dim": 0},
    "mlp": {"policy": "neural_linear_ts", "encoder": {"name": "mlp"}},
    "two_tower": {"policy": "neural_linear_ts", "encoder": {"name": "two_tower"}},
    "greedy": {"policy": "greedy"},
    "uniform": {"policy": "uniform"},
    "warm-up": {"selection": {"warmup_random": 30}},
}


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", KINDS)
def test_drawn_again_it_is_what_was_served(fed: Fed, kind: str) -> None:
    name = f"again-{kind}"
    fed.shop(name, **KINDS[kind])
    fed.visit(name, 0, 50)
    for number in range(0, 50, 7):
        stored = fed.call("GET", f"/bandits/{name}/decisions/{name}-{number}")
        assert stored["explained"] == "yes"
        assert stored["reproduced"] == {"action": True, "score": True, "propensity": True}
        (chosen,) = [one for one in stored["candidates"] if one["chosen"]]
        assert chosen["id"] == stored["chosen"][0]["id"]
        assert chosen["sampled"] == pytest.approx(stored["chosen"][0]["score"], rel=1e-12)
        assert chosen["propensity"] == stored["propensity"]
        assert sum(one["propensity"] for one in stored["candidates"]) == pytest.approx(1.0)
        best = max(stored["candidates"], key=lambda one: float(one["mean"]))
        if stored["explored"] is not None:
            assert stored["explored"] or chosen["mean"] == best["mean"]
            assert not stored["explored"] or chosen["id"] != best["id"]
            # mlp draws on float32 features, and the exact spread is shown here
            assert stored["std"] == pytest.approx(
                chosen["std"], rel=1e-6 if kind == "mlp" else 1e-9
            )


def test_it_shows_the_means_at_its_own_position(fed: Fed) -> None:
    fed.shop("then", training={"mode": "lockstep"})  # no round changes the model between the calls
    fed.visit("then", 0, 12)
    context = [0.3, -0.4, 1.0]
    scored = fed.call("POST", "/bandits/then/score", {"context": context})["scores"]
    fed.call("POST", "/select", {"bandit": "then", "context": context, "decision_id": "then-x"})
    fed.visit("then", 20, 30)  # the model moves on
    stored = fed.call("GET", "/bandits/then/decisions/then-x")
    for one, score in zip(stored["candidates"], scored, strict=True):
        assert one["id"] == score["id"]
        assert one["mean"] == pytest.approx(score["mean"], rel=1e-12)
        assert one["std"] == pytest.approx(score["std"], rel=1e-12)
    data = np.frombuffer(base64.b64decode(stored["context"]["data"]), stored["context"]["dtype"])
    assert data.tolist() == np.array(context, stored["context"]["dtype"]).tolist()
    assert stored["context"]["values"] == data.tolist()


def test_of_several_chosen_actions_each_shows_what_was_learned(fed: Fed) -> None:
    fed.shop("several")
    ask = {"bandit": "several", "context": [0.1, 0.2, 1.0], "decision_id": "several-1", "k": 2}
    made = fed.call("POST", "/select", ask)
    second = made["actions"][1]["id"]
    report = {"decision_id": "several-1", "reward": 0.75, "action": second}
    fed.call("POST", "/reward", report)
    stored = fed.call("GET", "/bandits/several/decisions/several-1")
    assert [one["id"] for one in stored["chosen"]] == [one["id"] for one in made["actions"]]
    assert [one["value"] for one in stored["chosen"]] == [None, 0.75]
    assert [one["status"] for one in stored["chosen"][1]["rewards"]] == ["applied"]
    (row,) = stored["chosen"][1]["learned"]
    assert (row["before"], row["after"]) == (None, 0.75)
    assert stored["reproduced"]["action"] is True


def test_inline_candidates_and_a_choice_of_them_are_explained(fed: Fed) -> None:
    fed.shop("inline")
    fed.visit("inline", 0, 10)
    offered = [{"id": f"new{i}", "features": [i / 4, 1.0 - i / 4]} for i in range(4)]
    ask = {"bandit": "inline", "context": [0.5, 0.5, 1.0]}
    fed.call("POST", "/select", ask | {"candidates": offered, "decision_id": "inline-a"})
    few = {"candidates": ["blue", "red"], "decision_id": "inline-b"}
    fed.call("POST", "/select", ask | few)
    for name, ids in (("inline-a", [one["id"] for one in offered]), ("inline-b", ["blue", "red"])):
        stored = fed.call("GET", f"/bandits/inline/decisions/{name}")
        assert [one["id"] for one in stored["candidates"]] == ids
        assert stored["reproduced"] == {"action": True, "score": True, "propensity": True}


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["linear", "per_action", "mlp"])
def test_with_retrieve_it_is_drawn_among_all_that_were_offered(fed: Fed, kind: str) -> None:
    name = f"retrieved-{kind}"
    ids = [f"a{number:02}" for number in range(30)]
    fed.shop(name, **KINDS[kind], selection={"epsilon": 0.5})
    more: dict[str, Any] = {"ids": ids}
    if kind != "per_action":
        more["features"] = [[number % 6 / 6, number / 30] for number in range(30)]
    fed.call("PUT", f"/bandits/{name}/actions", more)
    fed.visit(name, 0, 12)
    ask = {"bandit": name, "context": [0.5, -0.5, 1.0], "retrieve": 4, "k": 2}
    listed = {"candidates": ids[:20]}
    for number in range(12):
        decision = f"{name}-r{number}"
        made = fed.call("POST", "/select", ask | {"decision_id": decision})
        stored = fed.call("GET", f"/bandits/{name}/decisions/{decision}")
        assert stored["reproduced"] == {"action": True, "score": True, "propensity": True}
        assert 4 <= len(stored["candidates"]) <= 6  # and what was explored
        chosen = [one for one in stored["candidates"] if one["chosen"]]
        assert {one["id"] for one in chosen} == {one["id"] for one in made["actions"]}
        served = next(one for one in chosen if one["id"] == made["actions"][0]["id"])
        assert served["propensity"] == stored["propensity"]
        assert sum(one["propensity"] for one in stored["candidates"]) < 1.0
        assert stored["num_candidates"] > 30

        fed.call("POST", "/select", ask | listed | {"decision_id": f"{decision}-listed"})
        stored = fed.call("GET", f"/bandits/{name}/decisions/{decision}-listed")
        assert False not in stored["reproduced"].values(), "the list is not stored"
        assert stored["num_candidates"] == 20


def test_what_cannot_be_explained_any_more_says_why(start_server: Any) -> None:
    fed = Fed(start_server(None, env={"BANDEXA_KEEP_SNAPSHOTS_H": "0"}).url)
    fed.shop("trained", policy="neural_linear_ts", encoder={"name": "mlp"})
    fed.visit("trained", 0, 20)
    for first in range(100, 600, 100):  # more snapshots than this server stores
        fed.visit("trained", first, 5)
        fed.call("POST", "/bandits/trained/train?wait=true")
    stored = fed.call("GET", "/bandits/trained/decisions/trained-0")
    assert (stored["explained"], stored["candidates"], stored["reproduced"]) == ("no", [], None)
    assert "snapshot 0" in stored["reason"]
    assert stored["chosen"][0]["value"] is not None
    newest = fed.call("GET", "/bandits/trained/decisions/trained-504")
    assert newest["reproduced"] == {"action": True, "score": True, "propensity": True}
    rounds = fed.call("GET", "/dashboard/bandits/trained?range=1h")["rounds"]
    assert [one["version"] for one in rounds] == [1, 2, 3, 4, 5]
    assert all(one["loss_after"] is not None and one["error"] is None for one in rounds)
    fed.http.close()


def test_of_many_candidates_some_are_shown(fed: Fed) -> None:
    fed.shop("many")
    ids = [f"n{i}" for i in range(500)]
    features = np.random.default_rng(3).normal(size=(500, 2)).tolist()
    fed.call("PUT", "/bandits/many/actions", {"ids": ids, "features": features})
    made = fed.call(
        "POST", "/select", {"bandit": "many", "context": [1.0, 0.0, 1.0], "decision_id": "many-1"}
    )
    stored = fed.call("GET", "/bandits/many/decisions/many-1")
    assert stored["num_candidates"] == 503
    assert 200 <= len(stored["candidates"]) <= 201
    assert made["action"]["id"] in {one["id"] for one in stored["candidates"] if one["chosen"]}


def test_an_unknown_decision_or_another_bandits_is_not_found(fed: Fed) -> None:
    fed.shop("mine")
    fed.shop("theirs")
    fed.visit("mine", 0, 1)
    for path in ("/bandits/mine/decisions/nothing", "/bandits/theirs/decisions/mine-0"):
        assert fed.http.get(path).status_code == 404


def test_the_newest_decisions_are_listed_in_parts(fed: Fed) -> None:
    fed.shop("listed")
    fed.visit("listed", 0, 12)
    first = fed.call("GET", "/dashboard/bandits/listed/decisions?limit=8")
    second = fed.call("GET", f"/dashboard/bandits/listed/decisions?limit=8&before={first['next']}")
    names = [one["decision_id"] for one in first["decisions"] + second["decisions"]]
    assert names == [f"listed-{i}" for i in reversed(range(12))]
    assert second["next"] is None
    assert [one["reward"] is None for one in first["decisions"]] == [False, False, True] + [
        False
    ] * 5


@pytest.mark.parametrize("before", [0, 2**63, 2392978749797017638205302767616])
def test_a_row_that_cannot_be_is_refused(fed: Fed, before: int) -> None:
    fed.shop(f"row-{before}")
    answer = fed.http.get(f"/dashboard/bandits/row-{before}/decisions?before={before}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "before"
    good = fed.http.get(f"/dashboard/bandits/row-{before}/decisions?before={2**63 - 1}")
    assert good.status_code == 200
