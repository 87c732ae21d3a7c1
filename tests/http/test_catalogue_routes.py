"""The catalogue: upsert in both forms, retire, enable again, refuse what does not fit."""

from __future__ import annotations

from typing import Any

import pytest

IDS = ["a", "b", "c"]
FEATURES = [[1.0, 0.5], [-2.0, 0.25], [0.0, 3.0]]


def test_a_list_columns_an_envelope_and_msgpack_mean_the_same(api, envelope, packed) -> None:
    name = api.bandit()
    path = f"/bandits/{name}/actions"
    listed = [{"id": i, "features": row} for i, row in zip(IDS, FEATURES, strict=True)]
    bodies = [
        {"actions": listed},
        {"ids": IDS, "features": FEATURES},
        {"ids": IDS, "features": envelope(FEATURES, "float32")},
        {"actions": [row | {"features": envelope(row["features"], "float64")} for row in listed]},
    ]
    found = []
    for number, body in enumerate(bodies):
        assert api.call("PUT", path, body) == {"num_actions": 3, "position": number + 1}
        found.append(api.scores(name, [1, 1])["scores"])
    response = packed(
        "PUT", path, {"ids": IDS, "features": envelope(FEATURES, "float32", binary=True)}
    )
    assert response.json() == {"num_actions": 3, "position": 5}
    found.append(api.scores(name, [1, 1])["scores"])
    assert found == found[:1] * 5
    assert [row["id"] for row in found[0]] == IDS


def test_slots_follow_the_first_upsert_and_an_overwrite_retains_them(api) -> None:
    name = api.bandit(["a", "b"], [[1, 0], [0, 1]])
    before = api.scores(name, [1, 1])["scores"]
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["c", "a"], "features": [[0, 0], [5, 0]]})
    after = api.scores(name, [1, 1])["scores"]
    assert [(row["id"], row["index"]) for row in after] == [("a", 0), ("b", 1), ("c", 2)]
    assert after[1] == before[1]
    assert after[0]["std"] > before[0]["std"]  # a longer feature vector has a larger deviation


def test_actions_without_features_need_none(api) -> None:
    name = api.bandit(["a", "b"], action_dim=0)
    answer = api.call("PUT", f"/bandits/{name}/actions", {"actions": [{"id": "c"}]})
    assert answer["num_actions"] == 3
    assert [row["id"] for row in api.scores(name, [1, 1])["scores"]] == IDS


def test_a_retired_action_is_not_offered_and_may_not_be_requested(api, problem) -> None:
    name = api.bandit(IDS, FEATURES)
    answer = api.call("DELETE", f"/bandits/{name}/actions/b")
    assert answer == {"num_actions": 2, "position": 2}
    assert api.state(name)["num_actions"] == 2
    scores = api.scores(name, [1, 1])["scores"]
    assert [(row["id"], row["index"]) for row in scores] == [("a", 0), ("c", 2)]
    chosen = api.select(name, [1, 1], k=2)
    assert {action["id"] for action in chosen["actions"]} == {"a", "c"}
    for action in chosen["actions"]:
        assert action["index"] == IDS.index(action["id"])
    body = {"bandit": name, "context": [1, 1], "candidates": ["a", "b"]}
    found = problem(api.http.post("/select", json=body), 422, "invalid-request", "candidates")
    assert "'b'" in found["detail"]
    del body["bandit"]
    problem(
        api.http.post(f"/bandits/{name}/score", json=body), 422, "invalid-request", "candidates"
    )


def test_an_action_comes_back_with_what_was_learned_of_it(api) -> None:
    name = api.bandit(IDS, FEATURES, encoder={"name": "per_action"})
    api.teach(name, [1, 1], "b", 1.0)
    before = api.scores(name, [1, 1])["scores"]
    assert before[1]["mean"] != 0.0
    api.call("DELETE", f"/bandits/{name}/actions/b")
    answer = api.call("PUT", f"/bandits/{name}/actions", {"actions": [{"id": "b"}]})
    assert answer["num_actions"] == 3
    assert api.scores(name, [1, 1])["scores"] == before


def test_enabled_false_retires_and_retains_the_features(api) -> None:
    name = api.bandit(IDS, FEATURES)
    before = api.scores(name, [1, 1])["scores"]
    path = f"/bandits/{name}/actions"
    answer = api.call("PUT", path, {"actions": [{"id": "a", "enabled": False}]})
    assert answer["num_actions"] == 2
    answer = api.call("PUT", path, {"actions": [{"id": "a", "enabled": True}]})
    assert answer["num_actions"] == 3
    assert api.scores(name, [1, 1])["scores"] == before


def test_a_reward_still_reaches_a_retired_action(api) -> None:
    name = api.two_actions(encoder={"name": "per_action"})
    decision = api.select(name, [1, 1], candidates=["x"])
    api.call("DELETE", f"/bandits/{name}/actions/x")
    assert api.reward(decision["decision_id"], 1.0)["status"] == "applied"
    api.call("PUT", f"/bandits/{name}/actions", {"actions": [{"id": "x"}]})
    assert api.means(name, [1, 1])[0] > 0.3


def test_a_bandit_without_enabled_actions_has_nothing_to_offer(api, problem) -> None:
    name = api.bandit(["a"], [[1, 1]])
    api.call("DELETE", f"/bandits/{name}/actions/a")
    body: dict[str, Any] = {"bandit": name, "context": [1, 1]}
    problem(api.http.post("/select", json=body), 422, "invalid-request", "candidates")
    inline = [{"id": "z", "features": [1, 1]}]
    assert api.select(name, [1, 1], candidates=inline)["action"] == {"id": "z", "index": 0}


def test_retiring_an_unknown_action_is_404(api, problem) -> None:
    name = api.bandit(["a"], [[1, 1]])
    problem(api.http.delete(f"/bandits/{name}/actions/zz"), 404, "unknown-action")
    problem(api.http.delete(f"/bandits/{api.fresh()}/actions/a"), 404, "unknown-bandit")
    problem(api.http.delete(f"/bandits/{name}/actions/a%20b"), 422, "invalid-request", "action_id")


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("body", {}),
        ("body", {"ids": ["q"], "actions": [{"id": "r"}]}),
        ("body", {"actions": [{"id": "q", "features": [1, 2]}], "features": [[1, 2]]}),
        ("body", {"ids": ["q", "q"], "features": [[1, 2], [1, 2]]}),
        ("body", {"actions": [{"id": "q"}, {"id": "q"}]}),
        ("ids", {"ids": [], "features": []}),
        ("actions", {"actions": []}),
        ("actions.0.id", {"actions": [{"id": "a b", "features": [1, 2]}]}),
        ("actions.0.id", {"actions": [{"features": [1, 2]}]}),
        ("actions.0.enabled", {"actions": [{"id": "a", "enabled": "perhaps"}]}),
        ("actions.0.colour", {"actions": [{"id": "a", "colour": 1}]}),
        ("ids.1", {"ids": ["q", ""], "features": [[1, 2], [1, 2]]}),
        ("ids.0", {"ids": [7], "features": [[1, 2]]}),
        ("colour", {"ids": ["q"], "features": [[1, 2]], "colour": 1}),
        ("features", {"ids": ["q"]}),
        ("features", {"actions": [{"id": "q"}]}),
        ("features", {"ids": ["q"], "features": [[1, 2, 3]]}),
        ("features", {"ids": ["q"], "features": [1, 2]}),
        ("features", {"ids": ["q"], "features": [[1, 2], [3, 4]]}),
        ("features", {"ids": ["q", "r"], "features": [[1, 2]]}),
        ("features", {"ids": ["q", "r"], "features": [[1, 2], [1]]}),
        ("features", {"ids": ["q"], "features": [["1", "2"]]}),
        ("features", {"ids": ["q"], "features": [[1, None]]}),
        ("features", {"ids": ["q"], "features": [[1e39, 1]]}),
        ("actions.0.features", {"actions": [{"id": "q", "features": ["1", "2"]}]}),
        ("actions.0.features", {"actions": [{"id": "q", "features": [True, False]}]}),
        ("actions.0.features", {"actions": [{"id": "q", "features": [None, 1]}]}),
        ("actions.0.features", {"actions": [{"id": "q", "features": [10**400, 1]}]}),
        ("features", {"actions": [{"id": "q", "features": [1, 2, 3]}]}),
        ("actions.1.features", {"actions": [{"id": "q", "features": [1, 2]}, {"id": "a"}]}),
        ("actions", {"actions": [{"id": "q", "features": [1]}, {"id": "a", "features": [1, 2]}]}),
    ],
)
def test_a_wrong_catalogue_names_the_field_and_changes_nothing(
    api, problem, field: str, body: dict[str, Any]
) -> None:
    name = api.bandit(["a"], [[1, 1]])
    before = api.state(name), api.scores(name, [1, 1])
    response = api.http.put(f"/bandits/{name}/actions", json=body)
    problem(response, 422, "invalid-request", field)
    assert (api.state(name), api.scores(name, [1, 1])) == before


def test_an_unknown_bandit_has_no_catalogue(api, problem) -> None:
    body = {"ids": ["a"], "features": [[1, 1]]}
    problem(api.http.put(f"/bandits/{api.fresh()}/actions", json=body), 404, "unknown-bandit")
