"""A server that is ended and started again, beside one that is fed the same and never ended.

One scenario is played for the module and checked part by part: feed both; end the first with
SIGTERM, start it again, feed both; end the first with SIGKILL, start it again, feed both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

NAMES = ("linear", "disjoint", "neural", "towers")
ENDINGS = ("SIGTERM", "SIGKILL")


@dataclass
class Part:
    """What one server showed: just after the restart of the first, and in the steps after it."""

    states: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class History:
    """Parts of (server, ending): "first" was ended, "second" never was; and the exit statuses."""

    parts: dict[tuple[str, str], Part] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    before: dict[tuple[str, str], Part] = field(default_factory=dict)
    trainer_gone: dict[str, bool] = field(default_factory=dict)


def record(node, part: Part) -> None:
    for name in NAMES:
        part.states[name] = node.state(name)
        part.scores[name] = node.score(name)


@pytest.fixture(scope="module")
def history(launch, rig) -> History:
    servers = {"first": launch("first"), "second": launch("second")}
    towers = {"name": "two_tower", "params": {"tower_dim": 4, "hidden": [8]}}
    specs = {
        "linear": rig.linear(),
        # without inputs to standardise no round of it is ever due
        "disjoint": rig.disjoint(encoder={"name": "per_action", "standardize": False}),
        "neural": rig.neural(replay={"backend": "disk", "flush_every": 16}),
        "towers": rig.neural(encoder=towers, seed=4),
    }
    for node in servers.values():
        for name, spec in specs.items():
            node.create(name, spec)
            rig.feed(node, name, 0, 40)
            if name != "disjoint":  # a snapshot in the middle, so that start has a tail to apply
                node.train(name)
            change = {"actions": [{"id": "a1", "enabled": False}, {"id": "a2"}]}
            node.call("PUT", f"/bandits/{name}/actions", change)
            warm = spec | {"selection": {"warmup_random": 7}}
            node.call("PUT", f"/bandits/{name}", warm)
            rig.feed(node, name, 40, 20)
    history = History()
    for ending in ENDINGS:
        first = servers["first"]
        before = history.before[("first", ending)] = Part()
        record(first, before)
        trainer_pid = first.trainer_pid()
        if ending == "SIGTERM":
            history.statuses[ending] = first.stop()
        else:
            history.statuses[ending] = first.kill()
        rig.poll(lambda pid=trainer_pid: not rig.is_running(pid), "the trainer's end", 5.0)
        history.trainer_gone[ending] = True
        first.start()
        start = 60 if ending == "SIGTERM" else 80
        for name, node in servers.items():
            part = history.parts[(name, ending)] = Part()
            record(node, part)
            part.steps = {name: rig.steps(node, name, start, 20) for name in NAMES}
    return history


def test_sigterm_ends_the_server_with_status_0(history):
    assert history.statuses["SIGTERM"] == 0


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_trainer_outlives_its_server(history, ending):
    assert history.trainer_gone[ending]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bandits_exist_after_a_restart(history, name, ending):
    restarted = history.parts[("first", ending)].states[name]
    assert restarted == history.before[("first", ending)].states[name]
    assert restarted == history.parts[("second", ending)].states[name]
    assert restarted["spec"]["selection"]["warmup_random"] == 7
    assert restarted["num_actions"] == 4
    assert (restarted["snapshot"] > 0) == (name != "disjoint"), "one bandit is never trained"
    assert restarted["position"] > 60


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", NAMES)
def test_the_posterior_is_the_same_after_a_restart(history, name, ending):
    means, stds = history.parts[("first", ending)].scores[name]
    for other in (history.before[("first", ending)], history.parts[("second", ending)]):
        np.testing.assert_allclose(means, other.scores[name][0], rtol=1e-9, atol=0)
        np.testing.assert_allclose(stds, other.scores[name][1], rtol=1e-9, atol=0)
    assert np.ptp(means) > 0.01, "something was learned"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", NAMES)
def test_the_next_decisions_are_those_of_a_server_that_never_stopped(history, name, ending):
    restarted = history.parts[("first", ending)].steps[name]
    steady = history.parts[("second", ending)].steps[name]
    assert [(s.decision_id, s.action) for s in restarted] == [
        (s.decision_id, s.action) for s in steady
    ]
    assert [(s.snapshot, s.position) for s in restarted] == [
        (s.snapshot, s.position) for s in steady
    ]
    np.testing.assert_allclose(
        [s.score for s in restarted], [s.score for s in steady], rtol=1e-9, atol=0
    )
    assert {s.status for s in steady} == {"applied"}
