"""Decisions of the last hours are explained, however many rounds came since."""

from __future__ import annotations

import pytest

from tests.fixtures.commands import bandexa

ROUNDS = 6


@pytest.fixture(scope="module")
def trained(launch, rig):
    """A server with default settings, whose bandit had a round after every four rewards."""
    node = launch("lasting", environment={"BANDEXA_KEEP_SNAPSHOTS_H": "24"})
    node.create("linear", rig.linear())
    for number in range(ROUNDS):
        rig.feed(node, "linear", 4 * number, 4)
        node.train("linear")
    return node


def explained(node, number: int):
    return node.call("GET", f"/bandits/linear/decisions/linear.{number}")


def test_every_decision_of_the_last_day_is_drawn_again(trained):
    for number in range(4 * ROUNDS):
        found = explained(trained, number)
        assert found["explained"] == "yes", number
        assert found["snapshot"] == number // 4
        assert found["reproduced"] == {"action": True, "score": True, "propensity": True}
    listed = trained.call("GET", "/bandits/linear/snapshots")["snapshots"]
    assert len(listed) == ROUNDS + 1


def test_verify_compares_the_newest_of_many_snapshots(trained):
    every = bandexa("verify", trained.data_dir, "--quiet")
    assert "snapshots were not compared" not in every.stdout
    newest = bandexa("verify", trained.data_dir, "--quiet", "--snapshots", "2")
    assert f"note: linear: {ROUNDS - 1} older snapshots were not compared" in newest.stdout
    for done in (every, newest):
        assert (done.returncode, "verdict: ok" in done.stdout) == (0, True), done.stdout


def test_a_bound_in_bytes_comes_first(trained, launch, rig):
    node = launch("bounded", environment={
        "BANDEXA_KEEP_SNAPSHOTS_H": "24", "BANDEXA_KEEP_SNAPSHOTS_BYTES": "1",
    })  # fmt: skip
    node.create("linear", rig.linear())
    for number in range(4):
        rig.feed(node, "linear", 4 * number, 4)
        node.train("linear")
    found = explained(node, 0)
    assert found["explained"] == "no"
    assert "`keep_snapshots_bytes`" in found["reason"]


def test_limits_of_the_store_come_before_explanations(trained, rig):
    """Snapshots that only explained what is removed do not hold the log back."""
    assert trained.stop() == 0
    trained.env["BANDEXA_MAX_AGE_DAYS"] = "1e-9"
    trained.start()

    def trimmed() -> bool:
        return len(trained.call("GET", "/bandits/linear/snapshots")["snapshots"]) == 3

    rig.poll(trimmed, "the removal of old snapshots")
    rig.feed(trained, "linear", 100, 4)
    trained.train("linear")
    assert explained(trained, 100)["reproduced"]["action"]
    assert trained.stop() == 0
    done = bandexa("verify", trained.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_decision_that_had_learned_from_an_erased_person_says_so(launch, rig):
    node = launch("forgotten", environment={"BANDEXA_KEEP_SNAPSHOTS_H": "24"})
    node.create("linear", rig.linear())
    decisions: list[str] = []
    for unit in ("bob", "alice", "bob"):
        context = rig.context_of("linear", len(decisions))
        body = {"bandit": "linear", "context": context, "unit": unit}
        decisions.append(node.call("POST", "/select", body)["decision_id"])
        node.call("POST", "/reward", {"decision_id": decisions[-1], "reward": 0.5})
    assert node.call("POST", "/erase", {"unit": "alice"})["decisions"] == 1
    before, _, behind = decisions
    explained = node.call("GET", f"/bandits/linear/decisions/{before}")
    assert explained["reproduced"]["score"], explained
    explained = node.call("GET", f"/bandits/linear/decisions/{behind}")
    assert (explained["explained"], explained["reproduced"]) == ("no", None)
    assert explained["reason"] == "values that it had learned were erased since: 1"
