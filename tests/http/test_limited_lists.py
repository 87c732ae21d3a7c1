"""Limits of actions in lists: what is answered is within them, stored and explained."""

from __future__ import annotations

import pytest


def test_a_list_is_within_its_limits_and_is_explained_as_it_was_drawn(api) -> None:
    ids = ["a", "b", "c", "d", "e", "f"]
    name = api.bandit(
        action_dim=0,
        encoder={"name": "per_action"},
        selection={"epsilon": 0.3},
        limits={"a": {"max_share": 0.0}, "b": {"floor": 0.2}},
    )
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ids})
    seen = 0
    for _ in range(30):
        answer = api.select(name, [1, 0], k=3)
        chosen = [each["id"] for each in answer["actions"]]
        assert len(set(chosen)) == 3
        assert "a" not in chosen
        assert answer["propensities"][0] == pytest.approx(answer["propensity"])
        if chosen[0] == "b":
            assert answer["propensity"] >= 0.2 - 1e-9
        explained = api.call("GET", f"/bandits/{name}/decisions/{answer['decision_id']}")
        assert explained["reproduced"]["action"] is True
        assert explained["reproduced"]["propensity"] is True
        seen += "b" in chosen
    assert seen >= 10
