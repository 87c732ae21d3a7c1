"""The batch forms: each item succeeds or fails on its own, in the order sent."""

from __future__ import annotations

from typing import Any

import pytest

SELECT_KEYS = {
    "decision_id", "action", "actions", "score", "propensity", "propensities", "snapshot",
    "position", "all_propensities", "arm",
}  # fmt: skip


def checked(items: list[dict[str, Any]], codes: list[int]) -> list[dict[str, Any]]:
    """Check the shape of a batch's items; returns them."""
    assert [item["code"] for item in items] == codes
    for item in items:
        assert set(item) == {"code", "answer", "error"}
        if item["code"] == 200:
            assert item["error"] is None
        else:
            assert item["answer"] is None
            error = {key: value for key, value in item["error"].items() if value is not None}
            assert set(error) - {"errors"} == {"type", "title", "status", "detail"}
            assert error["status"] == item["code"]
            assert error["type"].startswith("urn:bandexa:")
    return items


def test_selects_succeed_and_fail_on_their_own(api) -> None:
    name, own = api.two_actions(), api.fresh("d")
    good = {"bandit": name, "context": [1, 2]}
    body = [
        good | {"decision_id": own},
        {"bandit": name, "context": [1]},
        {"bandit": api.fresh(), "context": [1, 2]},
        good | {"decision_id": own},
        good | {"decision_id": own, "k": 2},
        good | {"candidates": ["zz"]},
        good | {"colour": 1},
        17,
        None,
        good,
    ]
    answer = api.call("POST", "/select/batch", {"items": body})
    assert set(answer) == {"items"}
    codes = [200, 422, 404, 200, 409, 404, 422, 422, 422, 200]
    items = checked(answer["items"], codes)
    assert set(items[0]["answer"]) == SELECT_KEYS
    assert items[0]["answer"] == items[3]["answer"] == api.select(name, [1, 2], decision_id=own)
    assert items[1]["error"]["errors"][0]["field"] == "context"
    assert items[6]["error"]["errors"][0]["field"] == "colour"


def test_rewards_succeed_and_fail_on_their_own(api) -> None:
    name = api.two_actions()
    own = [api.select(name, [1, 2])["decision_id"] for _ in range(2)]
    body = [
        {"decision_id": own[0], "reward": 1.0},
        {"decision_id": own[0], "reward": 1.0},
        {"decision_id": own[0], "reward": 0.0},
        {"decision_id": api.fresh("never"), "reward": 1.0},
        {"decision_id": own[1]},
        {"decision_id": own[1], "reward": "1"},
        [],
        {"decision_id": own[1], "reward": 0.0},
    ]
    answer = api.call("POST", "/reward/batch", {"items": body})
    items = checked(answer["items"], [200, 200, 200, 404, 422, 422, 422, 200])
    statuses = [item["answer"]["status"] for item in items if item["answer"]]
    assert statuses == ["applied", "duplicate", "ignored", "applied"]
    assert api.state(name)["num_learned"] == 2


def test_a_batch_of_rewards_is_learned_as_single_rewards_are(api) -> None:
    in_turn = {"mode": "lockstep"}  # no round between them
    one, other = (api.two_actions(training=in_turn) for _ in range(2))
    contexts = [[number / 7, 1 - number / 5] for number in range(20)]
    selects = [
        {"bandit": one, "context": context, "candidates": ["xy"[n % 2]]}
        for n, context in enumerate(contexts)
    ]
    chosen = api.call("POST", "/select/batch", {"items": selects})["items"]
    rewards = [
        {"decision_id": item["answer"]["decision_id"], "reward": n / 20}
        for n, item in enumerate(chosen)
    ]
    api.call("POST", "/reward/batch", {"items": rewards})
    for number, context in enumerate(contexts):
        api.teach(other, context, "xy"[number % 2], number / 20)
    # A batch is learned as a block: equal to rounding.
    pairs = zip(api.scores(one, [1, 1])["scores"], api.scores(other, [1, 1])["scores"], strict=True)
    for together, alone in pairs:
        assert together["id"] == alone["id"]
        for name in ("mean", "std"):
            assert together[name] == pytest.approx(alone[name], rel=1e-9)


def test_a_thousand_items_of_several_bandits_fit(api) -> None:
    names = [api.two_actions() for _ in range(3)]
    items = [{"bandit": names[n % 3], "context": [n / 1000, 1]} for n in range(1000)]
    answers = api.call("POST", "/select/batch", {"items": items})["items"]
    ids = [item["answer"]["decision_id"] for item in answers]
    assert len(set(ids)) == 1000
    rewards = [{"decision_id": decision_id, "reward": 1.0} for decision_id in ids]
    answers = api.call("POST", "/reward/batch", {"items": rewards})["items"]
    assert {item["answer"]["status"] for item in answers} == {"applied"}
    assert [api.state(name)["num_learned"] for name in names] == [334, 333, 333]


@pytest.mark.parametrize("path", ["/select/batch", "/reward/batch"])
@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("items", {}),
        ("items", {"items": []}),
        ("items", {"items": {}}),
        ("items", {"items": None}),
        ("items", {"items": [{}] * 1001}),
        ("atomic", {"items": [{}], "atomic": True}),
        ("body", []),
    ],
)
def test_a_wrong_batch_is_refused_whole(api, problem, path: str, field: str, body: Any) -> None:
    problem(api.http.post(path, json=body), 422, "invalid-request", field)
