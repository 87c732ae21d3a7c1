"""The end of a server: first it reports that it is not ready, then requests under way have time."""

from __future__ import annotations

import signal
import socket
from typing import Any
from urllib.parse import urlsplit

from tests.fixtures.servers import Server, StartServer
from tests.fixtures.waiting import poll

LINEAR: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"},
}  # fmt: skip


def test_a_server_serves_while_it_drains_and_a_second_signal_ends_that(
    start_server: StartServer,
) -> None:
    server: Server = start_server(env={"BANDEXA_DRAIN_S": "600"})
    http = server.http
    assert http.put("/bandits/b", json=LINEAR).status_code == 201
    assert http.put("/bandits/b/actions", json={"actions": [{"id": "a"}]}).is_success
    assert http.get("/readyz").status_code == 200
    server.process.terminate()
    poll(lambda: http.get("/readyz").status_code == 503, "the drain")
    assert http.get("/readyz").json()["detail"] == "the server was asked to end"
    assert http.get("/healthz").status_code == 200
    with server.client() as another:  # new connections are accepted, too
        answer = another.post("/select", json={"bandit": "b", "context": [1, 2]})
        assert answer.status_code == 200
        decision = answer.json()["decision_id"]
        answer = another.post("/reward", json={"decision_id": decision, "reward": 1.0})
        assert answer.json()["status"] == "applied"
    server.process.terminate()
    assert server.wait() == 0


def test_two_signals_at_once_end_the_drain(start_server: StartServer) -> None:
    server = start_server(env={"BANDEXA_DRAIN_S": "600"})
    server.signal(signal.SIGINT)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_a_request_that_never_ends_does_not_outlast_the_grace_time(
    start_server: StartServer,
) -> None:
    server: Server = start_server(env={"BANDEXA_GRACE_S": "0.5"})
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=20) as connection:
        connection.sendall(
            b"POST /select HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        )
        # A later request is answered only once the server has read the head of this one.
        assert server.http.get("/healthz").status_code == 200
        assert server.stop() == 0
        assert connection.recv(100) == b""
    assert "1 connections were still open after the grace time" in server.log_text()
    assert '"level":"error"' not in server.log_text()
