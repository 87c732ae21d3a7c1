"""Data directories of earlier releases are verified, served as before, and go on learning.

They lie in `data`, each with the answers of the server that wrote it: `save_directory` makes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.commands import bandexa
from tests.recovery.saved import quick_or_slow

DATA = Path(__file__).parent / "data"
RELEASES = sorted(path.stem for path in DATA.glob("*.json"))


@pytest.fixture(scope="module", params=[quick_or_slow(release) for release in RELEASES])
def upgraded(request, launch) -> tuple[Any, dict[str, Any]]:
    """A server of this tree on a release's directory, and what that release answered."""
    answers = json.loads((DATA / f"{request.param}.json").read_text())
    return launch("saved", content=DATA / request.param), answers


def verified(node, *arguments: str) -> None:
    done = bandexa("verify", node.data_dir, "--quiet", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok" in done.stdout


def test_each_release_left_a_directory():
    assert "0.1.0" in RELEASES
    for release in RELEASES:
        assert (DATA / release / "bandexa.db").is_file()


def test_the_directory_and_what_is_served_from_it_verify(upgraded):
    node, _ = upgraded
    verified(node, "--live", str(node.http.base_url))


def test_bandits_are_where_they_were(upgraded):
    node, answers = upgraded
    for name, before in answers["bandits"].items():
        state = node.call("GET", f"/bandits/{name}")
        for key in ("uid", "snapshot", "position", "num_learned"):
            assert state[key] == before[key], (name, key)
        found = node.call("POST", f"/bandits/{name}/score", {"context": [0.5, -1.0, 2.0]})
        assert [row["id"] for row in found["scores"]] == [row["id"] for row in before["scores"]]
        for row, expected in zip(found["scores"], before["scores"], strict=True):
            assert row["mean"] == pytest.approx(expected["mean"], rel=1e-9)
            assert row["std"] == pytest.approx(expected["std"], rel=1e-9)


def test_repeated_selects_get_the_stored_answers(upgraded):
    node, answers = upgraded
    assert len(answers["stored"]) > 100
    for select in answers["stored"]:
        found = node.call("POST", "/select", select["body"])
        new = {"propensities": None, "all_propensities": None, "arm": None}  # since then
        assert found == new | select["answer"]


@pytest.mark.few(1)
def test_stored_decisions_are_drawn_again(upgraded):
    node, answers = upgraded
    drawn = 0
    for select in answers["stored"]:
        name, decision_id = select["body"]["bandit"], select["body"]["decision_id"]
        explained = node.call("GET", f"/bandits/{name}/decisions/{decision_id}")
        if explained["explained"] == "yes":
            drawn += 1
            assert explained["reproduced"]["action"], decision_id
            assert explained["reproduced"]["score"], decision_id
    assert drawn > 50


def test_new_selects_get_the_answers_that_the_release_gave(upgraded):
    node, answers = upgraded
    for select in answers["next"]:
        found, expected = node.call("POST", "/select", select["body"]), select["answer"]
        for key in ("decision_id", "action", "snapshot", "position"):
            assert found[key] == expected[key], select["body"]["decision_id"]
        # It is drawn in float32, whose last digits are those of a kind of CPU.
        assert found["score"] == pytest.approx(expected["score"], rel=1e-6)
        assert found["propensity"] == pytest.approx(expected["propensity"], rel=1e-9)


@pytest.mark.few(1)
def test_every_bandit_learns_and_trains_on(upgraded):
    node, answers = upgraded
    for name, before in answers["bandits"].items():
        mine = [select["body"]["decision_id"] for select in answers["next"]]
        mine = [decision_id for decision_id in mine if decision_id.startswith(f"{name}.")]
        for decision_id in mine:
            report = {"decision_id": decision_id, "reward": 0.5, "reward_id": "upgraded"}
            assert node.call("POST", "/reward", report)["status"] == "applied"
        node.train(name)
        state = node.call("GET", f"/bandits/{name}")
        assert state["position"] == before["position"] + len(mine)
        assert state["snapshot"] == before["snapshot"] + 1
    verified(node, "--live", str(node.http.base_url))
