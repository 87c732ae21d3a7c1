"""Propensities over HTTP: in the answer, or with the stored decision soon after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandexa_core.ids import DecisionId
from service.store.sqlite.reader import StoreReader
from tests.fixtures.waiting import poll

NUM_ACTIONS = 10_000
LARGE: dict[str, Any] = {
    "policy": "neural_linear_ts",
    "action_dim": 4,
    "encoder": {"name": "two_tower", "params": {"tower_dim": 64, "hidden": []}},
}


@pytest.fixture(scope="module")
def large(api, packed, envelope) -> str:
    """A bandit whose panel takes longer than an answer may wait."""
    name: str = api.bandit(**LARGE, selection={"epsilon": 0.02})
    features = np.random.default_rng(0).normal(size=(NUM_ACTIONS, 4))
    body = {
        "ids": [f"a{number}" for number in range(NUM_ACTIONS)],
        "features": envelope(features, "float32", binary=True),
    }
    assert packed("PUT", f"/bandits/{name}/actions", body).status_code == 200
    return name


@pytest.fixture
def stored(server):
    """Wait until a stored decision has a propensity, and return it."""

    def wait(decision_id: str) -> float:
        with StoreReader(server.data_dir / "bandexa.db") as reader:

            def propensity() -> float | None:
                answer = reader.answer(DecisionId(decision_id))
                assert answer is not None
                return answer.propensity

            poll(lambda: propensity() is not None, f"a propensity of {decision_id}")
            found = propensity()
            assert found is not None
            return found

    return wait


def test_an_answers_propensity_is_that_of_the_stored_decision(api, stored) -> None:
    name = api.two_actions(selection={"panel": 8, "epsilon": 0.1, "posterior_scale": 1.0})
    for _ in range(3):  # else the mirrored members of a panel share their votes evenly
        api.teach(name, [1, -1], "x", 1.0)
    possible = [0.9 * votes / 8 + 0.1 / 2 for votes in range(9)]
    found = set()
    for _ in range(30):
        answer = api.select(name, [1, -1])
        assert answer["propensity"] == pytest.approx(
            min(possible, key=lambda p: abs(p - answer["propensity"])), abs=1e-12
        )
        assert stored(answer["decision_id"]) == answer["propensity"]
        found.add(answer["propensity"])
    assert len(found) > 2


def test_propensities_lie_above_zero_and_at_most_at_one(api) -> None:
    for spec in ({}, {"selection": {"epsilon": 0.0}}, {"policy": "greedy"}, {"policy": "uniform"}):
        name = api.two_actions(**spec)
        for more in ({}, {"candidates": ["y"]}, {"k": 2}, {"retrieve": 1}):
            for _ in range(4):
                assert 0.0 < api.select(name, [1, 1], **more)["propensity"] <= 1.0
        assert api.select(name, [1, 1], candidates=["y"])["propensity"] == pytest.approx(1.0)


def test_of_several_actions_the_propensity_is_the_firsts(api) -> None:
    """y is nearly certain: the list starts with it at a high propensity, or with x at the floor."""
    name = api.two_actions(selection={"epsilon": 0.5})
    for _ in range(25):
        api.teach(name, [0, 0], "x", 0.0)
        api.teach(name, [0, 0], "y", 1.0)
    firsts = set()
    for _ in range(20):
        answer = api.select(name, [0, 0], k=2)
        assert len(answer["actions"]) == 2
        assert answer["actions"][0]["id"] == answer["action"]["id"]
        expected = {"x": 0.25, "y": 0.75}[answer["action"]["id"]]
        assert answer["propensity"] == pytest.approx(expected, abs=1e-12)
        firsts.add(answer["action"]["id"])
    assert firsts == {"x", "y"}


def test_each_place_has_its_propensity_in_the_answer_its_repeat_and_the_explanation(api) -> None:
    name = api.two_actions(selection={"epsilon": 0.5})
    for _ in range(25):
        api.teach(name, [0, 0], "x", 0.0)
        api.teach(name, [0, 0], "y", 1.0)
    assert api.select(name, [0, 0])["propensities"] is None
    orders = set()
    for _ in range(20):
        own = {"decision_id": api.fresh("places"), "k": 2}
        answer = api.select(name, [0, 0], **own)
        order = tuple(action["id"] for action in answer["actions"])
        expected = [0.75, 0.75] if order == ("y", "x") else [0.25, 0.25]
        assert answer["propensities"] == pytest.approx(expected, abs=1e-12)
        assert answer["propensities"][0] == answer["propensity"]
        assert api.select(name, [0, 0], **own) == answer
        why = api.call("GET", f"/bandits/{name}/decisions/{own['decision_id']}")
        assert [line["propensity"] for line in why["chosen"]] == answer["propensities"]
        orders.add(order)
    assert len(orders) == 2


def test_too_many_candidates_to_rank_have_no_propensities_of_places(api, large) -> None:
    assert api.select(large, [1, 1], k=2)["propensities"] is None


def test_a_large_catalogue_answers_first_and_knows_its_propensity_soon_after(
    api, large, stored
) -> None:
    possible = 0.98 * np.arange(65) / 64 + 0.02 / NUM_ACTIONS
    answers = [api.select(large, [1, number]) for number in range(5)]
    for answer in answers:
        assert answer["propensity"] is None
        propensity = stored(answer["decision_id"])
        assert 0.0 < propensity <= 1.0
        assert np.abs(possible - propensity).min() < 1e-12


def test_a_repeated_large_select_answers_with_the_same_action(api, large, stored) -> None:
    own = {"decision_id": api.fresh("late"), "k": 2}
    first = api.select(large, [1, 2], **own)
    assert first["propensity"] is None
    propensity = stored(first["decision_id"])
    again = api.select(large, [1, 2], **own)
    assert again == first | {"propensity": propensity}


def test_few_candidates_of_a_large_catalogue_have_theirs_at_once(api, large) -> None:
    candidates = [f"a{number}" for number in range(50)]
    assert 0.0 < api.select(large, [1, 2], candidates=candidates)["propensity"] <= 1.0
