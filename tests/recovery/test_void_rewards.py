"""Wrong rewards become void: models are what they would be if nobody had ever reported them.

One server gets right and wrong rewards, and voids the wrong ones. Another one never gets those.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from tests.fixtures.commands import bandexa
from tests.fixtures.waiting import poll

NAMES = ("linear", "disjoint", "neural")
NUM, EVERY = 120, 6  # every sixth reward is wrong
WRONG = 250.0
TRIMMED = (*NAMES, "plain")
PLAIN = {  # neither the prior nor the scale of inputs follows from rows
    "rewards": {"clip_outliers": False}, "posterior": {"prior_mean": 0.0},
    "encoder": {"name": "concat", "standardize": False},
}  # fmt: skip


def is_wrong(number: int) -> bool:
    return number % EVERY == 2


def own_id(name: str, number: int) -> str:
    return f"{name}.{number}"


def wrong_ids(name: str, among: range = range(NUM)) -> list[str]:
    return [own_id(name, number) for number in among if is_wrong(number)]


def play(node, rig, name: str, *, wrong: bool, among: range = range(NUM)) -> None:
    """Select with one candidate each, so that both servers learn of the same actions."""
    selects = [
        {
            "bandit": name, "context": rig.context_of(name, number),
            "decision_id": own_id(name, number),
            "candidates": [rig.action_ids[number % len(rig.action_ids)]],
        }
        for number in among
    ]  # fmt: skip
    for first in range(0, len(selects), 10):  # several groups of rows
        node.call("POST", "/select/batch", {"items": selects[first : first + 10]})
        rewards = [
            {
                "decision_id": own_id(name, number),
                "reward": WRONG
                if is_wrong(number)
                else rig.reward_of(rig.context_of(name, number), number % 5),
            }
            for number in among[first : first + 10]
            if wrong or not is_wrong(number)
        ]
        answers = node.call("POST", "/reward/batch", {"items": rewards})["items"]
        assert [item["answer"]["status"] for item in answers] == ["applied"] * len(rewards)


def create(node, rig) -> None:
    plain = {"rewards": {"clip_outliers": False}}  # else the wrong ones would do little harm
    node.create("linear", rig.linear(**plain))
    node.create("disjoint", rig.disjoint(**plain))
    training = rig.training(optimizer_steps=60)
    node.create("neural", rig.neural(training=training, replay={"backend": "disk"}, **plain))


def void(node, name: str, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = node.call("POST", f"/bandits/{name}/rewards/void", body)
    return answer


def rebuilt(node, name: str) -> bool:
    return bool(node.call("GET", f"/bandits/{name}")["unlearning"] == "none")


def difference(node, scores, name: str) -> float:
    pairs = zip(node.score(name), scores[name], strict=True)
    return max(float(np.abs(found - expected).max()) for found, expected in pairs)


def assert_verified(node) -> str:
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def without(launch, rig):
    """Return the scores of a server that never got the wrong rewards."""
    node = launch("without")
    create(node, rig)
    for name in NAMES:
        play(node, rig, name, wrong=False)
        node.train(name)
    scores = {name: node.score(name) for name in NAMES}
    node.stop()
    return scores


@pytest.fixture(scope="module")
def voided(launch, rig):
    """Return a server that has voided the wrong rewards, with what it answered."""
    node = launch("with", keep_snapshots=5)
    create(node, rig)
    for name in NAMES:
        play(node, rig, name, wrong=True)
        node.train(name)
    node.before = {name: node.score(name) for name in NAMES}
    answers = {}
    for name in NAMES:
        dry = void(node, name, decision_ids=wrong_ids(name), dry_run=True)
        answers[name] = dry, void(node, name, decision_ids=[*wrong_ids(name), "nobody"])
    poll(lambda: all(rebuilt(node, name) for name in NAMES), "the rebuilt models")
    return node, answers


def test_the_answer_counts_and_a_dry_run_counts_the_same(voided):
    _, answers = voided
    num = NUM // EVERY
    for dry, done in answers.values():
        assert (dry["decisions"], dry["values"], dry["rewards"], dry["dry_run"]) == (
            num, num, num, True,
        )  # fmt: skip
        assert (dry["learned"], dry["unlearning"]) == (0, "none")
        assert (done["decisions"], done["values"], done["rewards"]) == (num, num, num)
        assert (done["learned"], done["unknown"], done["unlearning"]) == (
            num,
            ["nobody"],
            "pending",
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_what_it_would_be_without_them(voided, without, name):
    node, _ = voided
    assert difference(node, node.before, name) > 1.0
    assert difference(node, without, name) < 1e-9
    state = node.call("GET", f"/bandits/{name}")
    assert state["num_learned"] == NUM - NUM // EVERY


def test_voiding_again_does_nothing(voided):
    node, _ = voided
    position = node.call("GET", "/bandits/linear")["position"]
    again = void(node, "linear", decision_ids=wrong_ids("linear"))
    assert (again["decisions"], again["values"], again["unlearning"]) == (0, 0, "none")
    assert node.call("GET", "/bandits/linear")["position"] == position


def test_the_reward_stays_and_is_shown_as_void(voided):
    node, _ = voided
    found = node.call("GET", f"/bandits/linear/decisions/{own_id('linear', 2)}")
    [chosen] = found["chosen"]
    assert (chosen["void"], chosen["value"]) == (True, None)
    assert [(each["reward"], each["status"]) for each in chosen["rewards"]] == [(WRONG, "void")]
    [amendment] = chosen["amendments"]
    assert (amendment["before"], amendment["after"]) == (WRONG, None)
    other = node.call("GET", f"/bandits/linear/decisions/{own_id('linear', 3)}")["chosen"][0]
    assert (other["void"], other["amendments"]) == (False, [])


def test_decisions_before_and_after_are_explained(voided):
    node, _ = voided
    new = node.call("POST", "/select", {"bandit": "linear", "context": [0.1] * 6})
    for decision_id in (own_id("linear", NUM - 1), new["decision_id"]):
        found = node.call("GET", f"/bandits/linear/decisions/{decision_id}")
        assert found["explained"] == "yes", found["reason"]
        assert found["reproduced"]["action"]


def test_a_later_reward_is_stored_and_answered_void(voided):
    node, _ = voided
    decision_id = own_id("disjoint", 2)
    position = node.call("GET", "/bandits/disjoint")["position"]
    for _ in range(2):
        answer = node.call("POST", "/reward", {"decision_id": decision_id, "reward": 0.25})
        assert answer["status"] == "void"
    assert node.call("GET", "/bandits/disjoint")["position"] == position
    [chosen] = node.call("GET", f"/bandits/disjoint/decisions/{decision_id}")["chosen"]
    assert [each["status"] for each in chosen["rewards"]] == ["void"] * 3


def test_verify_passes_and_a_restart_changes_nothing(voided, without):
    node, _ = voided
    assert_verified(node)
    live = bandexa("verify", node.data_dir, "--quiet", "--live", node.url)
    assert live.returncode == 0, live.stdout + live.stderr
    node.kill()
    node.start()
    for name in NAMES:
        assert rebuilt(node, name)
        assert difference(node, without, name) < 1e-9
    assert_verified(node)


def test_a_snapshot_with_void_values_cannot_be_served_again(voided):
    node, _ = voided
    versions = node.call("GET", "/bandits/linear/snapshots")["snapshots"]
    with_them = next(each for each in versions if each["num_learned"] == NUM)
    answer = node.http.post("/bandits/linear/rollback", json={"version": with_them["version"]})
    assert answer.status_code == 409
    assert "void" in answer.json()["detail"]


def test_a_kill_before_the_model_is_rebuilt_is_finished_by_the_next_start(launch, rig, without):
    node = launch("killed")
    create(node, rig)
    play(node, rig, "linear", wrong=True)
    node.train("linear")
    trainer = node.trainer_pid()
    os.kill(trainer, signal.SIGSTOP)
    done = void(node, "linear", decision_ids=wrong_ids("linear"))
    assert done["unlearning"] == "pending"
    assert not rebuilt(node, "linear")
    # Decisions go on with the model as it is, and can be explained later.
    chosen = node.call("POST", "/select", {"bandit": "linear", "context": [0.1] * 6})
    node.signal(signal.SIGKILL)
    node.wait()
    os.kill(trainer, signal.SIGKILL)
    assert_verified(node)
    node.start()
    poll(lambda: rebuilt(node, "linear"), "the rebuilt model")
    assert difference(node, without, "linear") < 1e-9
    found = node.call("GET", f"/bandits/linear/decisions/{chosen['decision_id']}")
    assert found["reproduced"] == {"action": True, "score": True, "propensity": True}
    assert_verified(node)


def trimmed(launch, rig, *, wrong: bool):
    """Return a server whose logs have lost the first half of the rows.

    No snapshot is older than the rows of the second half.
    """
    node = launch("trimmed", keep_snapshots=2)
    create(node, rig)
    node.create("plain", rig.linear(**PLAIN))
    for name in TRIMMED:
        play(node, rig, name, wrong=False, among=range(NUM // 2))
        node.train(name)
        node.train(name)
    node.stop()
    node.env["BANDEXA_MAX_AGE_DAYS"] = "1e-9"
    node.start()
    rows = "SELECT count(*) FROM decisions"
    poll(lambda: rig.query(node, rows) == [(0,)], "trimmed logs")
    node.stop()
    del node.env["BANDEXA_MAX_AGE_DAYS"]
    node.start()
    for name in TRIMMED:
        play(node, rig, name, wrong=wrong, among=range(NUM // 2, NUM))
        node.train(name)
        node.train(name)
    return node


def test_where_no_older_snapshot_is_left_values_are_taken_out_of_the_sums(launch, rig):
    node, other = (trimmed(launch, rig, wrong=wrong) for wrong in (True, False))
    scores = {name: other.score(name) for name in TRIMMED}
    before = {name: difference(node, scores, name) for name in TRIMMED}
    for name in TRIMMED:
        assert before[name] > 1.0
        done = void(node, name, decision_ids=wrong_ids(name), wait=True)
        assert (done["values"], done["unlearning"]) == (NUM // EVERY // 2, "none")
        assert done["unknown"] == wrong_ids(name, range(NUM // 2))
    assert difference(node, scores, "plain") < 1e-9
    # Which rows' mean the prior expects of unknown actions, and the scale of inputs, differ.
    for name in ("linear", "disjoint"):
        assert difference(node, scores, name) < 0.05
    # The network begins anew, and learns from the sample of what left the log and from the rest.
    assert difference(node, scores, "neural") < 0.05 * before["neural"]
    assert_verified(node)


def test_a_bandit_that_went_back_is_rebuilt_from_there(launch, rig):
    node = launch("back", keep_snapshots=5)
    create(node, rig)
    play(node, rig, "linear", wrong=False, among=range(40))
    version = node.train("linear")["snapshot"]
    play(node, rig, "linear", wrong=True, among=range(40, 80))
    node.train("linear")
    node.call("POST", "/bandits/linear/rollback", {"version": version})
    scores = {"linear": node.score("linear")}
    done = void(node, "linear", decision_ids=wrong_ids("linear"), wait=True)
    assert (done["values"], done["unlearning"]) == (6, "none")
    assert difference(node, scores, "linear") < 1e-9  # it had forgotten them already
    play(node, rig, "linear", wrong=True, among=range(80, 100))
    scores = {"linear": node.score("linear")}
    assert void(node, "linear", decision_ids=[own_id("linear", 0)], wait=True)["values"] == 1
    assert difference(node, scores, "linear") > 1e-3  # of a copied row
    assert_verified(node)
