"""A start that takes long answers health checks, says how far it is, and ends when it is asked to.

A bandit has an encoder of its own, which takes a quarter of a second per row, or for ever.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.servers import Server, StartServer
from tests.fixtures.waiting import poll

NUM_ROWS = 8


class Slow:
    """A server that has rows to recover, and can be made slow."""

    def __init__(self, start: StartServer, folder: Path) -> None:
        config, self.control = folder / "own.toml", folder / "control"
        config.write_text('[encoders]\nfaulty = "own_faulty_encoder:Faulty"\n')
        self.control.mkdir()
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        env = {"PYTHONPATH": path}
        self.server: Server = start(folder / "data", "--config", config, env=env)
        encoder = {"name": "faulty", "params": {"control": str(self.control)}}
        spec = {"policy": "neural_linear_ts", "context": {"shape": [2]}, "encoder": encoder}
        self.call("PUT", "/bandits/b", spec | {"action_dim": 1})
        self.call("PUT", "/bandits/b/actions", {"actions": [{"id": "a", "features": [1.0]}]})
        for number in range(NUM_ROWS):
            body = {"bandit": "b", "context": [number, 1], "decision_id": f"d{number}"}
            self.call("POST", "/select", body)
            self.call("POST", "/reward", {"decision_id": f"d{number}", "reward": 0.5})
        self.server.kill()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.server.http.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def starts(self, how: str) -> Server:
        """Start it with an encoder that is slow, and return when health checks are answered."""
        (self.control / how).touch()
        return self.server.spawn().answering()

    def progress(self) -> int:
        """Return the percentage in /readyz."""
        answer = self.server.http.get("/readyz")
        assert answer.status_code == 503
        found = re.fullmatch(r"recovering (\d+) %", answer.json()["detail"] or "")
        return int(found[1]) if found else 0

    def recovers(self, how: str) -> None:
        """Check that the next start has everything."""
        (self.control / how).unlink(missing_ok=True)
        if not self.server.is_running:
            self.server.spawn()
        self.server.serving()
        assert self.server.http.get("/readyz").json()["status"] == "ready"
        assert self.call("GET", "/bandits/b")["num_learned"] == NUM_ROWS


@pytest.fixture
def slow(start_server: StartServer, tmp_path: Path) -> Slow:
    return Slow(start_server, tmp_path)


def test_a_start_answers_health_checks_and_refuses_the_rest(slow: Slow) -> None:
    http = slow.starts("slowly").http
    assert http.get("/healthz").json()["status"] == "alive"
    assert http.head("/healthz").status_code == 200
    first = poll(slow.progress, "some rows")
    assert 0 < first < 100
    poll(lambda: slow.progress() > first, "more rows")
    for method, path in (("POST", "/select"), ("GET", "/bandits"), ("GET", "/metrics")):
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:bandexa:unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "recovering" in answer.json()["detail"]
    foreign = http.get("/readyz", headers={"origin": "https://elsewhere.example"})
    assert foreign.status_code == 403
    slow.recovers("slowly")


@pytest.mark.parametrize("how", ["slowly", "stuck"])
def test_a_signal_ends_a_start_soon_and_nothing_is_lost(slow: Slow, how: str) -> None:
    """Between two rows, or within one that never ends."""
    server = slow.starts(how)
    poll(lambda: server.http.get("/readyz").json()["detail"] != "opening the database", "rows")
    before = len(server.log_text())
    server.process.terminate()
    assert server.process.wait(10) == 0  # of 600 s
    assert server.wait() == 0
    lines = server.log_text()[before:]
    assert "critical" not in lines
    assert '"level":"error"' not in lines
    assert "Traceback" not in lines
    slow.recovers(how)
