"""All bodies under way share a budget of bytes; a body beyond it is refused before it is read."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.waiting import poll

MB = 1 << 20
BODY = b'{"bandit": "b", "context": [1, 2]}'


@pytest.fixture(scope="module")
def http(start_session_server, api_of) -> Iterator[httpx.Client]:
    """A client of a server with a budget of 4 MB, and bodies up to 2 MB."""
    server = start_session_server(
        env={
            "BANDEXA_MAX_BODY_BYTES": str(2 * MB),
            "BANDEXA_MAX_BYTES_IN_FLIGHT": str(4 * MB),
            "BANDEXA_MAX_SNAPSHOT_BYTES": str(3 * MB),
        }
    )
    with server.client() as client:
        api_of(client).two_actions(name="b")
        yield client


def begin(
    http: httpx.Client, announced: int | None, sent: int, path: str = "/select"
) -> socket.socket:
    """Begin a request and leave it unfinished."""
    url = urlsplit(str(http.base_url))
    length = "Transfer-Encoding: chunked" if announced is None else f"Content-Length: {announced}"
    method = "PUT" if path.endswith("snapshot") else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\n{length}\r\n\r\n"
    peer = socket.create_connection((str(url.hostname), url.port or 80), timeout=30)
    body = b" " * sent
    peer.sendall(head.encode() + (b"%x\r\n%s\r\n" % (sent, body) if announced is None else body))
    return peer


def large(http: httpx.Client, path: str = "/select") -> httpx.Response:
    content = BODY + b" " * MB
    return http.post(path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize("announced", [2 * MB, None], ids=["announced", "chunked"])
def test_beyond_the_budget_a_body_is_503_at_once_and_small_ones_pass(
    http, api_of, problem, announced: int | None
) -> None:
    assert large(http).status_code == 200
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(begin(http, announced, 2 * MB - 100))
        poll(lambda: large(http).status_code == 503, "a full budget")
        for path in ("/select", "/reward/batch", "/bandits/b/score"):
            refused = large(http, path)
            assert "max_bytes_in_flight" in problem(refused, 503, "unavailable")["detail"]
            assert int(refused.headers["retry-after"]) >= 1
        unread = stack.enter_context(begin(http, 2 * MB, 0))
        assert unread.recv(100).startswith(b"HTTP/1.1 503 ")  # before any of it is sent
        api_of(http).teach("b", [1, 0], "x", 1.0)
        data = http.get("/bandits/b/snapshot").content
        assert http.put("/bandits/b/snapshot", content=data).status_code == 200
    poll(lambda: large(http).status_code == 200, "room after the others have gone")


def test_refused_bodies_give_their_bytes_back(http) -> None:
    wrong = b'{"bandit": "b", "context": [' + b"1," * (MB // 2) + b"1]}"
    headers = {"content-type": "application/json"}
    for _ in range(8):
        for path in ("/select", "/select/batch", "/bandits/b/score"):
            assert http.post(path, content=wrong, headers=headers).status_code == 422
        assert http.put("/bandits/c", content=wrong, headers=headers).status_code == 413
        assert http.post("/select", content=wrong).status_code == 415
    assert large(http).status_code == 200


def test_imports_share_a_budget_of_their_own(http, problem) -> None:
    path = "/bandits/b/snapshot"
    with begin(http, 2 * MB, 100, path):
        content = b" " * (2 * MB)
        poll(lambda: http.put(path, content=content).status_code == 503, "a full budget")
        refused = http.put(path, content=content)
        assert "max_snapshot_bytes" in problem(refused, 503, "unavailable")["detail"]
        assert large(http).status_code == 200
    poll(lambda: http.put(path, content=content).status_code == 422, "room again")
