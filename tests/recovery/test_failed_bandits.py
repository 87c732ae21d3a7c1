"""Faults while a reward is learned: the bandit says so, serves on, loses nothing and recovers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from service.tools.verify import verify
from tests.fixtures.servers import Server
from tests.fixtures.waiting import poll

CONFIG = '[encoders]\nfaulty = "own_faulty_encoder:Faulty"\n'
NUM_ACTIONS = 3
PATH = {"PYTHONPATH": str(Path(__file__).parent)}


class Faulty:
    """A server with a bandit whose encoder fails on command, and a healthy one beside it."""

    def __init__(self, server: Server, control: Path) -> None:
        self.server = server
        self.control = control
        self.number = 0
        encoder = {"name": "faulty", "params": {"control": str(control)}}
        self.call("PUT", "/bandits/faulty", spec(policy="neural_linear_ts", encoder=encoder))
        self.call("PUT", "/bandits/healthy", spec(policy="linear_ts"))
        actions = [{"id": f"a{n}", "features": [n, 1.0]} for n in range(NUM_ACTIONS)]
        for name in ("faulty", "healthy"):
            self.call("PUT", f"/bandits/{name}/actions", {"actions": actions})

    def call(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        response: httpx.Response = self.server.http.request(method, path, json=body)
        assert response.status_code in (expect, 201), response.text
        return response.json()

    def select(self, name: str = "faulty") -> str:
        """Make a decision; returns its id."""
        self.number += 1
        body = {"bandit": name, "context": [self.number % 5, 1], "decision_id": f"d{self.number}"}
        return str(self.call("POST", "/select", body)["decision_id"])

    def reward(self, decision_id: str, reward: float = 0.5) -> str:
        """Report a reward; returns its status."""
        return str(
            self.call("POST", "/reward", {"decision_id": decision_id, "reward": reward})["status"]
        )

    def fault(self, kind: str) -> None:
        (self.control / kind).touch()

    def heal(self, kind: str) -> None:
        (self.control / kind).unlink()

    def findings(self, expect: int) -> dict[str, list[str]]:
        """Return the alarms of /learnz by bandit."""
        bandits = self.call("GET", "/learnz", expect=expect)["bandits"]
        return {
            name: [f["name"] for f in state["findings"] if f["severity"] == "alarm"]
            for name, state in bandits.items()
        }

    def learned(self) -> int:
        return int(self.call("GET", "/bandits/faulty")["num_learned"])


def spec(**more: Any) -> dict[str, Any]:
    return {"context": {"shape": [2]}, "action_dim": 2, "seed": 1} | more


@pytest.fixture
def faulty(start_server: Callable[..., Server], tmp_path: Path) -> Faulty:
    config, control = tmp_path / "own.toml", tmp_path / "control"
    config.write_text(CONFIG)
    control.mkdir()
    return Faulty(start_server(None, "--config", config, env=PATH), control)


def test_one_that_fails_once_is_recovered_by_itself(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faulty.reward(faulty.select()) == "applied"
    decisions = [faulty.select() for _ in range(3)]
    faulty.fault("once")
    assert [faulty.reward(decision) for decision in decisions] == ["stored"] * 3
    assert faulty.reward(decisions[0]) == "duplicate", "it is stored"
    assert faulty.findings(503) == {"faulty": ["bandit-failed"], "healthy": []}
    assert faulty.reward(faulty.select("healthy")) == "applied"
    poll(lambda: faulty.learned() == 4, "the stored rewards are learned")
    assert faulty.findings(200) == {"faulty": [], "healthy": []}
    assert faulty.reward(faulty.select()) == "applied"
    metrics = faulty.server.http.get("/metrics").text
    assert "bandexa_recoveries_total 1.0" in metrics
    assert faulty.server.stop() == 0
    monkeypatch.syspath_prepend(PATH["PYTHONPATH"])
    own = {"faulty": "own_faulty_encoder:Faulty"}
    report = verify(Settings(data_dir=faulty.server.data_dir, encoders=own))
    assert [problem for check in report.checks for problem in check.problems] == []


def test_one_that_fails_always_serves_on_until_the_cause_is_gone(faulty: Faulty) -> None:
    assert faulty.reward(faulty.select()) == "applied"
    position = faulty.call("GET", "/bandits/faulty")["position"]
    decisions = [faulty.select() for _ in range(4)]
    faulty.fault("always")
    assert faulty.reward(decisions[0]) == "stored"
    problem = faulty.call("POST", "/bandits/faulty/recover", expect=503)
    assert "it fails always" in problem["detail"]
    (finding,) = faulty.call("GET", "/learnz", expect=503)["bandits"]["faulty"]["findings"]
    assert f"log row {position + 1}" in finding["message"]
    assert "it fails always" in finding["message"]
    assert "1 recoveries failed" in finding["message"]
    assert 'bandexa_failed{bandit="faulty"} 1.0' in faulty.server.http.get("/metrics").text
    assert faulty.call("GET", "/bandits/faulty")["position"] == position
    assert faulty.call("POST", "/bandits/faulty/train?wait=true", expect=503)
    faulty.heal("always")
    decision = faulty.select()  # it selects meanwhile, whether it is recovered or not
    answer = faulty.call("POST", "/bandits/faulty/recover")
    assert answer["position"] == position + 1
    statuses = [faulty.reward(each) for each in (*decisions[1:], decision)]
    assert statuses == ["applied"] * 4
    assert faulty.learned() == 6


def test_features_that_are_not_finite_are_passed_over_and_learning_goes_on(faulty: Faulty) -> None:
    decision = faulty.select()
    faulty.fault("nan")
    assert faulty.reward(decision) == "applied"
    faulty.heal("nan")
    assert faulty.reward(faulty.select()) == "applied"
    assert faulty.findings(200)["faulty"] == []


def test_slow_features_delay_a_reward_and_nothing_else(faulty: Faulty) -> None:
    decisions = [faulty.select() for _ in range(2)]
    faulty.fault("slowly")
    assert [faulty.reward(decision) for decision in decisions] == ["applied"] * 2
    faulty.heal("slowly")
    assert faulty.findings(200)["faulty"] == []


def test_rewards_stored_before_a_kill_are_learned_by_the_next_server(faulty: Faulty) -> None:
    decisions = [faulty.select() for _ in range(3)]
    faulty.fault("always")
    assert [faulty.reward(decision) for decision in decisions] == ["stored"] * 3
    faulty.server.kill()
    faulty.heal("always")
    faulty.server.start()
    assert faulty.learned() == 3


def test_one_that_cannot_be_built_at_the_start_is_set_aside_and_the_others_serve(
    faulty: Faulty,
) -> None:
    decisions = [faulty.select() for _ in range(2)]
    assert faulty.reward(decisions[0]) == "applied"
    faulty.fault("always")
    faulty.server.stop()
    faulty.server.start()
    assert faulty.call("GET", "/readyz")["status"] == "ready"
    assert faulty.reward(faulty.select("healthy")) == "applied"
    body = {"bandit": "faulty", "context": [1, 1]}
    problem = faulty.call("POST", "/select", body, expect=503)
    assert "bandit 'faulty' has failed" in problem["detail"]
    assert faulty.reward(decisions[1]) == "stored"
    assert faulty.findings(503)["faulty"] == ["bandit-failed"]
    assert "bandexa_bandits_set_aside 1.0" in faulty.server.http.get("/metrics").text
    for method, path in (("GET", "/bandits/faulty"), ("PUT", "/bandits/faulty")):
        sent = spec(policy="linear_ts") if method == "PUT" else None
        assert "has failed" in faulty.call(method, path, sent, expect=503)["detail"]
    faulty.heal("always")
    poll(lambda: faulty.server.http.get("/bandits/faulty").is_success, "it is served again")
    assert faulty.learned() == 2
    assert faulty.reward(faulty.select()) == "applied"


def test_one_that_was_set_aside_can_be_deleted(faulty: Faulty) -> None:
    assert faulty.reward(faulty.select()) == "applied"
    faulty.fault("always")
    faulty.server.stop()
    faulty.server.start()
    assert faulty.server.http.delete("/bandits/faulty").status_code == 204
    assert faulty.call("GET", "/learnz")["bandits"].keys() == {"healthy"}
    faulty.call("PUT", "/bandits/faulty", spec(policy="linear_ts"))


def test_a_configuration_that_cannot_be_learned_is_served_by_the_one_before(faulty: Faulty) -> None:
    ids = [faulty.select("healthy") for _ in range(42)]
    for decision_id in ids:
        faulty.reward(decision_id)
    encoder = {"name": "faulty", "params": {"control": str(faulty.control)}}
    wanted = spec(policy="neural_linear_ts", encoder=encoder)
    faulty.fault("always")
    faulty.call("PUT", "/bandits/healthy", wanted)
    # The failing attempt holds up no rebuild without void values, that of the served model.
    void = {"decision_ids": ids[:2], "wait": True}
    voided = faulty.call("POST", "/bandits/healthy/rewards/void", void)
    assert (voided["learned"], voided["unlearning"]) == (2, "none")

    def state() -> Any:
        return faulty.call("GET", "/bandits/healthy")["rebuild"]

    poll(lambda: state()["state"] == "failed", "an attempt that failed")
    assert "it fails always" in state()["error"]
    assert faulty.findings(503)["healthy"] == ["change-failing"]
    assert faulty.reward(faulty.select("healthy")) == "applied"
    faulty.heal("always")
    done = faulty.call("PUT", "/bandits/healthy?wait=true", wanted)
    assert (done["rebuild"]["state"], done["spec"]["policy"]) == ("done", "neural_linear_ts")
    assert (done["num_learned"], faulty.findings(200)["healthy"]) == (41, [])

    faulty.fault("always")
    other = spec(policy="neural_linear_ts", encoder=encoder, seed=5)
    faulty.call("PUT", "/bandits/healthy", other)
    poll(lambda: state()["state"] == "failed", "an attempt that failed")
    taken_back = faulty.call("PUT", "/bandits/healthy", wanted)
    assert taken_back["rebuild"]["state"] == "done"
    assert "change-failing" not in faulty.findings(200)["healthy"]
    faulty.heal("always")
