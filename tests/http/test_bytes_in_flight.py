"""All bodies under way share a budget of bytes; a body beyond it is refused before it is read."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.waiting import poll

MB = 1 << 20
BODY = b'{"bandit": "b", "context": [1, 2]}'


@pytest.fixture(scope="module")
def http(start_module_server, api_of) -> Iterator[httpx.Client]:
    """A client of a server with a budget of 4 MB, and bodies up to 2 MB."""
    server = start_module_server(
        env={
            "BANDEXA_MAX_BODY_BYTES": str(2 * MB),
            "BANDEXA_MAX_BYTES_IN_FLIGHT": str(4 * MB),
            "BANDEXA_MAX_SNAPSHOT_BYTES": str(3 * MB),
        }
    )
    with server.client() as client:
        api_of(client).two_actions(name="b")
        yield client


def begin(http: httpx.Client, announced: int, path: str = "/select") -> socket.socket:
    """Begin a request and send nothing of its body."""
    url = urlsplit(str(http.base_url))
    method = "PUT" if path.endswith("snapshot") else "POST"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {announced}\r\n\r\n"
    )
    peer = socket.create_connection((str(url.hostname), url.port or 80), timeout=30)
    peer.sendall(head.encode())
    return peer


@contextmanager
def held(http: httpx.Client, sizes: Sequence[int], probe: Callable[[], int], path: str = "/select"):
    """Hold the budget with unfinished requests until a probe is refused.

    A probe takes some of the budget itself, so that one of them may be refused and begins again.
    """
    with ExitStack() as stack:
        peers = [stack.enter_context(begin(http, size, path)) for size in sizes]

        def is_full() -> bool:
            refused = select.select(peers, [], [], 0)[0]
            for peer in refused:
                place = peers.index(peer)
                peers[place] = stack.enter_context(begin(http, sizes[place], path))
            return probe() == 503

        poll(is_full, "a full budget")
        yield


def large(http: httpx.Client, path: str = "/select", *, chunked: bool = False) -> httpx.Response:
    parts = [BODY, *[b" " * 65536] * 16]
    content = iter(parts) if chunked else b"".join(parts)
    return http.post(path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_beyond_the_budget_a_body_is_503_at_once_and_small_ones_pass(
    http, api_of, problem, chunked: bool
) -> None:
    assert large(http, chunked=chunked).status_code == 200
    with held(http, [2 * MB - 100] * 2, lambda: large(http).status_code):
        for path in ("/select", "/reward/batch", "/bandits/b/score"):
            refused = large(http, path, chunked=chunked)
            assert "max_bytes_in_flight" in problem(refused, 503, "unavailable")["detail"]
            assert int(refused.headers["retry-after"]) >= 1
        with begin(http, 2 * MB) as unread:
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
    content = b" " * (2 * MB)
    with held(http, [2 * MB], lambda: http.put(path, content=content).status_code, path):
        refused = http.put(path, content=content)
        assert "max_snapshot_bytes" in problem(refused, 503, "unavailable")["detail"]
        assert large(http).status_code == 200
    poll(lambda: http.put(path, content=content).status_code == 422, "room again")
