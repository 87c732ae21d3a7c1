"""Frozen bandits: nothing is learned, nothing is lost, and afterwards all of it is learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fixtures.commands import bandexa
from tests.fixtures.nodes import Refused
from tests.fixtures.waiting import poll

NAMES = ("linear", "disjoint", "neural")
NUM = 90
PLAIN = {  # neither the prior nor the scale of inputs follows from rows
    "rewards": {"clip_outliers": False}, "posterior": {"prior_mean": 0.0},
    "reward_range": [-10, 10],
}  # fmt: skip


def play(node, rig, name: str, among: range) -> list[str]:
    """Select with one candidate each, so that both servers learn of the same actions."""
    statuses = []
    for number in among:
        x = rig.context_of(name, number)
        own, action = f"{name}.{number}", rig.action_ids[number % len(rig.action_ids)]
        node.call(
            "POST", "/select",
            {"bandit": name, "context": x, "decision_id": own, "candidates": [action]},
        )  # fmt: skip
        reward = {"decision_id": own, "reward": rig.reward_of(x, number % 5)}
        statuses.append(node.call("POST", "/reward", reward)["status"])
    return statuses


def create(node, rig) -> None:
    own = {"training": {"mode": "background"}, "encoder": {"name": "concat", "standardize": False}}
    node.create("linear", rig.linear(**own, **PLAIN))
    encoder = {"name": "per_action", "standardize": False}
    node.create("disjoint", rig.disjoint(encoder=encoder, **PLAIN))
    training = rig.training(optimizer_steps=60)
    node.create("neural", rig.neural(training=training, **PLAIN))


def put_mode(node, name: str, mode: str) -> dict[str, Any]:
    state: dict[str, Any] = node.call("PUT", f"/bandits/{name}/mode", {"mode": mode})
    return state


def wait_until_learned(node, name: str) -> None:
    def is_learned() -> bool:
        return bool(node.call("GET", f"/bandits/{name}")["held_values"] == 0)

    poll(is_learned, "the model with what was held back")


def assert_same(node, scores, name: str, *, within: float = 0.0) -> None:
    for found, expected in zip(node.score(name), scores, strict=True):
        assert np.abs(np.asarray(found) - np.asarray(expected)).max() <= within


@pytest.fixture(scope="module")
def never(launch, rig):
    """Return the scores of a server that was never frozen."""
    node = launch("never")
    create(node, rig)
    for name in NAMES:
        play(node, rig, name, range(NUM))
        node.train(name)
    scores = {name: node.score(name) for name in NAMES}
    node.stop()
    return scores


def test_frozen_bandits_learn_nothing_and_afterwards_everything(launch, rig, never):
    """Across a kill in the middle; `verify` follows it, before and after."""
    node = launch("frozen", keep_snapshots=9)
    create(node, rig)
    scores = {}
    for name in NAMES:
        assert set(play(node, rig, name, range(30))) == {"applied"}
        put_mode(node, name, "frozen")
        scores[name] = node.score(name)
        assert set(play(node, rig, name, range(30, 60))) == {"stored"}
        assert_same(node, scores[name], name)
        state = node.call("GET", f"/bandits/{name}")
        assert (state["held_values"], state["num_learned"], state["train_due"]) == (30, 30, False)
        with pytest.raises(Refused, match=r": 409 .*frozen"):
            node.train(name)
    node.kill()
    node.start()
    for name in NAMES:
        assert_same(node, scores[name], name)
        assert node.call("GET", f"/bandits/{name}")["held_values"] == 30
        assert set(play(node, rig, name, range(60, 70))) == {"stored"}
        why = node.call("GET", f"/bandits/{name}/decisions/{name}.65")
        assert why["reproduced"]["action"] is True
        assert why["reproduced"]["score"] is True
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        put_mode(node, name, "learn")
        if name != "linear":  # it is trained in lockstep
            assert node.call("GET", f"/bandits/{name}")["train_due"]
            node.train(name)
        wait_until_learned(node, name)
        assert set(play(node, rig, name, range(70, NUM))) == {"applied"}
        assert node.call("GET", f"/bandits/{name}")["num_learned"] == NUM
    for name in ("linear", "disjoint"):
        assert_same(node, never[name], name, within=1e-9)
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_frozen_bandit_is_not_relearned(launch, rig):
    node = launch("frozen-changes")
    spec = rig.linear(**PLAIN)
    node.create("linear", spec | {"mode": "frozen"})
    assert set(play(node, rig, "linear", range(5))) == {"stored"}
    changed = spec | {"posterior": {"prior_mean": 0.3}}
    with pytest.raises(Refused, match=r": 422 .*frozen"):
        node.call("PUT", "/bandits/linear", changed)
    state = node.call("PUT", "/bandits/linear?wait=true", changed | {"mode": "learn"})
    assert state["spec"]["mode"] == "learn"
    wait_until_learned(node, "linear")
    assert node.call("GET", "/bandits/linear")["num_learned"] == 5
