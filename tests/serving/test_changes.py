"""A bandit that changes: relearned from its log beside the served model, and switched to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

LOCKSTEP = {"mode": "lockstep"}
LINEAR: dict[str, Any] = {
    "training": LOCKSTEP,
    "policy": "linear_ts", "context": {"shape": [3]}, "action_dim": 0, "seed": 3,
    "encoder": {"name": "per_action", "standardize": False},
}  # fmt: skip


def taught(api, name: str, num: int, *, first: int = 0) -> None:
    """Have a bandit learn rows that depend on nothing but their numbers."""
    for number in range(first, first + num):
        rng = np.random.default_rng(number)
        action = "ab"[number % 2]
        context = rng.normal(size=3).round(3).tolist()
        reward = float((context[0] > 0) == (action == "a")) + 0.1 * float(rng.normal())
        api.teach(name, context, action, reward)


def created(api, spec: dict[str, Any]) -> str:
    name: str = api.fresh("changing")
    api.call("PUT", f"/bandits/{name}", spec, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["a", "b"]})
    return name


def changed(api, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Change a bandit and wait until that is served."""
    state: dict[str, Any] = api.call("PUT", f"/bandits/{name}?wait=true", spec)
    assert state["rebuild"]["state"] == "done"
    return state


@pytest.mark.parametrize(
    "change",
    [
        {"posterior": {"prior_var": 4.0}},
        {"posterior": {"noise": "fixed", "noise_var": 0.5}},
        {"reward_range": [0, 10]},
        {"reward_range": None},
        {"encoder": {"name": "per_action"}},
        {"forgetting": {"half_life": 64}},
        {"policy": "greedy"},
    ],
    ids=["prior", "noise", "range", "no range", "scaled", "forgetting", "greedy"],
)
def test_after_a_change_a_linear_model_is_that_of_the_configuration_from_the_start(
    api, change: dict[str, Any]
) -> None:
    before = LINEAR | {"reward_range": [0, 1]}
    name, other = created(api, before), created(api, before | change)
    for each in (name, other):
        taught(api, each, 80)
    # As many rows as the change and the switch take: forgetting may count rows.
    for every in (7, 8):
        api.call(
            "PUT",
            f"/bandits/{other}",
            before | change | {"training": LOCKSTEP | {"train_every": every}},
        )
    api.train(other)
    state = changed(api, name, before | change)
    assert {key.split(".")[0] for key in state["rebuild"]["keys"]} == set(change)
    context = [0.3, -0.2, 0.9]
    expected, found = api.scores(other, context)["scores"], api.scores(name, context)["scores"]
    for one, two in zip(expected, found, strict=True):
        assert two["mean"] == pytest.approx(one["mean"], rel=1e-9, abs=1e-12)
        assert (two["std"] or 0.0) == pytest.approx(one["std"] or 0.0, rel=1e-9)
