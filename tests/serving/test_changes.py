"""A bandit that changes: relearned from its log beside the served model, and switched to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures.commands import bandexa
from tests.fixtures.matrices import slow

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


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "change",
    [
        {"posterior": {"prior_var": 4.0}},
        *slow({"posterior": {"noise": "fixed", "noise_var": 0.5}}, {"reward_range": [0, 10]}),
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


def test_a_dry_run_says_what_would_happen_and_changes_nothing(api) -> None:
    name = api.fresh("planned")
    new = api.call("PUT", f"/bandits/{name}?dry_run=true", LINEAR)
    assert (new["status"], new["spec"]["seed"], new["relearned"]) == ("created", 3, [])
    assert api.http.get(f"/bandits/{name}").status_code == 404
    created_name = created(api, LINEAR)
    taught(api, created_name, 5)
    where, before = f"/bandits/{created_name}", api.state(created_name)
    same = api.call("PUT", f"{where}?dry_run=true", LINEAR)
    assert (same["status"], same["changes"], same["rows"]) == ("unchanged", [], 0)
    changes = {"posterior": {"prior_var": 9.0}, "selection": {"panel": 8}}
    plan = api.call("PUT", f"{where}?dry_run=true", LINEAR | changes)
    assert plan["changes"] == [
        {"key": "posterior.prior_var", "old": None, "new": 9.0},
        {"key": "selection.panel", "old": 64, "new": 8},
    ]
    assert (plan["status"], plan["relearned"], plan["rows"]) == (
        "changed", ["posterior.prior_var"], 5,
    )  # fmt: skip
    refused = api.http.put(f"{where}?dry_run=true", json=LINEAR | {"context": {"shape": [4]}})
    assert "context.shape: is [3] and cannot become [4]" in refused.json()["detail"]
    assert api.state(created_name) == before
    api.train(created_name)
    after = api.call("PUT", f"{where}?dry_run=true", LINEAR | changes)
    assert after["estimated_s"] > 0.0


def test_a_decision_follows_the_reward_rules_that_held_when_it_was_made(api) -> None:
    name = created(api, LINEAR)
    old, own = api.select(name, [1, 0, 0]), api.fresh("own")
    api.select(name, [1, 0, 0], decision_id=own)
    spec = LINEAR | {"rewards": {"aggregate": "sum"}}
    state = api.call("PUT", f"/bandits/{name}", spec)
    assert (state["rebuild"], state["spec"]["rewards"]["aggregate"]) == (None, "sum")
    new, own_new = api.select(name, [0, 1, 0]), api.fresh("own")
    api.select(name, [0, 1, 0], decision_id=own_new)
    for decision_id in (old["decision_id"], own):
        assert api.reward(decision_id, 1.0)["status"] == "applied"
        assert api.reward(decision_id, 2.0)["status"] == "ignored"
    for decision_id in (new["decision_id"], own_new):
        assert "reward_id" in api.reward(decision_id, 1.0, expect=422)["detail"]
        assert api.reward(decision_id, 1.0, reward_id="one")["status"] == "applied"
        assert api.reward(decision_id, 2.0, reward_id="two")["status"] == "aggregated"
        explained = api.call("GET", f"/bandits/{name}/decisions/{decision_id}")
        assert explained["chosen"][0]["learned"][-1]["after"] == 3.0
    assert api.state(name)["num_learned"] == 4


def test_named_features_are_declared_anew_and_old_objects_are_read_by_the_new_ones(api) -> None:
    name = api.fresh("named")
    spec: dict[str, Any] = {
        "context": {"features": {"country": "category"}, "unknown": "ignore"}, "seed": 1,
        "training": LOCKSTEP | {"optimizer_steps": 50},
    }  # fmt: skip
    api.call("PUT", f"/bandits/{name}", spec, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["a", "b"]})
    for number in range(60):
        context = {"country": "de", "age": number}
        api.teach(name, context, "a", float(number > 30))
    waiting = api.select(name, {"country": "fr", "age": 50}, candidates=["a"])
    wide = spec | {"context": {"features": {"country": "category", "age": "number"}}}
    state = changed(api, name, wide)
    assert state["rebuild"]["keys"] == ["context.features"]
    assert state["features"]["context"]["fields"]["age"]["type"] == "number"
    assert api.reward(waiting["decision_id"], 1.0)["status"] == "applied"
    young, old = (api.means(name, {"country": "de", "age": age}, ["a"])[0] for age in (5, 55))
    assert old - young > 0.2, "ages that were logged under another declaration were learned"
    refused = api.http.put(f"/bandits/{name}", json=spec | {"context": {"shape": [2]}})
    assert refused.status_code == 409


def test_a_replay_learns_values_as_the_rules_of_outliers_say(api, command, tmp_path: Path) -> None:
    plain = LINEAR | {"rewards": {"clip_outliers": False}}
    name, clipped = created(api, plain), created(api, LINEAR)
    for each in (name, clipped):
        taught(api, each, 20)
        api.teach(each, [1, 0, 0], "a", 1e4)
    assert api.means(name, [1, 0, 0])[0] > 2.0 * api.means(clipped, [1, 0, 0])[0]
    for rules, like in (({"clip_outliers": False}, name), ({}, clipped)):
        target, file = api.fresh("replayed"), tmp_path / "spec.json"
        file.write_text(json.dumps(LINEAR | {"rewards": rules}))
        assert "learned 21 rows" in command("replay", name, target, "--config", file)
        assert api.means(target, [1, 0, 0]) == pytest.approx(api.means(like, [1, 0, 0]), rel=1e-6)


def test_policy_and_encoder_follow_from_each_other(api) -> None:
    name = created(api, LINEAR)
    state = changed(api, name, {"context": {"shape": [3]}, "policy": "neural_linear_ts"})
    assert state["spec"]["encoder"]["name"] == "mlp"
    assert state["spec"]["training"]["mode"] == "background"
    state = changed(api, name, {"context": {"shape": [3]}, "encoder": {"name": "per_action"}})
    assert state["spec"]["policy"] == "linear_ts"


@pytest.fixture
def command(server):
    """Run a command against the session's server: `command(*arguments, expect=0)`."""

    def run(*arguments: object, expect: int = 0) -> str:
        done = bandexa(*arguments, "--url", server.url)
        assert done.returncode == expect, done.stdout + done.stderr
        return str(done.stdout + done.stderr)

    return run


def test_a_new_bandit_learns_the_rows_of_another_one(api, command, tmp_path: Path) -> None:
    name, target = created(api, LINEAR), api.fresh("replayed")
    taught(api, name, 40)
    late = api.select(name, [1, 1, 1], candidates=["a"])
    api.reward(late["decision_id"], 1.0)
    api.call("DELETE", f"/bandits/{name}/actions/b")
    wanted = LINEAR | {
        "posterior": {"prior_var": 3.0},
        "rewards": {"reward_window_s": 60, "default_reward": 0},
    }
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(wanted))
    assert "learned 41 rows" in command("replay", name, target, "--config", file)
    state = api.state(target)
    assert (state["num_learned"], state["num_actions"]) == (41, 1)
    assert state["spec"]["rewards"]["maturity"] == "auto"
    changed(api, name, LINEAR | {"posterior": {"prior_var": 3.0}})
    api.train(target)
    expected, found = (api.scores(each, [0.1, 0.7, -1])["scores"] for each in (name, target))
    for one, two in zip(expected, found, strict=True):
        assert two["mean"] == pytest.approx(one["mean"], rel=1e-9)
        assert two["std"] == pytest.approx(one["std"], rel=1e-9)
    assert "already" in command("replay", name, target, "--config", file, expect=1)
    file.write_text(json.dumps(LINEAR | {"context": {"shape": [5]}}))
    refused = command("replay", name, "elsewhere", "--config", file, expect=1)
    assert f"context.shape: is [3] in {name} and cannot be [5] in elsewhere" in refused
    assert api.http.get("/bandits/elsewhere").status_code == 404
