"""Challengers across kills: trials, promotions and what they replaced are as the log has them."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Any

import numpy as np
import pytest

from tests.fixtures.commands import bandexa
from tests.fixtures.waiting import poll

BETTER = {"encoder": {"name": "bilinear"}}


def verified(node) -> None:
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok" in done.stdout


def restarted(node) -> None:
    node.kill()
    node.start()


def challenger(node, name: str = "products") -> dict[str, Any]:
    found: dict[str, Any] = node.call("GET", f"/bandits/b/challengers/{name}")
    return found


def test_trial_promotion_and_return_survive_kills(launch, rig) -> None:
    node = launch("challengers")
    spec = rig.linear(training=rig.training(optimizer_steps=10), encoder={"name": "concat"})
    for name in ("b", "twin"):
        node.create(name, spec)
    where = "/bandits/b/challengers/products"

    def taught(num: int, first: int) -> None:
        for name in ("b", "twin"):
            for number in range(first, first + num):
                context = rig.context_of(f"row{number}", 0)
                action = f"a{number % 5}"
                body = {"bandit": name, "context": context, "candidates": [action]}
                chosen = node.call("POST", "/select", body)["decision_id"]
                node.call("POST", "/reward", {"decision_id": chosen, "reward": number % 3 / 2})

    taught(60, 0)
    node.call("PUT", where, BETTER)
    restarted(node)
    assert challenger(node)["state"] == "learning"
    node.call("POST", f"{where}/promote", {"share": 0.5})
    select = {"bandit": "b", "context": rig.context_of("seen", 0)}
    decided = {
        own: node.call("POST", "/select", select | {"decision_id": own})
        for own in (f"trial{number}" for number in range(20))
    }
    assert {each["arm"] for each in decided.values()} == {"products", "bandit"}
    restarted(node)
    assert (challenger(node)["state"], challenger(node)["share"]) == ("trial", 0.5)
    for own, answer in decided.items():
        explained = node.call("GET", f"/bandits/b/decisions/{own}")
        assert explained["reproduced"] == {"action": True, "score": True, "propensity": True}
        assert node.call("POST", "/select", select | {"decision_id": own}) == answer
    verified(node)
    node.call("POST", f"{where}/promote", {})
    restarted(node)  # while it is learned, or before
    poll(lambda: challenger(node)["state"] == "served", "the promotion goes on", 60)
    poll(lambda: node.state("b")["arms"] == [], "its trial has ended", 60)
    taught(20, 60)
    node.call("POST", "/bandits/b/train", wait="true")
    restarted(node)
    assert node.state("b")["spec"]["encoder"]["name"] == "bilinear"
    node.call("POST", f"{where}/demote")
    restarted(node)
    assert node.state("b")["spec"]["encoder"]["name"] == "concat"
    assert challenger(node)["state"] == "learning"
    for mine, twin in zip(node.score("b"), node.score("twin"), strict=True):
        assert mine == pytest.approx(twin, rel=1e-9)
    taught(10, 80)
    node.call("POST", "/bandits/b/train", wait="true")
    verified(node)
    node.call("DELETE", where)
    restarted(node)
    assert node.state("b")["challengers"] == []
    assert node.state("b")["num_learned"] == node.state("twin")["num_learned"] == 90


def test_a_trial_that_learned_what_is_erased_begins_anew(launch, rig) -> None:
    node = launch("erased-trial")
    node.create("b", rig.linear(encoder={"name": "concat"}))
    for number in range(20):
        select = {
            "bandit": "b", "context": rig.context_of(f"row{number}", 0), "unit": f"u{number}",
            "decision_id": f"d{number}",
        }  # fmt: skip
        node.call("POST", "/select", select)
        node.call("POST", "/reward", {"decision_id": f"d{number}", "reward": number % 3 / 2})
    node.call("PUT", "/bandits/b/challengers/products", BETTER)
    where = "/bandits/b/challengers/products"
    (arm,) = node.call("POST", f"{where}/promote", {"share": 0.25})["spec"]["arms"]
    assert node.call("POST", "/erase", {"unit": "u3"})["rebuilt"] == ["b"]

    def learned_anew() -> bool:
        (mine,) = node.state("b")["spec"]["arms"]
        assert (mine["name"], mine["share"]) == ("products", 0.25)
        newer: bool = mine["snapshot"] > arm["snapshot"]
        return newer

    poll(learned_anew, "the trial begins anew", 60)
    newest = node.call("GET", "/bandits/b/audit")["entries"][0]
    assert (newest["by"], newest["what"]) == ("(rule)", "trial begins anew")
    restarted(node)
    assert (challenger(node)["state"], challenger(node)["share"]) == ("trial", 0.25)
    verified(node)


def test_a_trial_is_returned_while_the_challenger_of_another_bandit_is_learned(launch) -> None:
    node = launch("two-trials")
    spec = {
        "context": {"shape": [2]}, "action_dim": 2, "reward_range": [0, 1], "seed": 5,
        "selection": {"epsilon": 0.1}, "encoder": {"name": "bilinear"},
        "training": {"mode": "lockstep"},
    }  # fmt: skip
    actions = {"ids": ["x", "y"], "features": [[1, 0], [0, 1]]}
    rng = np.random.default_rng(3)

    def played(name: str, num: int) -> None:
        """Have a bandit learn that each of two contexts has its own best action."""
        kinds = rng.integers(2, size=num).tolist()
        items = [{"bandit": name, "context": [1 - kind, kind]} for kind in kinds]
        answers = node.call("POST", "/select/batch", {"items": items})["items"]
        rewards = [
            {
                "decision_id": each["answer"]["decision_id"],
                "reward": float(
                    rng.random() < (0.9 if each["answer"]["action"]["id"] == best else 0.1)
                ),
            }
            for each, best in zip(answers, ("xy"[kind] for kind in kinds), strict=True)
        ]
        node.call("POST", "/reward/batch", {"items": rewards})

    for name in ("a", "b"):
        node.call("PUT", f"/bandits/{name}", spec)
        node.call("PUT", f"/bandits/{name}/actions", actions)
        played(name, 200)
        where = f"/bandits/{name}/challengers/sums"
        node.call("PUT", where, {"encoder": {"name": "concat"}})
        node.call("POST", f"{where}/promote", {"share": 0.5})
    state = node.state("a")
    version = state["spec"]["arms"][0]["snapshot"]
    trainer = node.trainer_pid()
    os.kill(trainer, signal.SIGSTOP)
    try:
        (folder,) = (node.data_dir / "snapshots" / state["uid"]).glob(f"*{version}")
        shutil.rmtree(folder)  # so that it is learned anew, which waits for the trainer
        poll(lambda: node.trainer()["state"] == "training", "it waits")
        for _ in range(4):
            played("b", 500)
        poll(lambda: node.state("b")["arms"] == [], "the other trial is ended", 30)
    finally:
        os.kill(trainer, signal.SIGCONT)
    found = node.call("GET", "/bandits/b/challengers/sums")
    assert found["state"] == "returned"
