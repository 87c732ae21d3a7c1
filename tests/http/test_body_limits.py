"""Bodies above the limits are refused with 413, announced or not, and the server goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

LIMIT = 4096
SNAPSHOT_LIMIT = 65536
CHUNK = 1000
PATHS = [
    ("POST", "/select"),
    ("POST", "/reward"),
    ("POST", "/select/batch"),
    ("POST", "/reward/batch"),
    ("PUT", "/bandits/any"),
    ("PUT", "/bandits/snapshot"),
    ("PUT", "/bandits/any/actions"),
    ("POST", "/bandits/any/score"),
]


def chunks(size: int) -> Iterator[bytes]:
    """Yield `size` bytes of an endless JSON list, a chunk at a time."""
    yield b"["
    for _ in range((size - 1) // CHUNK):
        yield b" " * CHUNK
    yield b" " * ((size - 1) % CHUNK)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_a_body_above_the_limit_is_413(
    configured, problem, kind: str, method: str, path: str, announced: bool
) -> None:
    for size in (LIMIT + 1, 3 * LIMIT):
        content = b"".join(chunks(size)) if announced else chunks(size)
        headers = {"content-type": f"application/{kind}"}
        response = configured.http.request(method, path, content=content, headers=headers)
        assert ("content-length" in response.request.headers) is announced
        assert str(LIMIT) in problem(response, 413, "too-large")["detail"]
    assert configured.call("GET", "/healthz")["status"] == "alive"


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_body_of_just_the_limit_is_read(configured, problem, announced: bool) -> None:
    content = b"".join(chunks(LIMIT)) if announced else chunks(LIMIT)
    headers = {"content-type": "application/json"}
    response = configured.http.post("/select", content=content, headers=headers)
    problem(response, 422, "invalid-request", "body")


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_snapshot_has_a_separate_limit(configured, problem, announced: bool) -> None:
    name = configured.two_actions()
    before = configured.state(name)
    path = f"/bandits/{name}/snapshot"
    for size, status, kind in (
        (LIMIT + 1, 422, "invalid-request"),
        (SNAPSHOT_LIMIT, 422, "invalid-request"),
        (SNAPSHOT_LIMIT + 1, 413, "too-large"),
    ):
        content = b"".join(chunks(size)) if announced else chunks(size)
        problem(configured.http.put(path, content=content), status, kind)
    assert configured.state(name) == before
    data = configured.http.get(path).content
    assert configured.http.put(path, content=data).status_code == 200


def test_an_absurd_announcement_is_refused_before_a_byte_of_it_is_sent(configured) -> None:
    url = urlsplit(str(configured.http.base_url))
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port or 80), timeout=20) as connection:
        connection.sendall(
            b"POST /select HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999999999999\r\n\r\n"
        )
        assert connection.recv(4096).startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))
    assert configured.call("GET", "/healthz")["status"] == "alive"


def test_a_client_that_disconnects_within_its_body_disturbs_no_other(configured) -> None:
    url = urlsplit(str(configured.http.base_url))
    assert url.hostname is not None
    for _ in range(5):
        with socket.create_connection((url.hostname, url.port or 80), timeout=20) as connection:
            connection.sendall(
                b"POST /select HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 500\r\n\r\n{"
            )
    assert configured.call("GET", "/readyz")["status"] == "ready"
