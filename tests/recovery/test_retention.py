"""A server with limits: old decisions go, what was learned stays, restarts and verify hold.

One directory is written without limits and then served with them, for each way to set one.
"""

from __future__ import annotations

import numpy as np
import pytest

from service.store.identity import first_key
from tests.fixtures.commands import bandexa
from tests.fixtures.matrices import slow

NAMES = ("linear", "disjoint", "neural")
NUM = 900


def played(launch, rig, name: str):
    """Return a server whose bandits learned from 900 rewards each, with a snapshot of 700."""
    node = launch(name, keep_snapshots=2)
    node.create("linear", rig.linear())
    node.create("disjoint", rig.disjoint())
    node.create("neural", rig.neural(training=rig.training(optimizer_steps=60)))
    for bandit in NAMES:
        for first in range(0, NUM, 100):
            if first in (600, 700):
                node.train(bandit)
            rig.feed(node, bandit, first, 100)
    node.call("POST", "/select", {"bandit": "linear", "context": rig.context_of("linear", -1 % 7),
                                  "decision_id": "never-rewarded"})  # fmt: skip
    return node


def verified(node) -> str:
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def left(node, rig) -> int:
    return int(rig.query(node, "SELECT count(*) FROM decisions")[0][0])


@pytest.fixture(scope="module", params=["bytes", *slow("age")])
def history(request, launch, rig):
    node = played(launch, rig, request.param)
    scores = {name: node.score(name) for name in NAMES}
    states = {name: node.state(name) for name in NAMES}
    setting = {"age": ("MAX_AGE_DAYS", "1e-9"), "bytes": ("MAX_STORE_BYTES", str(1 << 20))}
    assert node.stop() == 0
    # Without free pages, and too large for the limit.
    rig.query(node, "UPDATE decisions SET candidates = zeroblob(2000) WHERE key < ?", first_key(3))
    before = left(node, rig)
    key, value = setting[request.param]
    node.env[f"BANDEXA_{key}"] = value
    node.start()

    def removed() -> bool:
        found = node.http.get("/metrics").text
        count = next(
            line for line in found.splitlines()
            if line.startswith("bandexa_decisions_removed_total")
        )  # fmt: skip
        return float(count.split()[-1]) > 0 and "bandexa_store_bytes 0.0" not in found

    rig.poll(removed, "old decisions are removed")
    return node, scores, states, before


def test_old_decisions_go_and_what_was_learned_from_them_is_served(history, rig):
    node, scores, states, before = history
    for name in NAMES:
        assert node.state(name) == states[name]
        for found, expected in zip(node.score(name), scores[name], strict=True):
            assert np.abs(found - expected).max() < 1e-9
    assert node.stop() == 0
    assert left(node, rig) < before - 600
    verified(node)
    node.start()  # recovers from what is left
    for name in NAMES:
        for found, expected in zip(node.score(name), scores[name], strict=True):
            assert np.abs(found - expected).max() < 1e-9


def test_ids_hold_inside_retention_alone(history, rig):
    node, *_ = history
    first = {"decision_id": "linear.0", "reward": 1.0}
    assert node.http.post("/reward", json=first).status_code == 404
    newest = f"linear.{NUM - 1}"
    again = {"decision_id": newest, "reward": -5.0}
    assert node.call("POST", "/reward", again)["status"] == "ignored"


def test_bandits_learn_on_and_a_round_knows_what_left(history, rig):
    node, *_ = history
    means, stds = node.score("neural")
    for name in NAMES:
        rig.feed(node, name, NUM, 100)
    for name in NAMES:
        node.train(name)
    _, after = node.score("neural")
    assert 0.5 < np.median(after / stds) < 1.5
    assert np.isfinite(means).all()
    assert node.stop() == 0
    output = verified(node)
    assert "rebuilt from the log" in output
    node.start()
    assert node.state("neural")["num_learned"] == NUM + 100


def test_a_changed_configuration_is_learned_from_what_is_left_and_the_sample(history, rig):
    node, *_ = history
    for name, spec in (("linear", rig.linear()), ("disjoint", rig.disjoint())):
        _, before = node.score(name)
        wider = spec | {"posterior": {"prior_var": 2.0}}
        state = node.call("PUT", f"/bandits/{name}", wider, wait="true")
        assert (state["rebuild"]["state"], state["num_learned"]) == ("done", NUM + 100)
        means, after = node.score(name)
        assert 0.5 < np.median(after / before) < 2.0
        assert np.isfinite(means).all()
        rig.feed(node, name, NUM + 100, 20)
    assert node.stop() == 0
    verified(node)
    node.start()
    assert node.state("linear")["num_learned"] == NUM + 120


def test_a_limit_that_cannot_be_is_refused():
    done = bandexa("serve", env={"BANDEXA_MAX_STORE_BYTES": "5"})
    assert done.returncode == 2
    assert "max_store_bytes" in done.stderr
