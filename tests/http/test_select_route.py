"""POST /select: candidates in every form, the answer's fields, and repeated decision ids."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

ANSWER_KEYS = {
    "decision_id",
    "action",
    "actions",
    "score",
    "propensity",
    "propensities",
    "snapshot",
    "position",
    "all_propensities",
    "arm",
}
IDS = ["a", "b", "c", "d"]
EYE = [[float(row == column) for column in range(4)] for row in range(4)]


def ranked(api):
    """Return a greedy bandit that ranks d > c > b > a in every context."""
    name = api.bandit(IDS, EYE, policy="greedy", action_dim=4)
    for rank, action in enumerate(IDS):
        for _ in range(3):
            api.teach(name, [0, 0], action, rank / 3)
    means = api.means(name, [0, 0])
    assert means == sorted(means)
    return name


def test_the_answer_has_exactly_the_documented_fields(api) -> None:
    name = api.two_actions()
    answer = api.select(name, [1, 2])
    assert set(answer) == ANSWER_KEYS
    assert answer["action"] == {"id": "xy"[answer["action"]["index"]]} | answer["action"]
    assert set(answer["action"]) == {"id", "index"}
    assert answer["actions"] is None
    assert isinstance(answer["score"], float)
    assert 0.0 < answer["propensity"] <= 1.0
    assert answer["snapshot"] == 0
    assert answer["position"] == 1
    assert re.fullmatch(r"0\.[0-9a-f]{28}", answer["decision_id"])
    assert api.select(name, [1, 2])["decision_id"] != answer["decision_id"]


def test_the_bandit_is_called_default_when_none_is_named(api, problem) -> None:
    body = {"context": [1, 2]}
    problem(api.http.post("/select", json=body), 404, "unknown-bandit")
    api.two_actions(name="default")
    assert set(api.call("POST", "/select", body)) == ANSWER_KEYS


def test_index_is_the_place_among_the_candidates_sent_or_the_slot(api) -> None:
    name = ranked(api)
    assert api.select(name, [0, 0])["action"] == {"id": "d", "index": 3}
    chosen = api.select(name, [0, 0], candidates=["c", "a", "b"])
    assert chosen["action"] == {"id": "c", "index": 0}
    chosen = api.select(name, [0, 0], candidates=["b", "a", "d"])
    assert chosen["action"] == {"id": "d", "index": 2}
    inline = [{"id": "new", "features": [0, 0, 9, 0]}, {"id": "a", "features": [1, 0, 0, 0]}]
    chosen = api.select(name, [0, 0], candidates=inline)
    assert chosen["action"] == {"id": "new", "index": 0}
    chosen = api.select(name, [0, 0], candidates=inline[::-1])
    assert chosen["action"] == {"id": "new", "index": 1}


def test_candidates_that_are_null_or_left_out_are_all_enabled_actions(api) -> None:
    name = ranked(api)
    assert api.select(name, [0, 0], candidates=None)["action"] == {"id": "d", "index": 3}


def test_k_actions_come_best_first_and_differ(api) -> None:
    name = ranked(api)
    answer = api.select(name, [0, 0], k=3)
    assert [action["id"] for action in answer["actions"]] == ["d", "c", "b"]
    assert answer["action"] == answer["actions"][0]
    answer = api.select(name, [0, 0], k=4, candidates=["b", "d", "a", "c"])
    assert [action["index"] for action in answer["actions"]] == [1, 3, 0, 2]
    thompson = api.bandit(IDS, EYE, action_dim=4)
    for _ in range(20):
        drawn = api.select(thompson, [1, 1], k=4)["actions"]
        assert sorted(action["id"] for action in drawn) == IDS


def test_retrieve_shortlists_the_best(api) -> None:
    name = ranked(api)
    answer = api.select(name, [0, 0], retrieve=2, k=2)
    assert [action["id"] for action in answer["actions"]] == ["d", "c"]
    answer = api.select(name, [0, 0], retrieve=1, candidates=["b", "a"])
    assert answer["action"] == {"id": "b", "index": 0}
    assert api.select(name, [0, 0], retrieve=1000)["action"]["id"] == "d"


def test_retrieve_with_a_two_tower_encoder(api) -> None:
    name = api.bandit(
        IDS, EYE, policy="neural_linear_ts", action_dim=4,
        encoder={"name": "two_tower", "params": {"tower_dim": 4, "hidden": [8]}},
    )  # fmt: skip
    answer = api.select(name, [1, -1], retrieve=3, k=3)
    assert len({action["id"] for action in answer["actions"]}) == 3
    for action in answer["actions"]:
        assert IDS[action["index"]] == action["id"]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"k": 5}, "k"), ({"k": 3, "retrieve": 2}, "retrieve"), ({"k": 2, "candidates": ["a"]}, "k")],
)
def test_more_actions_than_candidates_are_refused(
    api, problem, change: dict[str, Any], field: str
) -> None:
    name = api.bandit(IDS, EYE, action_dim=4)
    body = {"bandit": name, "context": [0, 0]} | change
    problem(api.http.post("/select", json=body), 422, "invalid-request", field)


def test_inline_candidates_need_no_catalogue(api) -> None:
    name = api.bandit()
    inline = [{"id": "p", "features": [1, 2]}, {"id": "q", "features": [3, 4]}]
    chosen = api.select(name, [1, 1], candidates=inline)
    assert chosen["action"]["id"] == inline[chosen["action"]["index"]]["id"]
    assert api.reward(chosen["decision_id"], 1.0)["status"] == "applied"
    assert api.state(name)["num_learned"] == 1


def test_many_inline_candidates_are_chosen_from_like_few(api) -> None:
    name = ranked(api)
    others = [{"id": f"n{place}", "features": [0, 0, 0, 0]} for place in range(6000)]
    best = [{"id": each, "features": [0, 0, 9, 0]} for each in ("new", "a")]
    chosen = api.select(name, [0, 0], candidates=[*others, *best])
    assert chosen["action"] in ({"id": "new", "index": 6000}, {"id": "a", "index": 6001})
    assert chosen["propensity"] == pytest.approx(0.5)  # they tie, and tell each other apart by id
    assert api.reward(chosen["decision_id"], 1.0)["status"] == "applied"


def test_inline_candidates_of_a_bandit_that_knows_ids_alone(api, problem) -> None:
    name = api.bandit(["a", "b"], action_dim=0, encoder={"name": "per_action"})
    chosen = api.select(name, [1, 1], candidates=[{"id": "b"}])
    assert chosen["action"] == {"id": "b", "index": 0}
    body = {"bandit": name, "context": [1, 1], "candidates": [{"id": "stranger"}]}
    problem(api.http.post("/select", json=body), 422, "invalid-request", "candidates")


def test_an_unknown_action_is_404_and_named(api, problem) -> None:
    name = api.two_actions()
    body = {"bandit": name, "context": [1, 1], "candidates": ["x", "zz"]}
    found = problem(api.http.post("/select", json=body), 404, "unknown-action")
    assert "'zz'" in found["detail"]


def test_the_same_id_and_body_repeat_the_answer_whatever_was_learned_since(api) -> None:
    name, own = api.two_actions(training={"mode": "lockstep"}), api.fresh("d")
    first = api.select(name, [1, 2], decision_id=own)
    assert first["decision_id"] == own
    api.reward(own, 1.0)
    api.train(name)
    assert api.state(name)["snapshot"] == 1
    for _ in range(2):
        assert api.select(name, [1, 2], decision_id=own) == first
    assert api.select(name, [1.0, 2.0], decision_id=own, candidates=None, k=1) == first


def test_an_answer_stays_though_its_actions_were_retired(api) -> None:
    name, own, several = api.two_actions(), api.fresh("d"), api.fresh("d")
    first = api.select(name, [1, 2], decision_id=own, candidates=["x"])
    both = api.select(name, [1, 2], decision_id=several, k=2)
    api.call("DELETE", f"/bandits/{name}/actions/x")
    assert api.select(name, [1, 2], decision_id=own, candidates=["x"]) == first
    assert api.select(name, [1, 2], decision_id=several, k=2) == both


@pytest.mark.parametrize(
    "change",
    [
        {"context": [1, 3]},
        {"candidates": ["x", "y"]},
        {"candidates": [{"id": "x", "features": [1, 0]}, {"id": "y", "features": [0, 1]}]},
        {"k": 2},
        {"retrieve": 2},
        {"activate": False},
    ],
)
def test_the_same_id_with_another_body_is_a_conflict(api, problem, change: dict[str, Any]) -> None:
    name, own = api.two_actions(), api.fresh("d")
    first = api.select(name, [1, 2], decision_id=own)
    body = {"bandit": name, "context": [1, 2], "decision_id": own} | change
    problem(api.http.post("/select", json=body), 409, "conflict")
    assert api.select(name, [1, 2], decision_id=own) == first


def test_one_id_belongs_to_one_bandit_and_not_to_the_servers_own(api, problem) -> None:
    name, other, own = api.two_actions(), api.two_actions(), api.fresh("d")
    api.select(name, [1, 2], decision_id=own)
    body = {"bandit": other, "context": [1, 2], "decision_id": own}
    problem(api.http.post("/select", json=body), 409, "conflict")
    made = api.select(name, [1, 2])["decision_id"]
    body = {"bandit": name, "context": [1, 2], "decision_id": made}
    problem(api.http.post("/select", json=body), 422, "invalid-request")


def test_concurrent_selects_with_one_id_share_one_answer(api) -> None:
    name = api.two_actions()
    for _ in range(4):
        own = api.fresh("d")
        with ThreadPoolExecutor(12) as pool:
            answers = list(
                pool.map(lambda _, d=own: api.select(name, [1, 2], decision_id=d), range(24))
            )
        assert answers == answers[:1] * 24


def test_a_draw_follows_from_the_decision_id_alone(api) -> None:
    """Decisions made before and between change no later draw at the same position."""
    name = api.two_actions()
    own = [api.fresh("d") for _ in range(40)]
    scores = {d: api.select(name, [1, 2], decision_id=d)["score"] for d in own}
    assert len(set(scores.values())) == 40
    assert {api.select(name, [1, 2], decision_id=d)["action"]["id"] for d in own} == {"x", "y"}


def test_warm_up_chooses_uniformly_and_reports_the_propensity(api) -> None:
    name = api.bandit(IDS, EYE, policy="greedy", action_dim=4, selection={"warmup_random": 2})
    seen = set()
    for reward in (1.0, 0.5):
        drawn = [api.select(name, [0, 0]) for _ in range(30)]
        seen |= {answer["action"]["id"] for answer in drawn}
        assert {answer["propensity"] for answer in drawn} == {0.25}
        api.reward(drawn[0]["decision_id"], reward)
    assert seen == set(IDS)
    assert api.state(name)["num_learned"] == 2
    assert api.select(name, [0, 0])["propensity"] == 1.0  # greedy


def test_the_uniform_policy_reports_its_propensity_and_learns_nothing(api) -> None:
    name = api.bandit(IDS, EYE, policy="uniform", action_dim=4)
    answers = [api.select(name, [0, 0]) for _ in range(60)]
    assert {answer["action"]["id"] for answer in answers} == set(IDS)
    assert {answer["propensity"] for answer in answers} == {0.25}
    assert api.select(name, [0, 0], candidates=["a", "b"])["propensity"] == 0.5
    assert api.reward(answers[0]["decision_id"], 1.0)["status"] == "applied"
    assert api.means(name, [0, 0]) == [0.0] * 4


def test_activate_false_is_accepted(api) -> None:
    name = api.two_actions()
    assert set(api.select(name, [1, 2], activate=False)) == ANSWER_KEYS
