"""Void values and changes of a configuration: each holds for what the other one builds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

LINEAR: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [3]}, "action_dim": 0, "seed": 3,
    "encoder": {"name": "per_action", "standardize": False},
    "rewards": {"clip_outliers": False},
}  # fmt: skip
CHANGED = LINEAR | {"posterior": {"prior_var": 4.0}}
NEURAL = LINEAR | {
    "policy": "neural_linear_ts",
    "encoder": {"name": "mlp", "params": {"feature_dim": 4, "heads": "per_action"}},
    "training": {"optimizer_steps": 20},
}  # fmt: skip
NUM, EVERY, WRONG = 72, 6, 50.0


def created(api, *, wrong: bool) -> tuple[str, list[str]]:
    """Return a bandit that has learned, and the decisions with wrong rewards, if it has any."""
    name = api.fresh("voids")
    api.call("PUT", f"/bandits/{name}", LINEAR, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["a", "b"]})
    ids, rewards = list[str](), list[dict[str, Any]]()
    for number in range(NUM):
        rng = np.random.default_rng(number)
        context = rng.normal(size=3).round(3).tolist()
        decision = api.select(name, context, candidates=["ab"[number % 2]])["decision_id"]
        if number % EVERY != 2:
            rewards.append({"decision_id": decision, "reward": context[0] * (1 - 2 * number % 2)})
        elif wrong:
            ids.append(decision)
            rewards.append({"decision_id": decision, "reward": WRONG})
    for first in range(0, len(rewards), 8):
        api.call("POST", "/reward/batch", {"items": rewards[first : first + 8]})
    return name, ids


def void(api, name: str, ids: list[str], *, wait: bool) -> dict[str, Any]:
    body = {"decision_ids": ids, "wait": wait}
    answer: dict[str, Any] = api.call("POST", f"/bandits/{name}/rewards/void", body)
    return answer


def change(api, name: str, spec: dict[str, Any], *, wait: bool = True) -> None:
    state = api.call("PUT", f"/bandits/{name}?wait={str(wait).lower()}", spec)
    assert not wait or state["rebuild"]["state"] == "done"


def assert_alike(api, name: str, other: str) -> None:
    for context in ([0.3, -0.2, 0.9], [-1.0, 0.5, 0.1]):
        found, expected = (api.scores(each, context)["scores"] for each in (name, other))
        for one, two in zip(found, expected, strict=True):
            assert one["mean"] == pytest.approx(two["mean"], rel=1e-9, abs=1e-9)
            assert one["std"] == pytest.approx(two["std"], rel=1e-9)


def test_a_void_follows_a_bandit_across_a_change(api) -> None:
    """The model was relearned with the wrong values: it is relearned once more."""
    (name, ids), (other, _) = created(api, wrong=True), created(api, wrong=False)
    for each in (name, other):
        change(api, each, CHANGED)
    done = void(api, name, ids, wait=True)
    assert (done["learned"], done["unlearning"]) == (len(ids), "none")
    assert api.state(name)["num_learned"] == NUM - len(ids)
    assert_alike(api, name, other)


def test_a_network_that_a_change_brought_is_trained_without_void_values(api) -> None:
    """Networks of two bandits begin otherwise: what this one expects shows the wrong values."""
    name, ids = created(api, wrong=True)
    change(api, name, NEURAL)
    contexts = [np.random.default_rng(n).normal(size=3).tolist() for n in range(2, NUM, EVERY)]
    before = max(max(api.means(name, context)) for context in contexts)
    assert void(api, name, ids, wait=True)["unlearning"] == "none"
    assert before > 5.0 > 3.0 > max(max(api.means(name, context)) for context in contexts)


@pytest.mark.few(1)
@pytest.mark.parametrize("first", ["void", "change"])
def test_a_pending_void_and_a_pending_change_are_both_brought_about(api, first: str) -> None:
    (name, ids), (other, _) = created(api, wrong=True), created(api, wrong=False)
    change(api, other, CHANGED)
    if first == "void":
        void(api, name, ids, wait=False)
        change(api, name, CHANGED)
    else:
        change(api, name, CHANGED, wait=False)
        void(api, name, ids, wait=True)
        change(api, name, CHANGED)
    assert void(api, name, ids, wait=True)["values"] == 0  # and the model is without them
    state = api.state(name)
    assert (state["unlearning"], state["num_learned"]) == ("none", NUM - len(ids))
    assert_alike(api, name, other)


def test_a_correction_follows_the_rules_of_its_decision(api) -> None:
    name, _ = created(api, wrong=False)
    summed = LINEAR | {"rewards": {"clip_outliers": False, "aggregate": "sum"}}
    change(api, name, summed, wait=False)
    decision = api.select(name, [1, 0, 0])["decision_id"]
    api.reward(decision, 7.0, reward_id="first")
    change(api, name, LINEAR, wait=False)
    body = {"decision_id": decision, "reward": 1.0}
    assert api.call("POST", f"/bandits/{name}/rewards/correct", body)["before"] == 7.0
    api.reward(decision, 2.0, reward_id="second")
    [chosen] = api.call("GET", f"/bandits/{name}/decisions/{decision}")["chosen"]
    assert chosen["value"] == 3.0


def test_neither_a_replay_nor_an_export_has_void_values(api) -> None:
    (name, ids), (other, _) = created(api, wrong=True), created(api, wrong=False)
    void(api, name, ids, wait=True)
    target, expected = api.fresh("replayed"), api.fresh("replayed")
    for source, to in ((name, target), (other, expected)):
        done = api.call("POST", f"/bandits/{source}/replay", {"to": to, "spec": LINEAR}, 201)
        assert done["rows"] == NUM - NUM // EVERY
    assert_alike(api, target, expected)

    summed = LINEAR | {"rewards": {"clip_outliers": False, "aggregate": "sum"}}
    change(api, name, summed, wait=False)
    later = api.select(name, [1, 0, 0])["decision_id"]
    lines = [json.loads(line) for line in api.http.get(f"/bandits/{name}/log").text.splitlines()]
    rows = {line["decision_id"]: line for line in lines if line["kind"] == "decision"}
    assert {each for each, row in rows.items() if row["void"]} == set(ids)
    for each in ids:
        assert rows[each]["value"] is None
        assert [reward["status"] for reward in rows[each]["rewards"]] == ["void"]
    # The first line has the configuration of now, and others say where decisions had another one.
    rules = [
        (number, line["spec"]["rewards"]["aggregate"])
        for number, line in enumerate(lines)
        if line["kind"] in ("bandit", "configuration")
    ]
    assert [aggregate for _, aggregate in rules] == ["sum", "first", "sum"]
    assert lines[rules[-1][0] + 1]["decision_id"] == later


def test_a_replay_hashes_no_digest_again_and_keeps_nothing_that_it_declares_personal(api) -> None:
    fields: dict[str, Any] = {
        "user": {"type": "hash", "log": "hash"}, "mail": {"type": "category"},
        "age": {"type": "number"}, "*": "auto",
    }  # fmt: skip
    name, target = api.fresh("personal"), api.fresh("personal")
    context = {"user": "u1", "mail": "someone@here", "age": 7, "page": "home"}
    api.call("PUT", f"/bandits/{name}", {"context": {"features": fields}}, 201)
    api.call("PUT", f"/bandits/{name}/actions", {"ids": ["a", "b"]})
    decision = api.select(name, context)["decision_id"]
    api.reward(decision, 1.0)
    quiet = fields | {"mail": {"type": "ignore", "log": "drop"}}
    quiet |= {"age": {"type": "number", "log": "hash"}}
    body = {"to": target, "spec": {"context": {"features": quiet}}}
    api.call("POST", f"/bandits/{name}/replay", body, 201)
    logs = (api.http.get(f"/bandits/{each}/log").text.splitlines() for each in (name, target))
    rows = (json.loads(line) for log in logs for line in log)
    before, after = (row["context"] for row in rows if row["kind"] == "decision")
    assert before["user"] == after["user"] != "u1"
    assert (before["page"], after["page"], before["mail"]) == ("home", "home", "someone@here")
    assert "mail" not in after
    assert (before["age"], len(after["age"])) == (7, 24)
